# SPDX-License-Identifier: Apache-2.0
"""Equal hashes are brought together, whatever the number of files they are dealt into."""

import itertools
import resource

import numpy as np
import pytest

from data_pipeline import equal_hashes


@pytest.mark.parametrize("at_once", [1 << 23, 1000, 7])
def test_sorted_hashes_are_those_of_one_big_sort(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(equal_hashes, "_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 63, 300, np.uint64)[random.integers(0, 300, 2000)] * np.uint64(
        2
    )
    cuts = [0, 10, 10, 1500]
    places = np.arange(len(hashes))
    columns = zip(np.split(hashes, cuts), np.split(places, cuts), strict=True)
    directory = tmp_path / "files"
    found = list(equal_hashes.sorted_hashes(columns, len(hashes), directory))
    places = np.concatenate([places for _, places in found])
    np.testing.assert_array_equal(places, np.argsort(hashes, kind="stable"))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in found]), np.sort(hashes))
    for (earlier, _), (later, _) in itertools.pairwise(p for p in found if len(p[0])):
        assert earlier[-1] < later[0]
    assert (len(found) > 1) == (at_once < 2000)
    assert not directory.exists()


def test_no_hashes_at_all(tmp_path):
    assert list(equal_hashes.sorted_hashes([], 0, tmp_path / "files")) == []


def test_group_starts():
    hashes = np.array([1, 1, 4, 9, 9, 9], np.uint64)
    assert equal_hashes.group_starts(hashes).tolist() == [0, 0, 2, 3, 3, 3]
    assert equal_hashes.group_starts(hashes[:0]).tolist() == []


def test_there_may_be_more_files_than_a_process_may_open(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_hashes, "_AT_ONCE", 1)
    hashes = np.random.default_rng(0).integers(0, 1 << 63, 500, np.uint64)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        found = list(
            equal_hashes.sorted_hashes([(hashes, np.arange(500))], 500, tmp_path / "files")
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in found]), np.sort(hashes))
