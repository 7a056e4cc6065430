# SPDX-License-Identifier: Apache-2.0
"""What the arrays of a store hold: lengths, frequencies, copies. In NumPy, chunk by chunk."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.near_copies import mark_alike, signatures
from data_pipeline.store import Split

_CHUNK_TOKENS = 1 << 22


def describe_lengths(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Median, 95th percentile, maximum and a histogram by powers of two.

    Returns:
        "histogram" is a list of [lower bound, count], the bounds 1, 2, 4, 8, ...
    """
    if not len(lengths):
        return {"median": 0, "p95": 0, "max": 0, "histogram": []}
    classes = np.bincount(np.frexp(lengths.astype(np.float64))[1] - 1)
    return {
        "median": int(np.median(lengths)),
        "p95": int(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
        "histogram": [[1 << power, int(count)] for power, count in enumerate(classes)],
    }


def token_counts(split: Split, vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs, int64 [vocab]."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(split.tokens), _CHUNK_TOKENS):
        counts += np.bincount(split.tokens[start : start + _CHUNK_TOKENS], minlength=vocab_size)
    return counts


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy of a frequency table in nats: the loss of a model that knows these alone."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-np.sum(shares * np.log(shares)))


def sample_ranks(counts: NDArray[np.int64]) -> list[list[int]]:
    """Frequencies by rank, at ranks spread evenly over their logarithm: [rank from 1, count]."""
    ordered = np.sort(counts[counts > 0])[::-1]
    if not len(ordered):
        return []
    ranks = np.unique(np.geomspace(1, len(ordered), 100).round().astype(np.int64))
    return [[int(rank), int(ordered[rank - 1])] for rank in ranks]


def sentence_hashes(tokens: NDArray[np.integer], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each sentence, the same for the same tokens.

    Args:
        tokens: ids.
        offsets: int64 [sentences + 1], where each sentence starts, and the end of the last.

    Returns:
        uint64 [sentences].
    """
    if len(offsets) == 1:
        return np.zeros(0, np.uint64)
    places = _scramble(np.arange(np.diff(offsets).max()), 1)
    parts = []
    for first, stop in _chunks(offsets):
        begin, end = offsets[first], offsets[stop]
        starts = offsets[first:stop] - begin
        position = np.arange(end - begin) - np.repeat(starts, np.diff(offsets[first : stop + 1]))
        terms = _scramble(tokens[begin:end], 2) * places[position]
        parts.append(_scramble(np.add.reduceat(terms, starts), 3))
    return np.concatenate(parts)


def document_hashes(split: Split, sentences: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each document, from those of its sentences; uint64 [documents]."""
    if not split.documents:
        return np.zeros(0, np.uint64)
    starts = split.document_offsets[:-1]
    lengths = np.diff(split.document_offsets)
    position = np.arange(len(sentences)) - np.repeat(starts, lengths)
    return np.add.reduceat(sentences * _scramble(position, 4), starts)


def near_copies(split: Split) -> float:
    """Share of the documents that are nearly equal to an earlier one, or equal."""
    if not split.documents:
        return 0.0
    starts = split.sentence_offsets[split.document_offsets]

    def columns() -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint64]]]:
        for first, stop in _chunks(starts):
            tokens = split.tokens[starts[first] : starts[stop]]
            yield signatures(tokens, np.diff(starts[first : stop + 1]))

    with tempfile.TemporaryDirectory() as scratch:
        return float(mark_alike(columns(), split.documents, Path(scratch)).mean())


def repeated_share(hashes: NDArray[np.uint64]) -> float:
    """Share of the members that are copies of an earlier one."""
    return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0


def _chunks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of sentences, or documents, with about `_CHUNK_TOKENS` tokens, at least one each."""
    first, last = 0, len(offsets) - 1
    while first < last:
        wanted = np.searchsorted(offsets, offsets[first] + _CHUNK_TOKENS)
        stop = min(max(int(wanted), first + 1), last)
        yield first, stop
        first = stop


def _scramble(values: NDArray[Any], salt: int) -> NDArray[np.uint64]:
    """Spreads integers over 64 bits, odd numbers all (the finaliser of SplitMix64)."""
    x = values.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
