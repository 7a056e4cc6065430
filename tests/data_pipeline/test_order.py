# SPDX-License-Identifier: Apache-2.0
"""The stream of chunks: every epoch holds all chunks of its pass, shuffled as a whole."""

import numpy as np
import pytest

from data_pipeline import walk as walk_module
from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.order import Order
from data_pipeline.store import Split
from data_pipeline.walk import PASSES, Chunks, Walk, section_offsets
from tests.data_pipeline.significance import SMALLEST_P, fit_p
from tests.data_pipeline.splits import random_split, split_of
from tests.data_pipeline.test_walk import SPLITS, starts_one_by_one


def make_order(split: Split, seed: int = 0) -> Order:
    walk = Walk(split.sentence_offsets, section_offsets(split), 32, 0.1)
    return Order(walk, passes=PASSES, seed=seed, kept=KeptArrays(None))


def chunks_of(order: Order, numbers: np.ndarray) -> Chunks:
    return order.find(*order.locate(numbers))


def rows_of(chunks: Chunks) -> list[tuple[int, ...]]:
    fields = (chunks.first, chunks.a_stop, chunks.stop, chunks.is_random, chunks.target)
    return list(zip(*(field.tolist() for field in fields), strict=True))


@pytest.mark.parametrize("name", SPLITS)
def test_an_epoch_holds_every_chunk_of_its_pass_once(name: str) -> None:
    split, order = SPLITS[name], make_order(SPLITS[name])
    walk = Walk(split.sentence_offsets, section_offsets(split), 32, 0.1)
    expected = [starts_one_by_one(split, walk, number) for number in range(PASSES)]
    assert order.examples == len(expected[0])
    place = 0
    for epoch in range(2 * PASSES + 1):
        starts = expected[epoch % PASSES]
        chunks = chunks_of(order, np.arange(place, place + len(starts)))
        assert sorted(chunks.first.tolist()) == starts
        place += len(starts)


def test_a_place_holds_the_same_chunk_whatever_is_asked_with_it_or_before() -> None:
    split = random_split(2, 30, 10, 8)
    numbers = np.arange(5 * make_order(split).examples)
    together = rows_of(chunks_of(make_order(split), numbers))
    late_first = make_order(split)
    for number in (numbers[-1], 17, 0, 3000, 10**15):
        chunks_of(late_first, np.array([number]))
    mixed = np.random.default_rng(0).permutation(numbers)
    for number, row in zip(mixed, rows_of(chunks_of(late_first, mixed)), strict=True):
        assert row == together[number]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    split = random_split(3, 200, 10, 8)
    order, other = make_order(split), make_order(split, seed=1)
    numbers = np.arange(order.examples)
    first = chunks_of(order, numbers).first
    assert sorted(first) == sorted(chunks_of(other, numbers).first)
    assert np.mean(first == chunks_of(other, numbers).first) < 0.01
    sizes = [
        Walk(split.sentence_offsets, section_offsets(split), 32, 0.1).pass_starts(p)[1]
        for p in range(PASSES)
    ]
    ten_epochs_later = chunks_of(order, numbers + sum(sizes)).first
    assert sorted(first) == sorted(ten_epochs_later)
    assert np.mean(first == ten_epochs_later) < 0.01


def test_the_shuffle_reaches_over_the_whole_epoch() -> None:
    split = random_split(4, 1000, 10, 8)
    order = make_order(split)
    first = chunks_of(order, np.arange(order.examples)).first
    place = np.arange(order.examples)
    table = np.histogram2d(place, np.argsort(np.argsort(first)), bins=8)[0]
    assert fit_p(table) > SMALLEST_P
    # A shuffle buffer of half an epoch would be seen.
    buffered = np.argsort(place + np.random.default_rng(0).uniform(0, place.size / 2, place.size))
    assert fit_p(np.histogram2d(place, buffered, bins=8)[0]) < SMALLEST_P


def test_sections_do_not_change_what_an_epoch_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "SECTION_TOKENS", 200)
    split = split_of([[9] * 400, [3] * 10])
    order = make_order(split)
    chunks = chunks_of(order, np.arange(order.examples))
    covered = np.zeros(split.sentences, int)
    stop = np.where(chunks.is_random, chunks.a_stop, chunks.stop)
    for first, last in zip(chunks.first, stop, strict=True):
        covered[first:last] += 1
    assert np.all(covered == 1)
