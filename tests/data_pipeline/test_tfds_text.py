# SPDX-License-Identifier: Apache-2.0
"""Documents from TensorFlow Datasets, by name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline import corpora
from data_pipeline.corpora import CorpusOptions, cut_units, find_sources
from data_pipeline.documents import read_piece
from data_pipeline.errors import DataError, UsageError
from tests.data_pipeline.corpus import read_corpus

# TFDS calls parts of protobuf that are going away.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(name: str, **options: str) -> list[list[str]]:
    corpus = CorpusOptions(name, **options)
    return read_corpus(corpus)


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


WIKI40B = (
    "\n_START_ARTICLE_\nThe cat\n_START_PARAGRAPH_\nThe cat sat. It was warm._NEWLINE_It slept."
    "\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\nA king went home."
)


@pytest.fixture(scope="module")
def wiki_data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An article with the features and the marks of Wiki-40B, in ArrayRecord files."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("wiki")
    names = ("text", "version_id", "wikidata_id")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="wiki40b",
        version="1.3.0",
        config="en",
        features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(
                {name: [WIKI40B if name == "text" else "1"] * 2 for name in names}
            )
        },
        data_dir=directory,
        disable_shuffling=True,
        file_format="array_record",
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
        ("tfds:tiny_text:train[1:]+test", [*TRAIN[1:], ["Held out."]]),
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


@pytest.mark.parametrize("unit", [1, 130, 10_000])
def test_units_of_a_dataset_are_the_whole_of_it(
    tfds_data_dir: str, monkeypatch: pytest.MonkeyPatch, unit: int
) -> None:
    monkeypatch.setattr(corpora, "_UNIT_BYTES", (unit, unit))
    corpus = CorpusOptions("tfds:tiny_text:train+test[:50%]+train", tfds_data_dir=tfds_data_dir)
    units = cut_units(find_sources(corpus), tfds_data_dir)
    pieces = [piece for unit in units for piece in unit.pieces]
    assert len(pieces) == {1: 6, 130: 3, 10_000: 1}[unit]
    read = [document.sentences for piece in pieces for document in read_piece(piece, corpus)]
    assert read == TRAIN + TRAIN


def test_wiki40b_is_freed_of_its_marks_and_headings(wiki_data_dir: str) -> None:
    expected = [["The cat sat.", "It was warm.", "It slept.", "A king went home."]]
    assert read("tfds:wiki40b/en", tfds_data_dir=wiki_data_dir) == expected * 2
    assert read("tfds:wiki40b/en:train[1:]", tfds_data_dir=wiki_data_dir) == expected


def test_a_download_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    monkeypatch.setattr(downloader, "MAX_RETRIES", 0)

    class UnreachableText(tfds.core.GeneratorBasedBuilder):
        """A dataset whose file is on a port of this machine where nobody answers."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
            return {"train": self._generate_examples(dl_manager.download("http://127.0.0.1:9/x"))}

        def _generate_examples(self, path: str) -> Iterator[tuple[int, dict]]:
            yield 0, {"text": path}

    with pytest.raises(DataError, match="could not get unreachable_text(.|\n)*--tfds_data_dir"):
        find_sources(CorpusOptions("tfds:unreachable_text", tfds_data_dir=str(tmp_path)))
