# SPDX-License-Identifier: Apache-2.0
"""What a run directory remembers is written whole, and disks that refuse are named."""

import json
import resource

import pytest

from bert_jax import run_directory
from data_pipeline.errors import DataError, DiskError
from data_pipeline.store import open_store


@pytest.fixture
def no_room():
    """Lets no file grow beyond 10 bytes, as a full disk would not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_json_is_written_whole_or_not_at_all(tmp_path, no_room):
    path = tmp_path / "summary.json"
    with pytest.raises(DiskError, match=r"cannot write .*summary.json: File too large") as caught:
        run_directory.write_json(path, {"name": "x" * 100})
    assert caught.value.exit_code == 74
    assert not path.exists()


def test_a_tokenizer_that_does_not_fit_is_reported(tmp_path, topics_store, no_room):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    same = {"config": {}, "tokenizer_fingerprint": "a", "store_fingerprint": "b"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_directory, "read_config", lambda _: same)
        with pytest.raises(DiskError, match="cannot copy the tokenizer into"):
            run_directory.begin(workdir, same, open_store(topics_store))
    assert not (workdir / "tokenizer").exists()


def test_the_tokenizer_travels_with_the_run(tmp_path, topics_store):
    store = open_store(topics_store)
    description = {"config": {}, "tokenizer_fingerprint": "a", "store_fingerprint": "b"}
    run_directory.begin(tmp_path, description, store)
    names = sorted(path.name for path in (tmp_path / "tokenizer").iterdir())
    assert names == sorted(path.name for path in (store.path / "tokenizer").iterdir())
    assert json.loads((tmp_path / "config.json").read_text()) == description


def test_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no run: it has no config.json"):
        run_directory.read_config(tmp_path)


def test_versions_name_what_decides_the_numbers():
    found = run_directory.versions()
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= set(found)
