# SPDX-License-Identifier: Apache-2.0
"""The walk covers each document as the original's does, and finds any chunk again."""

import numpy as np
import pytest

from data_pipeline import walk as walk_module
from data_pipeline.store import Split
from data_pipeline.walk import CHECKPOINT, Walk, section_offsets
from tests.data_pipeline.splits import random_split, split_of


def make_walk(split: Split, length: int, short_probability: float = 0.1) -> Walk:
    return Walk(split.sentence_offsets, section_offsets(split), length, short_probability)


def starts_one_by_one(split: Split, walk: Walk, pass_number: int) -> list[int]:
    """The chunks of one pass, walked a chunk at a time and checked against the description."""
    sentence_lengths, starts = np.diff(split.sentence_offsets), []
    for section in range(len(walk.section_offsets) - 1):
        first, section_stop = walk.section_offsets[section : section + 2].tolist()
        target = walk.targets(pass_number, np.array([section]))
        while first < section_stop:
            starts.append(first)
            chunk = walk.chunks(pass_number, np.array([first]), np.array([section_stop]), target)
            stop, tokens = first, 0
            while stop < section_stop and tokens < target[0]:
                tokens += sentence_lengths[stop]
                stop += 1
            assert chunk.stop.tolist() == [stop]
            assert first < chunk.a_stop[0] <= max(first + 1, stop - 1)
            assert chunk.is_random[0] or stop - first > 1
            first = int(chunk.a_stop[0]) if chunk.is_random[0] else stop
            assert chunk.following.tolist() == [first]
    return starts


SPLITS = {
    "usual": random_split(0, 40, 12, 9),
    "one sentence": split_of([[7]]),
    "one token": split_of([[1]]),
    "one-token sentences": split_of([[1] * 300]),
    "sentences longer than a chunk": split_of([[200, 3, 500], [90], [1000]]),
    "tiny documents": split_of([[1], [2], [1, 1], [3]] * 30),
}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("length", [16, 64])
@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_all_chunks_are_found_in_lock_step(
    name: str, length: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "_BLOCK_SENTENCES", block)
    walk = make_walk(SPLITS[name], length, 0.5)
    for pass_number in range(3):
        starts = starts_one_by_one(SPLITS[name], walk, pass_number)
        kept, chunks = walk.pass_starts(pass_number)
        assert chunks == len(starts)
        assert kept.tolist() == starts[::CHECKPOINT]


def test_targets_are_short_as_often_as_asked_and_drawn_once_a_document() -> None:
    split = split_of([[5] * 3] * 4000)
    for probability in (0.0, 0.1, 1.0):
        walk = make_walk(split, 16, probability)
        targets = walk.targets(0, np.arange(4000))
        again = walk.targets(1, np.arange(4000))
        assert targets.min() >= 2 and targets.max() <= 13
        # A drawn target is the longest by chance in 1 of 12 cases.
        share = probability * 11 / 12
        for drawn in (targets, again):
            assert abs(np.mean(drawn < 13) - share) < 5 * np.sqrt(share * (1 - share) / 4000) + 1e-9
        if probability == 1:
            assert set(targets) == set(range(2, 14))
            assert abs(np.corrcoef(targets, again)[0, 1]) < 0.1


def test_very_long_documents_are_cut_at_sentence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "SECTION_TOKENS", 100)
    split = split_of([[9] * 100, [100], [50, 51], [101], [1, 350, 1], [99]])
    sections = section_offsets(split)
    assert set(split.document_offsets) <= set(sections)
    assert np.all(np.diff(sections) > 0) and sections[-1] == split.sentences
    tokens = np.diff(split.sentence_offsets[sections])
    longest_sentence = np.maximum.reduceat(np.diff(split.sentence_offsets), sections[:-1])
    assert np.all(tokens <= 100 + longest_sentence)
    assert np.sum(sections < 100) == 9
    walk = make_walk(split, 64)
    starts = starts_one_by_one(split, walk, 0)
    assert set(sections[:-1]) <= set(starts)
    assert walk.pass_starts(0)[1] == len(starts)


def test_documents_that_need_no_cut_are_sections() -> None:
    split = random_split(1, 50, 10, 10)
    np.testing.assert_array_equal(section_offsets(split), split.document_offsets)
