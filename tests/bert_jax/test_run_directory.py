# SPDX-License-Identifier: Apache-2.0
"""What a run directory remembers is written whole, and disks that refuse are named."""

import json

import pytest

from bert_jax import run_directory
from data_pipeline.errors import DataError, DiskError
from data_pipeline.store import open_store


def test_json_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "absent" / "summary.json"
    with pytest.raises(DiskError, match=r"cannot write .*summary.json: No such file") as caught:
        run_directory.write_json(path, {})
    assert caught.value.exit_code == 74


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    for content in ({"steps": 1}, {"steps": 2}):
        run_directory.write_json(path, content)
        assert json.loads(path.read_text()) == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_tokenizer_that_cannot_be_copied_is_named(tmp_path, topics_store):
    (tmp_path / "tokenizer.tmp").write_text("in the way")
    description = {"config": {}, "tokenizer_fingerprint": "a", "store_fingerprint": "b"}
    with pytest.raises(DiskError, match="cannot copy the tokenizer into"):
        run_directory.begin(tmp_path, description, open_store(topics_store))
    assert not (tmp_path / "tokenizer").exists()


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
