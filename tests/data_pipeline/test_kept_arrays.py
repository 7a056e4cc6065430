# SPDX-License-Identifier: Apache-2.0
"""Kept arrays come back as they were, or not at all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.mapped import mapping_of

ARRAY = np.arange(1000, dtype=np.uint32)


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_an_array_and_its_number_come_back(tmp_path: Path) -> None:
    kept = KeptArrays(tmp_path / "kept")
    assert kept.load("starts-1") is None and kept.number("starts-1") is None
    mapped = kept.keep("starts-1", ARRAY, 77)
    assert mapping_of(mapped) is not None
    later = KeptArrays(tmp_path / "kept")
    np.testing.assert_array_equal(later.load("starts-1"), ARRAY)  # type: ignore[arg-type]
    assert later.number("starts-1") == 77
    assert later.load("starts-10") is None and later.load("starts") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "rename"])
def test_a_damaged_array_counts_as_absent_and_is_replaced(tmp_path: Path, damage: str) -> None:
    kept = KeptArrays(tmp_path)
    kept.keep("starts", ARRAY, 77)
    file = only_file(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-9] ^= 1
    elif damage == "cut":
        content = content[:-4]
    elif damage == "empty":
        content = bytearray()
    file.unlink()
    if damage == "rename":
        file = file.with_name(file.name.replace("starts.77", "starts.77.0"))
    file.write_bytes(content)
    assert kept.load("starts") is None
    np.testing.assert_array_equal(kept.keep("starts", ARRAY, 77), ARRAY)
    np.testing.assert_array_equal(kept.load("starts"), ARRAY)  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written_keeps_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "kept"):
        kept = KeptArrays(folder)
        assert kept.keep("starts", ARRAY) is ARRAY
        assert kept.load("starts") is None


def test_many_may_keep_the_same_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: KeptArrays(tmp_path).keep("starts", ARRAY, 5), range(40)))
    assert all(np.array_equal(array, ARRAY) for array in made)
    assert only_file(tmp_path).name.startswith("starts.5.")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_others_may_have_mapped_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(OSError("no links")))
    KeptArrays(tmp_path).keep("starts", ARRAY, 5)
    first = only_file(tmp_path).stat().st_ino
    np.testing.assert_array_equal(KeptArrays(tmp_path).keep("starts", ARRAY, 5), ARRAY)
    assert only_file(tmp_path).stat().st_ino == first
