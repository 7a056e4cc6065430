# SPDX-License-Identifier: Apache-2.0
"""Files in object stores: a preparation there gives what one here gives."""

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from data_pipeline.corpora import CorpusOptions
from data_pipeline.errors import DataError, DiskError, OutputError, UsageError
from data_pipeline.files import open_binary, place, size_and_time, written_whole
from data_pipeline.prepare import prepare
from data_pipeline.store import open_store, verify_store
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.test_prepare import random_documents, write_lines


class Buckets(DirFileSystem):
    """Keeps s3://X in the folder `root`/X; `etils` makes one only and keeps it."""

    protocol = "s3"
    cachable = False
    root = Path()

    def __init__(self, **options: object) -> None:
        super().__init__(path=str(self.root), fs=LocalFileSystem(auto_mkdir=True))

    def _join(self, path: Any) -> Any:
        self.path = str(self.root)
        if isinstance(path, str):
            path = path.removeprefix("s3://").rstrip("/")
        return super()._join(path)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind s3://bucket."""
    monkeypatch.setenv("EPATH_USE_TF", "false")  # as docs/data.md asks for
    # It has been read, and kept, if anything looked at a path in an object store before.
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    monkeypatch.setattr(Buckets, "root", tmp_path)
    fsspec.register_implementation("s3", Buckets, clobber=True)
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_a_store_is_prepared_in_an_object_store(
    tmp_path: Path, bucket: Path, tokenizer: WordPieceTokenizer
) -> None:
    (tmp_path / "here").mkdir()
    write_lines(bucket / "a.txt", random_documents(100))
    write_lines(bucket / "b.txt", random_documents(50, seed=1))
    corpus = CorpusOptions("s3://bucket/*.txt")
    prepare(corpus, tokenizer, place("s3://bucket/made/store"))
    assert sorted(path.name for path in (bucket / "made").iterdir()) == ["store"]
    verify_store("s3://bucket/made/store")
    prepare(corpus, tokenizer, tmp_path / "here" / "store")
    for file in (tmp_path / "here" / "store").rglob("*"):
        copy = bucket / "made" / "store" / file.relative_to(tmp_path / "here" / "store")
        assert file.is_dir() or copy.read_bytes() == file.read_bytes()
    again = prepare(corpus, tokenizer, place("s3://bucket/made/store"))
    with pytest.raises(DataError, match="store is in an object store, but its arrays are mapped"):
        again.split("train")
    shutil.copytree(bucket / "made" / "store", tmp_path / "copy")
    assert open_store(tmp_path / "copy").split("train").documents > 100


def test_what_lies_in_an_object_store_is_not_mixed_with_a_new_store(
    tmp_path: Path, bucket: Path, tokenizer: WordPieceTokenizer
) -> None:
    write_lines(tmp_path / "a.txt", random_documents(20))
    shard = bucket / "store" / "bert_store-train.array_record-00000-of-00001"
    shard.parent.mkdir()
    shard.write_text("of an interrupted preparation whose plan was removed")
    with pytest.raises(OutputError, match="s3://bucket/store exists already"):
        prepare(CorpusOptions(f"{tmp_path}/a.txt"), tokenizer, place("s3://bucket/store"))
    assert list(bucket.rglob("*")) == [shard.parent, shard]


def test_an_object_store_that_cannot_be_reached_is_told_in_a_line(
    tmp_path: Path, bucket: Path, tokenizer: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LibraryError(Exception):
        """Of no kind that we know."""

    def fail(*arguments: object, **options: object) -> None:
        raise LibraryError("no\ncredentials")

    write_lines(tmp_path / "a.txt", random_documents(20))
    for method in ("info", "exists", "isfile", "isdir", "open", "_open"):
        monkeypatch.setattr(Buckets, method, fail)
    reason = "s3://bucket/.* cannot be reached: no credentials; look at the name"
    with pytest.raises(DataError, match=reason):
        prepare(CorpusOptions("s3://bucket/a.txt"), tokenizer, tmp_path / "store")
    with pytest.raises(OutputError, match=reason):
        prepare(CorpusOptions(f"{tmp_path}/a.txt"), tokenizer, place("s3://bucket/store"))
    with pytest.raises(DataError, match=reason):
        open_store("s3://bucket/store")
    with pytest.raises(DiskError, match=reason):  # it may pass: what is done is kept
        open_binary("s3://bucket/a.txt")
    with pytest.raises(UsageError, match="foo://bucket cannot be used here"):
        place("foo://bucket")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, bucket: Path) -> None:
    for path in (tmp_path / "a.txt", place("s3://bucket/a.txt")):
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), written_whole(path) as file:
            file.write_text("new")
            raise ZeroDivisionError
        assert path.read_text() == "old"
        with written_whole(path) as file:
            file.write_text("newer")
        assert path.read_text() == "newer" and size_and_time(path)[0] == 5
        with open_binary(path) as content:
            assert content.read() == b"newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "bucket"]
    for name in (tmp_path / "missing", "s3://bucket/missing"):
        with pytest.raises(DataError, match="missing cannot be opened"):
            open_binary(name)
