# SPDX-License-Identifier: Apache-2.0
"""Rows of labelled files, and what is said about files that cannot be used."""

import json

import pytest

from data_pipeline.errors import DataError
from data_pipeline.labelled.tables import class_numbers, read_table

ROWS = [
    {"id": "7", "text": 'He said "no', "label": "a"},
    {"id": "8", "text": "two, three", "label": "b"},
]


def write(path, text):
    path.write_text(text, "utf-8", newline="")
    return str(path)


def test_the_three_formats_hold_the_same_rows(tmp_path):
    tab = "id\ttext\tlabel\r\n" + "".join("\t".join(row.values()) + "\r\n" for row in ROWS)
    comma = 'id,text,label\n7,"He said ""no",a\n8,"two, three",b\n'
    lines = "".join(json.dumps(row | {"id": int(row["id"])}) + "\n" for row in ROWS)
    for name, text in (("x.tsv", tab), ("x.csv", comma), ("x.jsonl", lines)):
        table = read_table("files", write(tmp_path / name, text))
        assert table.rows == ROWS, name
        assert table.columns == ("id", "text", "label"), name


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "x.tsv", "\ufefftext\tlabel\nword\t1\n")
    assert read_table("files", path).columns == ("text", "label")


def test_a_csv_field_may_hold_lines_and_be_long(tmp_path):
    text = "word\n" * 100_000
    path = write(tmp_path / "x.csv", f'text,label\n"{text}",1\n')
    assert read_table("files", path).rows == [{"text": text, "label": "1"}]


def test_a_tab_separated_row_ends_at_its_line_only(tmp_path):
    path = write(tmp_path / "x.tsv", "text\tlabel\nform\u2028feed\x0b\t1\n")
    assert read_table("files", path).rows == [{"text": "form\u2028feed\x0b", "label": "1"}]


def test_values_of_json_become_text(tmp_path):
    lines = '{"text": "a", "label": null}\n\n{"text": "b", "label": true, "score": 1.5}\n'
    table = read_table("files", write(tmp_path / "x.jsonl", lines))
    assert table.rows == [
        {"text": "a", "label": "", "score": ""},
        {"text": "b", "label": "true", "score": "1.5"},
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.tsv", "text\tlabel\nword\n", "row 1 has 1 fields, the first line names 2 columns"),
        ("x.tsv", "text\ttext\nword\t1\n", "a column's name stands twice"),
        ("x.tsv", "text\tlabel\n", "holds no rows"),
        ("x.tsv", "", "holds no rows"),
        ("x.csv", 'text,label\n"word,1\n', "is no proper CSV"),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("x.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("x.jsonl", '{"text": ["a"]}\n', "'text' holds no plain value"),
        ("x.txt", "text\n", "ends in .tsv, .csv or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(DataError, match=message) as caught:
        read_table("files", path)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_or_not_utf8_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.tsv cannot be read: No such file"):
        read_table("files", str(tmp_path / "absent.tsv"))
    (tmp_path / "latin.tsv").write_bytes("text\tlabel\ncafé\t1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.tsv is not UTF-8"):
        read_table("files", str(tmp_path / "latin.tsv"))


def test_a_column_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    table = read_table("files", write(tmp_path / "x.tsv", "text\tlabel\nword\t1\n"))
    with pytest.raises(DataError, match=r"has no column 'sentence' \(columns: text, label\)"):
        table.column("sentence")


def test_a_label_that_is_not_in_the_set_is_named_with_its_row(tmp_path):
    path = write(tmp_path / "x.tsv", "text\tlabel\none\tyes\ntwo\tmaybe\nthree\t\n")
    table = read_table("files", path)
    assert class_numbers(table, "label", ["maybe", "", "yes"]) == [2, 0, 1]
    with pytest.raises(DataError, match=r"row 2, column 'label': the label 'maybe' is not in"):
        class_numbers(table, "label", ["no", "yes"])
    with pytest.raises(DataError, match=r"row 3, column 'label': no label \(maybe, yes\)"):
        class_numbers(table, "label", ["maybe", "yes"])


@pytest.fixture(scope="module")
def glue_like(tmp_path_factory):
    """A data set with GLUE's features, made with TFDS itself."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tfds")
    rows = {"sentence": ["Good film.", "Bad film."], "label": [1, 0], "idx": [0, 1]}
    hidden = {"sentence": ["A film."], "label": [-1], "idx": [0]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_glue",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "sentence": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["negative", "positive"]),
                "idx": tf.int32,
            }
        ),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(rows),
            "test": tf.data.Dataset.from_tensor_slices(hidden),
        },
        data_dir=directory,
        disable_shuffling=True,
    )
    return str(directory)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_of_tfds_have_their_labels_by_name(glue_like):
    train = read_table("tiny_glue", "train", tfds_data_dir=glue_like)
    assert train.rows == [
        {"sentence": "Good film.", "label": "positive", "idx": "0"},
        {"sentence": "Bad film.", "label": "negative", "idx": "1"},
    ]
    test = read_table("tiny_glue", "test", tfds_data_dir=glue_like)
    assert test.rows == [{"sentence": "A film.", "label": "", "idx": "0"}]
    with pytest.raises(DataError, match="has no split 'dev'"):
        read_table("tiny_glue", "dev", tfds_data_dir=glue_like)
