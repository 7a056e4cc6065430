# SPDX-License-Identifier: Apache-2.0
"""Documents that are nearly the same, told by signatures of a few hundred bytes.

Two documents are alike as far as they share windows of five token ids: the Jaccard index of these
sets, |A & B| / |A | B|. A signature holds, for each of 128 classes of windows, the smallest hash
that occurs, and the share of slots in which two signatures agree estimates the index (one
permutation hashing: Li, Owen and Zhang, 2012; empty slots are filled as by Shrivastava, "Optimal
densification", 2017). Documents are compared if one of 16 bands of 8 slots is equal (Broder, 1997;
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3), which two of them with an
index of 0.8 are with a probability of 0.95, of 0.9 of 0.9999, and of 0.5 of 0.06.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.equal_hashes import group_starts, sorted_hashes
from data_pipeline.mapped import release
from data_pipeline.random_bits import bits

WINDOW = 5  # tokens
SLOTS = 128
BANDS = 16
ALIKE = 0.8  # Jaccard index from which on documents count as copies
_PAIRS_AT_ONCE = 1 << 16
_DOCUMENTS_AT_ONCE = 1 << 14  # a kilobyte each, several times
_SLOT_BITS = SLOTS.bit_length() - 1
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


def window_hashes(tokens: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.uint64]:
    """A hash for the window that starts at each token; at a document's end windows are shorter.

    Args:
        tokens: ids of documents in a row.
        lengths: tokens of each document.

    Returns:
        uint64 [tokens].
    """
    ends = np.repeat(np.cumsum(lengths), lengths)
    places = np.arange(len(tokens))
    padded = np.concatenate([tokens.astype(np.uint64) + np.uint64(1), np.zeros(WINDOW, np.uint64)])
    factors = bits(WINDOW, np.arange(WINDOW)) | np.uint64(1)
    state = np.zeros(len(tokens), np.uint64)
    for offset, factor in enumerate(factors):
        shifted = padded[offset : offset + len(tokens)]
        state += np.where(places + offset < ends, shifted, np.uint64(0)) * factor
    return bits(state)


def signatures(
    tokens: NDArray[np.integer], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Signatures of documents, and the hashes of their bands.

    Args:
        tokens: ids of documents in a row.
        lengths: tokens of each document, none 0.

    Returns:
        uint16 [documents, SLOTS]: sixteen bits of each slot, enough to compare; uint64
        [documents, BANDS].
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    found = [
        _signatures(tokens[starts[first] : starts[first + len(some)]], some)
        for first in range(0, max(len(lengths), 1), _DOCUMENTS_AT_ONCE)
        for some in [lengths[first : first + _DOCUMENTS_AT_ONCE]]
    ]
    slots, bands = zip(*found, strict=True)
    return np.concatenate(slots), np.concatenate(bands)


def _signatures(
    tokens: NDArray[np.integer], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    hashes = window_hashes(tokens, lengths)
    slots = hashes >> np.uint64(64 - _SLOT_BITS)
    cells = np.repeat(np.arange(len(lengths)), lengths) * SLOTS + slots.astype(np.int64)
    smallest = np.full(len(lengths) * SLOTS, _EMPTY)
    np.minimum.at(smallest, cells, hashes)
    full = _fill(smallest.reshape(len(lengths), SLOTS))
    mixed = bits(full, np.arange(SLOTS))
    rows = np.bitwise_xor.reduce(mixed.reshape(len(lengths), BANDS, -1), axis=2)
    return (mixed >> np.uint64(48)).astype(np.uint16), bits(rows, np.arange(BANDS))


def _fill(smallest: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Gives each empty slot what stands in another one, searched for in an order of its own."""
    given = smallest != _EMPTY
    filled, missing = smallest.copy(), ~given
    attempt = 0
    while missing.any():
        attempt += 1
        source = (bits(attempt, np.arange(SLOTS)) % np.uint64(SLOTS)).astype(np.int64)
        now = missing & given[:, source]
        filled = np.where(now, smallest[:, source], filled)
        missing &= ~now
    return filled


def agreement(these: NDArray[np.uint16], those: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Share of slots in which signatures agree, pair by pair; float64 [documents]."""
    return np.mean(these == those, axis=1)


def mark_alike(
    columns: Iterable[tuple[NDArray[np.uint16], NDArray[np.uint64]]], documents: int, scratch: Path
) -> NDArray[np.bool_]:
    """Marks documents that are nearly equal to an earlier one.

    A document is compared with the first and with the last one before it among those that share a
    band with it, so that time grows with the number of documents however many are alike. Of a chain
    of documents, each like the one before, the first stays.

    Args:
        columns: signatures and bands of the documents in order, in pieces of any size.
        documents: how many there are.
        scratch: a place for temporary files.

    Returns:
        bool [documents].
    """
    marks = np.zeros(documents, np.bool_)
    if not documents:
        return marks
    path = scratch / "signatures"

    def band_columns() -> Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        start = 0
        with open(path, "wb") as file:
            for slots, bands in columns:
                slots.tofile(file)
                stop = start + len(slots)
                yield bands.ravel(), np.repeat(np.arange(start, stop), BANDS)
                start = stop

    for hashes, places in sorted_hashes(band_columns(), documents * BANDS, scratch / "bands"):
        # All columns have come by now. Plain arrays are read faster than a np.memmap.
        slots = np.asarray(np.memmap(path, np.uint16, "r", shape=(documents, SLOTS)))
        first = group_starts(hashes)
        later = np.flatnonzero(first != np.arange(len(first)))
        for begin in range(0, len(later), _PAIRS_AT_ONCE):
            chosen = later[begin : begin + _PAIRS_AT_ONCE]
            own = slots[places[chosen]]
            alike = agreement(own, slots[places[first[chosen]]]) >= ALIKE
            alike |= agreement(own, slots[places[chosen - 1]]) >= ALIKE
            marks[places[chosen[alike]]] = True
            release(slots)
    path.unlink()
    return marks
