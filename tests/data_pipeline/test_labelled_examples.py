# SPDX-License-Identifier: Apache-2.0
"""Examples of labelled rows against the original's own way of making them."""

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.labelled.classification import (
    choice_examples,
    class_targets,
    find_labels,
    number_targets,
    text_examples,
)
from data_pipeline.labelled.examples import assemble, at_places, truncate_pair
from data_pipeline.labelled.tables import Table
from data_pipeline.special_tokens import SPECIAL_NAMES, SpecialTokens
from data_pipeline.tokenizers import load_tokenizer

SPECIAL = SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4)
LENGTH = 16


def original_features(tokens_a, tokens_b, max_seq_length):
    """`convert_single_example` of run_classifier.py, with ids in place of tokens."""
    tokens_a, tokens_b = list(tokens_a), None if tokens_b is None else list(tokens_b)
    if tokens_b is not None:
        while len(tokens_a) + len(tokens_b) > max_seq_length - 3:
            (tokens_a if len(tokens_a) > len(tokens_b) else tokens_b).pop()
    elif len(tokens_a) > max_seq_length - 2:
        tokens_a = tokens_a[0 : (max_seq_length - 2)]
    tokens, segment_ids = [SPECIAL.cls], [0]
    for token in tokens_a:
        tokens.append(token)
        segment_ids.append(0)
    tokens.append(SPECIAL.sep)
    segment_ids.append(0)
    if tokens_b is not None:
        for token in tokens_b:
            tokens.append(token)
            segment_ids.append(1)
        tokens.append(SPECIAL.sep)
        segment_ids.append(1)
    input_mask = [1] * len(tokens)
    while len(tokens) < max_seq_length:
        tokens.append(0)
        input_mask.append(0)
        segment_ids.append(0)
    return tokens, input_mask, segment_ids


def random_pairs(count, seed=0):
    random = np.random.default_rng(seed)

    def text():
        return random.integers(5, 100, random.integers(1, 20)).tolist()

    return [(text(), text() if random.random() < 0.5 else None) for _ in range(count)]


def test_every_example_is_the_original_one():
    pairs = random_pairs(300)
    examples = assemble(pairs, SPECIAL, LENGTH, {})
    assert len(examples) == 300
    batch = examples.batch(np.arange(300), LENGTH)
    for row, (a, b) in enumerate(pairs):
        expected = original_features(a, b, LENGTH)
        found = [batch[name][row].tolist() for name in ("input_ids", "input_mask", "segment_ids")]
        assert found == list(expected), (a, b)


def test_what_stays_of_a_pair_is_what_the_original_leaves():
    for left in range(0, 12):
        for right in range(0, 12):
            a, b = list(range(left)), list(range(right))
            while len(a) + len(b) > 9:
                (a if len(a) > len(b) else b).pop()
            assert truncate_pair(range(left), range(right), 9) == (len(a), len(b))


def test_a_batch_is_as_long_as_its_longest_row_needs():
    pairs = [([9] * 3, None), ([9] * 40, None), ([9] * 90, None)]
    examples = assemble(pairs, SPECIAL, 80, {"label": np.array([0, 1, 2], np.int32)})
    assert examples.padded_length(np.array([0])) == 32
    assert examples.padded_length(np.array([0, 1])) == 64
    assert examples.padded_length(np.array([2, 0])) == 80
    short = examples.batch(np.array([1, 0]), 64)
    whole = examples.batch(np.array([1, 0]), 80)
    assert short["label"].tolist() == [1, 0]
    for name in ("input_ids", "input_mask", "segment_ids"):
        np.testing.assert_array_equal(short[name], whole[name][:, :64])
        assert not whole[name][:, 64:].any()
        assert short[name].dtype == np.int32


def test_targets_of_tokens_are_cut_with_the_tokens():
    tags = np.arange(160).reshape(2, 80)
    examples = assemble([([9] * 3, None)] * 2, SPECIAL, 80, {"tags": tags})
    batch = examples.batch(np.array([1]), 32)
    np.testing.assert_array_equal(batch["tags"], tags[1:, :32])


def test_an_epoch_sees_every_example_once_and_the_next_one_in_another_order():
    places = np.arange(2 * 50)
    order = at_places(places, 50, seed=3)
    first, second = order[:50], order[50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))
    assert at_places(places, 50, seed=4).tolist() != order.tolist()
    np.testing.assert_array_equal(at_places(places[37:61], 50, seed=3), order[37:61])


def test_the_fingerprint_follows_tokens_labels_and_boundaries():
    def fingerprint(pairs, labels, length=16):
        return assemble(pairs, SPECIAL, length, {"label": np.array(labels, np.int32)}).fingerprint

    same = fingerprint([([5, 6], None), ([7], None)], [0, 1])
    assert same == fingerprint([([5, 6], None), ([7], None)], [0, 1])
    assert same != fingerprint([([5, 6], None), ([7], None)], [0, 0])
    assert same != fingerprint([([5, 6], None), ([8], None)], [0, 1])
    assert same != fingerprint([([5], [6]), ([7], None)], [0, 1])
    assert same != fingerprint([([5, 6], None), ([7], None)], [0, 1], length=17)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_NAMES, *"abcdefgh"]) + "\n")
    return load_tokenizer(path)


def ids(text):
    return [len(SPECIAL_NAMES) + "abcdefgh".index(letter) for letter in text.split()]


def table(*rows):
    columns = tuple(rows[0])
    return Table("rows.tsv", columns, [dict(row) for row in rows])


def test_rows_become_texts_and_pairs(tokenizer):
    rows = table({"one": "a b", "two": "c"}, {"one": "d", "two": ""})
    single = text_examples(rows, tokenizer, length=8, text_a="one", targets={})
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    batch = single.batch(np.arange(2), 8)
    assert batch["input_ids"][0].tolist() == [cls, *ids("a b"), sep, 0, 0, 0, 0]
    pairs = text_examples(rows, tokenizer, length=8, text_a="one", text_b="two", targets={})
    batch = pairs.batch(np.arange(2), 8)
    assert batch["input_ids"][0].tolist() == [cls, *ids("a b"), sep, *ids("c"), sep, 0, 0]
    assert batch["segment_ids"][1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_a_multiple_choice_row_is_one_sequence_an_ending(tokenizer):
    row = {"context": "a b", "stem": "c", "e0": "d", "e1": "e f"}
    examples = choice_examples(
        table(row, row | {"e1": "g"}),
        tokenizer,
        length=12,
        text_a="context",
        text_b="stem",
        choices=("e0", "e1"),
        targets={"label": np.array([1, 0], np.int32)},
    )
    assert len(examples) == 2
    batch = examples.batch(np.array([1, 0]), 12)
    assert batch["input_ids"].shape == (2, 2, 12)
    assert batch["label"].tolist() == [0, 1]
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    for row, choice, ending in ((0, 0, "d"), (0, 1, "g"), (1, 0, "d"), (1, 1, "e f")):
        sequence = batch["input_ids"][row, choice]
        expected = [cls, *ids("a b"), sep, *ids("c " + ending), sep]
        assert sequence[: len(expected)].tolist() == expected
        assert not sequence[len(expected) :].any()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"one": " ", "two": "c"}, {}, "rows.tsv, row 2, column 'one': no text"),
        ({"one": "", "two": ""}, {"text_b": "two"}, "row 2, columns 'one' and 'two': no text"),
        ({"one": "a", "two": "b"}, {"text_b": "three"}, "has no column 'three'"),
    ],
)
def test_rows_without_text_and_columns_that_are_not_there(tokenizer, row, options, message):
    rows = table({"one": "a", "two": "b"}, row)
    with pytest.raises(DataError, match=message):
        text_examples(rows, tokenizer, length=8, text_a="one", targets={}, **options)


@pytest.mark.parametrize(("column", "row"), [("context", 0), ("e1", 1)])
def test_a_choice_without_text_is_named(tokenizer, column, row):
    rows = [{"context": "a", "e0": "b", "e1": "c"} for _ in range(2)]
    rows[row][column] = ""
    with pytest.raises(DataError, match=f"row {row + 1}, column '{column}': no text"):
        choice_examples(
            table(*rows),
            tokenizer,
            length=8,
            text_a="context",
            text_b="",
            choices=("e0", "e1"),
            targets={},
        )


def test_labels_are_found_in_alphabetical_order():
    rows = table({"label": "b"}, {"label": "a"}, {"label": "b"})
    assert find_labels(rows, "label") == ("a", "b")
    assert class_targets(rows, "label", ("b", "a"))["label"].tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="row 2, column 'label': no label"):
        find_labels(table({"label": "b"}, {"label": ""}), "label")
    with pytest.raises(DataError, match="holds 1 different labels; expected 2 to 1000"):
        find_labels(table({"label": "b"}), "label")


def test_numbers_are_read_as_numbers():
    assert number_targets(table({"y": "1.5"}, {"y": "-2"}), "y")["label"].tolist() == [1.5, -2.0]
    for wrong in ("", "high", "nan", "inf"):
        with pytest.raises(DataError, match="row 2, column 'y': .* is no number"):
            number_targets(table({"y": "1"}, {"y": wrong}), "y")
