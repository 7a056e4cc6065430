# SPDX-License-Identifier: Apache-2.0
"""Chunks become pairs as in the original: B, truncation, rows."""

import random

import numpy as np
import pytest

from data_pipeline.pairs import assemble, make_pairs
from data_pipeline.random_bits import bits
from data_pipeline.store import Split
from data_pipeline.walk import Chunks
from tests.data_pipeline.original_examples import truncate
from tests.data_pipeline.significance import SMALLEST_P, fit_p
from tests.data_pipeline.splits import SPECIAL, random_split, split_of


def chunks_of(split: Split, copies: int, *, is_random: bool, target: int) -> Chunks:
    """The same chunk many times: A is the first sentence, B would be the second."""
    one = np.ones(copies, np.int64)
    none = np.zeros(copies, np.bool_)
    return Chunks(0 * one, one, one + 1, none | is_random, none, target * one)


@pytest.mark.parametrize("room", [13, 14, 125])
def test_lengths_after_truncation_are_those_of_one_token_at_a_time(room: int) -> None:
    for a_length in (1, 2, 6, 7, 8, 13, 40, 62, 63, 64, 124, 125, 126, 300):
        for b_length in (1, 5, 6, 7, 8, 13, 41, 62, 63, 64, 124, 200):
            a, b = [0] * a_length, [0] * b_length
            truncate(a, b, room, random.Random(0))
            split = split_of([[a_length, b_length]])
            chunks = chunks_of(split, 1, is_random=False, target=room)
            pairs = make_pairs(split, chunks, room + 3, bits([0]))
            assert (pairs.a_length.tolist(), pairs.b_length.tolist()) == ([len(a)], [len(b)])


@pytest.mark.parametrize("cut", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("of_a", [True, False])
def test_each_token_is_cut_at_the_front_or_the_back_by_a_fair_coin(cut: int, of_a: bool) -> None:
    # One side is long and the other short, so that all tokens are cut from one side.
    room, copies = 29, 20_000
    sides = [room + cut - 1, 1]
    split = split_of([sides if of_a else sides[::-1]])
    chunks = chunks_of(split, copies, is_random=False, target=room)
    pairs = make_pairs(split, chunks, room + 3, bits(np.arange(copies)))
    front, other = (pairs.a_start, pairs.b_start) if of_a else (pairs.b_start, pairs.a_start)
    front = front - (0 if of_a else 1)
    assert np.ptp(other) == 0
    # Front cuts are binomial: the variance too must be that of independent coins.
    assert abs(front.var() / (cut / 4) - 1) < 5 * np.sqrt(2 / copies)
    if cut <= 2:
        assert (
            fit_p(np.bincount(front), np.array([0.25, 0.5, 0.25] if cut == 2 else 0.5)) > SMALLEST_P
        )


def test_cuts_of_a_and_b_are_independent() -> None:
    copies = 20_000
    split = split_of([[40, 39]])
    chunks = chunks_of(split, copies, is_random=False, target=77)
    pairs = make_pairs(split, chunks, 80, bits(np.arange(copies)))
    assert set(zip(pairs.a_length.tolist(), pairs.b_length.tolist(), strict=True)) == {(39, 38)}
    assert fit_p(np.bincount(pairs.a_start * 2 + pairs.b_start - 40)) > SMALLEST_P


def test_random_b_comes_from_any_other_document_and_any_of_its_sentences() -> None:
    split = split_of([[5, 5], [4] * 3, [4] * 7, [4]])
    chunks = chunks_of(split, 40_000, is_random=True, target=10)
    pairs = make_pairs(split, chunks, 16, bits(np.arange(40_000)))
    sentence = np.searchsorted(split.sentence_offsets, pairs.b_start, side="right") - 1
    assert np.all(sentence >= 2)
    shares = np.repeat([1 / 9, 1 / 21, 1 / 3], [3, 7, 1])
    assert fit_p(np.bincount(sentence - 2, minlength=11), shares) > SMALLEST_P
    # Five tokens are wanted: two sentences, if the document has them.
    at_end = np.isin(sentence + 1, split.document_offsets)
    np.testing.assert_array_equal(pairs.b_length, np.where(at_end, 4, 8))
    assert np.all(pairs.label)


@pytest.mark.parametrize("target", [3, 5, 40])
def test_random_b_has_a_sentence_even_if_a_fills_the_target(target: int) -> None:
    split = split_of([[40, 1], [3, 3]])
    chunks = chunks_of(split, 100, is_random=True, target=target)
    pairs = make_pairs(split, chunks, 64, bits(np.arange(100)))
    assert set(pairs.b_length) == {3} and set(pairs.a_length) == {40}


def test_the_only_document_is_its_own_random_partner() -> None:
    split = split_of([[5, 5, 5, 5]])
    chunks = chunks_of(split, 1000, is_random=True, target=10)
    pairs = make_pairs(split, chunks, 16, bits(np.arange(1000)))
    assert set(pairs.b_start) == {0, 5, 10, 15}


def test_ten_tries_meet_another_document_almost_always() -> None:
    # Of two documents, ten tries in a row meet the own one in 1 of 1024 cases.
    split = split_of([[5, 5], [5]])
    copies = 100_000
    chunks = chunks_of(split, copies, is_random=True, target=10)
    own = np.sum(make_pairs(split, chunks, 16, bits(np.arange(copies))).b_start < 10)
    assert abs(own - copies / 1024) < 5 * np.sqrt(copies / 1024)


def test_rows_hold_the_pairs() -> None:
    split = split_of([[3, 2], [6, 1]])
    first = np.array([0, 2])
    none = np.zeros(2, np.bool_)
    chunks = Chunks(first, first + 1, first + 2, none, none, np.array([7, 7]))
    batch = assemble(split.tokens, make_pairs(split, chunks, 10, bits([0, 1])), SPECIAL, 10)
    assert batch["input_ids"][0].tolist() == [2, 5, 6, 7, 3, 8, 9, 3, 0, 0]
    assert batch["input_mask"][0].tolist() == [1] * 8 + [0] * 2
    assert batch["segment_ids"][0].tolist() == [0] * 5 + [1] * 3 + [0] * 2
    assert batch["input_ids"][1].tolist() == [2, 10, 11, 12, 13, 14, 15, 3, 16, 3]
    assert batch["next_sentence_label"].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_are_the_same_from_either_store_dtype(dtype: type) -> None:
    wide = random_split(0, 20, 5, 6)
    split = Split(wide.tokens.astype(dtype), wide.sentence_offsets, wide.document_offsets)
    chunks = chunks_of(split, 5, is_random=True, target=20)
    pairs = make_pairs(split, chunks, 24, bits(np.arange(5)))
    batch, expected = (assemble(s.tokens, pairs, SPECIAL, 24) for s in (split, wide))
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    assert batch["input_ids"].dtype == np.int32
