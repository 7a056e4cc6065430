# SPDX-License-Identifier: Apache-2.0
"""Documents from TensorFlow Datasets, by name."""

import pytest

from data_pipeline.corpora import CorpusOptions, find_sources
from data_pipeline.documents import read_documents
from data_pipeline.errors import DataError, UsageError

# TFDS calls parts of protobuf that are going away.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(name: str, **options: str) -> list[list[str]]:
    corpus = CorpusOptions(name, **options)
    return [document.sentences for document in read_documents(find_sources(corpus), corpus)]


@pytest.fixture(scope="module")
def tfds_data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text dataset of two splits, made with TFDS itself."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    texts = {"train": ["The cat sat. It was warm.\nThe end.", "A king.", ""], "test": ["Held out."]}
    directory = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_text",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "text": tfds.features.Text(),
                "title": tfds.features.Text(),
                "label": tfds.features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(
                {"text": members, "title": ["T."] * len(members), "label": [0] * len(members)}
            )
            for split, members in texts.items()
        },
        data_dir=directory,
        disable_shuffling=True,
    )
    return str(directory)


TRAIN = [["The cat sat.", "It was warm.", "The end."], ["A king."], []]


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("tfds:tiny_text", TRAIN),
        ("tfds:tiny_text:train", TRAIN),
        ("tfds:tiny_text:1.0.0", TRAIN),
        ("tfds:tiny_text:1.0.0:test", [["Held out."]]),
        ("tfds:tiny_text:train[:1]", TRAIN[:1]),
    ],
)
def test_tfds_datasets_are_read_by_name(
    tfds_data_dir: str, name: str, documents: list[list[str]]
) -> None:
    assert read(name, tfds_data_dir=tfds_data_dir) == documents
    (source,) = find_sources(CorpusOptions(name, tfds_data_dir=tfds_data_dir))
    assert source.format == "tfds" and source.bytes > 0


def test_tfds_fields_are_chosen_by_name(tfds_data_dir: str) -> None:
    assert read("tfds:tiny_text:test", tfds_data_dir=tfds_data_dir, text_field="title") == [["T."]]
    for field in ("body", "label"):
        with pytest.raises(DataError, match=rf"no text field '{field}' \(fields: .*title"):
            read("tfds:tiny_text", tfds_data_dir=tfds_data_dir, text_field=field)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:no_such_text", "TensorFlow Datasets knows no dataset no_such_text"),
        ("tfds:tiny_text:9.9.9", "tiny_text:9.9.9"),
        ("tfds:tiny_text:dev", r"tiny_text has no split 'dev' \(splits: .*train"),
    ],
)
def test_unknown_tfds_names_are_refused(tfds_data_dir: str, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_sources(CorpusOptions(name, tfds_data_dir=tfds_data_dir))
    with pytest.raises(UsageError, match="is not of the form"):
        find_sources(CorpusOptions("tfds:"))
