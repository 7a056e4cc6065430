# SPDX-License-Identifier: Apache-2.0
"""Ranges of a mapped array are read as slicing reads them, or the file is called cut short."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DiskError
from data_pipeline.mapped import RangeReader, mapping_of, release


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    np.save(tmp_path / "array.npy", np.random.default_rng(0).integers(0, 60_000, 100_000, "u2"))
    return np.load(tmp_path / "array.npy", mmap_mode="r")


def test_ranges_are_those_of_slicing(mapped: np.memmap) -> None:
    starts = np.array([0, 99_999, 5, 5, 70_000])
    lengths = np.array([3, 1, 0, 7, 30_000])
    found, places = RangeReader(mapped).read(starts, lengths)
    assert found.dtype == np.uint16 and len(found) == lengths.sum()
    for start, length, place in zip(starts, lengths, places, strict=True):
        np.testing.assert_array_equal(found[place : place + length], mapped[start : start + length])


def test_a_file_cut_short_meanwhile_is_named(mapped: np.memmap) -> None:
    reader = RangeReader(mapped)
    with open(str(mapped.filename), "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DiskError, match="a file was cut short") as caught:
        reader.read(np.array([90_000]), np.array([10]))
    assert caught.value.exit_code == 74


def test_released_arrays_still_hold_their_values(mapped: np.memmap) -> None:
    view = np.asarray(mapped)[10:20]
    before = view.copy()
    assert mapping_of(view) is mapping_of(mapped) is not None
    release(view, np.arange(3))
    np.testing.assert_array_equal(view, before)
    assert mapping_of(np.arange(3)) is None
