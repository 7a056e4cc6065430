# SPDX-License-Identifier: Apache-2.0
"""Figures of a store against counting by hand."""

import collections
import math

import numpy as np
import pytest

from data_pipeline import store_statistics
from data_pipeline.store import Split
from data_pipeline.store_statistics import (
    describe_lengths,
    document_hashes,
    entropy,
    near_copies,
    repeated_share,
    sentence_hashes,
    token_counts,
)


def make_split(documents: list[list[tuple[int, ...]]]) -> Split:
    sentences = [sentence for document in documents for sentence in document]
    return Split(
        np.array([token for sentence in sentences for token in sentence], np.uint16),
        np.cumsum([0, *map(len, sentences)]),
        np.cumsum([0, *map(len, documents)]),
    )


def random_split(seed: int) -> tuple[list[list[tuple[int, ...]]], Split]:
    """Few different tokens and short sentences, so that copies of everything occur."""
    random = np.random.default_rng(seed)
    documents = [
        [tuple(random.integers(0, 3, random.integers(1, 4)).tolist()) for _ in range(n)]
        for n in random.integers(1, 4, 400)
    ]
    return documents, make_split(documents)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_hashes_are_equal_exactly_for_copies(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(store_statistics, "_CHUNK_TOKENS", chunk)
    documents, split = random_split(0)
    sentences = [sentence for document in documents for sentence in document]
    hashes = sentence_hashes(split.tokens, split.sentence_offsets)
    assert len({*zip(sentences, hashes.tolist(), strict=True)}) == len(set(sentences))
    assert len(set(hashes.tolist())) == len(set(sentences)) < len(sentences)
    whole = list(map(tuple, documents))
    of_documents = document_hashes(split, hashes)
    assert len({*zip(whole, of_documents.tolist(), strict=True)}) == len(set(whole))
    assert len(set(of_documents.tolist())) == len(set(whole)) < len(whole)
    assert repeated_share(hashes) == pytest.approx(1 - len(set(sentences)) / len(sentences))
    assert repeated_share(of_documents) == pytest.approx(1 - len(set(whole)) / len(whole))


def test_order_and_borders_make_a_difference() -> None:
    documents = [[(1, 2), (3,)], [(1,), (2, 3)], [(3,), (1, 2)], [(2, 1), (3,)], [(1, 2, 3)]]
    split = make_split(documents)
    assert (
        repeated_share(
            document_hashes(split, sentence_hashes(split.tokens, split.sentence_offsets))
        )
        == 0
    )


def test_an_empty_split_has_empty_figures() -> None:
    split = make_split([])
    assert (
        len(sentence_hashes(split.tokens, split.sentence_offsets))
        == len(document_hashes(split, sentence_hashes(split.tokens, split.sentence_offsets)))
        == 0
    )
    assert repeated_share(sentence_hashes(split.tokens, split.sentence_offsets)) == 0
    assert describe_lengths(np.zeros(0, np.int64))["max"] == 0


@pytest.mark.parametrize("chunk", [5, 1 << 22])
def test_token_counts_and_their_entropy(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(store_statistics, "_CHUNK_TOKENS", chunk)
    documents, split = random_split(1)
    expected = collections.Counter(t for d in documents for s in d for t in s)
    counts = token_counts(split, 5)
    assert counts.tolist() == [expected[token] for token in range(5)]
    total = expected.total()
    assert entropy(counts) == pytest.approx(
        -sum(n / total * math.log(n / total) for n in expected.values())
    )
    assert entropy(np.full(8, 3)) == pytest.approx(math.log(8))


def test_lengths() -> None:
    figures = describe_lengths(np.array([1, 1, 2, 3, 4, 7, 8, 500]))
    assert (figures["median"], figures["max"]) == (3, 500)
    assert figures["histogram"][:4] == [[1, 2], [2, 2], [4, 2], [8, 1]]
    assert figures["histogram"][-1] == [256, 1]
    assert sum(count for _, count in figures["histogram"]) == 8


@pytest.mark.parametrize("chunk", [300, 1 << 22])
def test_near_copies_are_counted(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(store_statistics, "_CHUNK_TOKENS", chunk)
    random = np.random.default_rng(0)
    documents = [
        [*(tuple(random.integers(0, 999, 40).tolist()) for _ in range(4)), (5, 6, 7)]
        for _ in range(30)
    ]
    changed = [[*document[:-1], (5, 6, 8)] for document in documents[:6]]
    assert near_copies(make_split(documents + changed)) == 6 / 36
    assert near_copies(make_split(documents)) == near_copies(make_split([])) == 0
