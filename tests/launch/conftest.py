# SPDX-License-Identifier: Apache-2.0
"""A fresh cloud for each test; its checkout is packed and committed once."""

import shutil

import pytest

from tests.launch.world import World, build, script


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build(tmp_path_factory.mktemp("cloud") / "world")


@pytest.fixture
def world(_built: World) -> World:
    """The same directory for all tests, because programs name it; emptied before each."""
    for name in ("calls.jsonl", "slice.json", "created", "enough", "trained.jsonl", "jobset.json"):
        (_built.path / name).unlink(missing_ok=True)
    for name in ("hosts", "buckets/work"):
        shutil.rmtree(_built.path / name, ignore_errors=True)
    for path in _built.path.glob("starts-*"):
        path.unlink()
    (_built.path / "buckets/work").mkdir()
    (_built.path / "buckets/data/.flat").touch()
    _built.play(script())
    return _built
