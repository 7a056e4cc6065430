# SPDX-License-Identifier: Apache-2.0
"""Finds equal hashes among any number of them, in bounded memory.

Hashes are dealt into files by their leading bits, and each file is sorted by itself: every hash is
written once and read once, whatever the size of the corpus.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 1 << 23  # sorting so many takes about 300 MB
_ENTRY = np.dtype([("hash", np.uint64), ("place", np.int64)])


def sorted_hashes(
    columns: Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]], total: int, directory: Path
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Brings equal hashes together.

    Args:
        columns: hashes, uint64, and their places, int64, in pieces of any size.
        total: how many there are about; sets the number of files.
        directory: a place for these files, made here and removed in the end.

    Yields:
        Hashes in ascending order and their places; among equal hashes these are in the order in
        which they came. Equal hashes come in the same yield.
    """
    bits = max(0, (total // _AT_ONCE).bit_length())
    directory.mkdir(parents=True)
    try:
        paths = [directory / f"{number:06d}" for number in range(1 << bits)]
        _deal(columns, paths, 64 - bits)
        for path in paths:
            if not path.exists():
                continue
            entries = np.fromfile(path, _ENTRY)
            path.unlink()
            order = np.argsort(entries["hash"], kind="stable")
            yield entries["hash"][order], entries["place"][order]
    finally:
        shutil.rmtree(directory)


def _deal(
    columns: Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]], paths: list[Path], shift: int
) -> None:
    """Appends each hash with its place to the file of its leading bits.

    One file is open at a time: of a large corpus there are more than a process may open.
    """
    for hashes, places in columns:
        entries = np.empty(len(hashes), _ENTRY)
        entries["hash"], entries["place"] = hashes, places
        # A shift by all 64 bits is not defined; one file needs none.
        numbers = hashes >> np.uint64(shift) if len(paths) > 1 else np.zeros_like(hashes)
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(len(paths) + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            with open(paths[number], "ab") as file:
                entries[order[bounds[number] : bounds[number + 1]]].tofile(file)


def group_starts(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of some sorted hashes the index of the first one equal to it; int64."""
    first = np.ones(len(hashes), np.bool_)
    first[1:] = hashes[1:] != hashes[:-1]
    return np.flatnonzero(first)[np.cumsum(first) - 1]
