# SPDX-License-Identifier: Apache-2.0
"""The records of a store: TFDS reads the same documents that the arrays hold."""

import re
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import records
from data_pipeline.corpora import CorpusOptions
from data_pipeline.errors import DataError
from data_pipeline.prepare import prepare
from data_pipeline.store import Split, Store, open_store, verify_store
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.test_prepare import random_documents, write_lines

# TFDS calls parts of protobuf that are going away.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def make(tmp_path: Path, tokenizer: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch):
    """Prepares a store of 300 documents with given limits of records and shards."""

    def prepare_store(passage: int, shard: int) -> Store:
        monkeypatch.setattr(records, "PASSAGE_TOKENS", passage)
        monkeypatch.setattr(records, "_SHARD_TOKENS", shard)
        path = write_lines(tmp_path / "a.txt", random_documents(300))
        corpus = CorpusOptions(str(path), format="lines")
        return prepare(
            corpus, tokenizer, tmp_path / "store", validation_fraction=0.1, licence="CC0"
        )

    return prepare_store


@pytest.mark.parametrize(("passage", "shard"), [(1 << 20, 1 << 25), (1 << 20, 700), (8, 1000)])
def test_tfds_reads_the_documents_of_the_arrays(make, passage: int, shard: int) -> None:
    import tensorflow_datasets as tfds

    store = make(passage, shard)
    builder = tfds.builder_from_directory(store.path)
    assert builder.info.redistribution_info.license == "CC0"
    assert set(builder.info.splits) == {"train", "validation"}
    for name, source in builder.as_data_source().items():
        split = store.split(name)
        assert builder.info.splits[name].num_shards == -(-len(split.tokens) // shard)
        read = source.__getitems__(list(range(len(source))))
        assert (
            np.concatenate([record["tokens"] for record in read]).tolist() == split.tokens.tolist()
        )
        assert {record["tokens"].dtype for record in read} == {np.dtype(np.uint16)}
        lengths = np.concatenate([np.diff(r["sentence_ends"], prepend=0) for r in read])
        assert lengths.tolist() == np.diff(split.sentence_offsets).tolist()
        assert all(record["sentence_ends"][-1] == len(record["tokens"]) for record in read)
        owners = np.repeat([r["document"] for r in read], [len(r["sentence_ends"]) for r in read])
        assert (
            owners.tolist()
            == np.repeat(np.arange(split.documents), np.diff(split.document_offsets)).tolist()
        )
        too_long = [r for r in read if len(r["tokens"]) > passage]
        assert all(len(record["sentence_ends"]) == 1 for record in too_long)
        if passage > 1000:
            assert len(read) == split.documents


def test_records_are_cut_where_they_are_full() -> None:
    """Ten sentences of 4 tokens and one of 30, at most 12 tokens a record."""
    ends = np.cumsum([0, *[4] * 10, 30, 4])
    split = Split(np.zeros(ends[-1], np.uint16), ends, np.array([0, 1, 12]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "PASSAGE_TOKENS", 12)
        assert records.record_starts(split, 0, 2).tolist() == [0, 1, 4, 7, 10, 11, 12]
        assert records.record_starts(split, 1, 2).tolist() == [1, 4, 7, 10, 11, 12]


def shards(store: Store) -> list[Path]:
    return sorted(store.path.glob("*.array_record-*"))


def test_every_damage_to_a_shard_is_noticed(make) -> None:
    """Missing, empty, cut, changed, or of another store."""
    store = make(1 << 20, 700)
    shard, other = shards(store)[:2]
    good = shard.read_bytes()
    assert shard.stat().st_size == other.stat().st_size  # 64 KiB is the least
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing; prepare"):
        open_store(store.path)
    shard.symlink_to(shard)
    with pytest.raises(DataError, match=f"{shard.name} is missing; prepare"):
        open_store(store.path)
    shard.unlink()
    for content in (b"", good[:-1], good[: 1 << 15]):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(f"{shard} has {len(content):,} bytes")):
            open_store(store.path)
    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 4
    for content in (bytes(flipped), other.read_bytes()):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=f"{shard.name} does not have the checksum"):
            verify_store(store.path)
    shard.write_bytes(good)
    verify_store(store.path)


def test_records_take_no_part_in_the_fingerprint(make) -> None:
    """A run that goes on with a store must not care whether it has records."""
    store = make(1 << 20, 700)
    manifest = dict(store.manifest)
    manifest["files"] = {name: e for name, e in manifest["files"].items() if "/" in name}
    assert Store(store.path, manifest).fingerprint == store.fingerprint
    assert len(manifest["files"]) == 8 < len(store.manifest["files"])
