# SPDX-License-Identifier: Apache-2.0
"""Full sentences are packed as RoBERTa describes it: against packing one sentence at a time."""

import numpy as np
import pytest

from data_pipeline import packing as packing_module
from data_pipeline.batch import NO_LABEL, BatchSpec, validate
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.packing import Packing, assemble_packs
from data_pipeline.source import ExampleOptions, ExampleStream
from data_pipeline.store import Split
from data_pipeline.walk import CHECKPOINT
from tests.data_pipeline.splits import (
    SPECIAL,
    documents_of,
    random_split,
    split_of,
    unmasked,
    vocab_size_of,
)

SPLITS = {
    "usual": random_split(0, 60, 12, 9),
    "one token": split_of([[1]]),
    "one-token documents": split_of([[1]] * 100),
    "one document": split_of([[7] * 200]),
    "sentences longer than a row": split_of([[200, 3, 500], [90], [1000], [14, 14, 13, 62, 61]]),
    "documents that fill a row": split_of([[6, 8], [14], [7, 7], [1], [13], [12]]),
}


def rows_one_by_one(split: Split, length: int, section: int) -> list[list[int]]:
    """The rows without padding, sentence by sentence as the paper says."""
    rows: list[list[int]] = []
    row = [SPECIAL.cls]
    token, section_stop = 0, section

    def finish() -> None:
        nonlocal row
        if len(row) > 1:
            rows.append(row if row[-1] == SPECIAL.sep else [*row, SPECIAL.sep])
        row = [SPECIAL.cls]

    for document in documents_of(split):
        if row[-1] not in (SPECIAL.cls, SPECIAL.sep):
            row.append(SPECIAL.sep)
        for sentence in document:
            if token >= section_stop:
                finish()
                section_stop = -(-(token + 1) // section) * section
            token += len(sentence)
            rest = list(sentence)
            if len(row) + len(rest) + 1 > length:
                finish()
            while len(rest) + 2 > length:
                rows.append([SPECIAL.cls, *rest[: length - 2], SPECIAL.sep])
                rest = rest[length - 2 :]
            row += rest
    finish()
    return rows


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("length", [3, 16, 64])
@pytest.mark.parametrize("section", [100, 1 << 17])
def test_rows_hold_the_sentences_that_fit(
    name: str, length: int, section: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_module, "SECTION_TOKENS", section)
    monkeypatch.setattr(packing_module, "_SECTIONS_TOGETHER", 3)
    split = SPLITS[name]
    expected = rows_one_by_one(split, length, section)
    packing = Packing(split, length)
    kept, rows = packing.pass_starts(0)
    assert rows == len(expected)
    chunk = np.arange(rows)
    packs = packing.find(0 * chunk, kept[chunk // CHECKPOINT], chunk % CHECKPOINT)
    assert packs.start[0] == 0 and packs.stop[-1] == len(split.tokens)
    np.testing.assert_array_equal(packs.start[1:], packs.stop[:-1])
    batch = assemble_packs(split, packs, split.tokens, packs.start, SPECIAL, length)
    found = [
        ids[:used].tolist()
        for ids, used in zip(batch["input_ids"], batch["input_mask"].sum(axis=1), strict=True)
    ]
    assert found == expected
    assert np.all(batch["input_ids"][batch["input_mask"] == 0] == SPECIAL.pad)


def make_stream(split: Split, length: int, **options: object) -> ExampleStream:
    return ExampleStream(
        split,
        SPECIAL,
        vocab_size_of(split),
        length=length,
        seed=0,
        options=ExampleOptions(pairs="none", **options),  # type: ignore[arg-type]
    )


def test_an_epoch_holds_every_token_once_in_another_order_with_other_masks() -> None:
    split = SPLITS["usual"]
    stream = make_stream(split, 32)
    epochs = [
        stream.batch(epoch * stream.examples + np.arange(stream.examples)) for epoch in (0, 7)
    ]
    for batch in epochs:
        validate(batch, BatchSpec(stream.examples, 32), vocab_size_of(split))
        words = unmasked(batch)[unmasked(batch) > SPECIAL.mask]
        np.testing.assert_array_equal(np.sort(words), np.sort(split.tokens))
        assert not batch["segment_ids"].any()
        assert np.all(batch["next_sentence_label"] == NO_LABEL)
    first, other = (unmasked(batch)[:, 1] for batch in epochs)
    assert sorted(first) == sorted(other) and np.mean(first == other) < 0.05
    order, back = np.argsort(first), np.argsort(other)
    masks = [
        batch["masked_positions"][rows] for batch, rows in zip(epochs, (order, back), strict=True)
    ]
    assert np.mean(np.all(masks[0] == masks[1], axis=1)) < 0.05


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="length 2 is too short, examples need 3 tokens"):
        make_stream(SPLITS["usual"], 2)
    split = split_of([[5, 5], [5, 5]])
    for name in ("sentence_offsets", "document_offsets"):
        damaged = getattr(split, name).copy()
        damaged[1] = damaged[2]
        arrays = {
            "sentence_offsets": split.sentence_offsets,
            "document_offsets": split.document_offsets,
        }
        with pytest.raises(DataError, match="do not start one after the other"):
            make_stream(Split(split.tokens, **arrays | {name: damaged}), 16)
