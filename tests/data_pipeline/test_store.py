# SPDX-License-Identifier: Apache-2.0
"""The store: what is written comes back, whole or not at all, and damage is noticed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError, OutputError
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.store import Split, Store, open_store, verify_store
from data_pipeline.store_writer import StoreWriter
from data_pipeline.wordpiece import WordPieceTokenizer

Documents = dict[str, list[list[list[int]]]]


def random_documents(vocab_size: int, seed: int = 0) -> Documents:
    """Documents of up to 6 sentences, some of them empty, of up to 9 tokens."""
    random = np.random.default_rng(seed)
    return {
        split: [
            [random.integers(0, vocab_size, random.integers(0, 10)).tolist() for _ in range(n)]
            for n in random.integers(0, 7, count)
        ]
        for split, count in (("train", 60), ("validation", 9))
    }


def write(path: Path, tokenizer: WordPieceTokenizer, documents: Documents) -> Store:
    with StoreWriter(path, tokenizer) as writer:
        for split, members in documents.items():
            for sentences in members:
                stored = writer.add_document(split, sentences)
                assert stored == sum(bool(sentence) for sentence in sentences)
        return writer.finish({"name": "random"})


def read(split: Split) -> list[list[list[int]]]:
    """The documents of a split, by the meaning of the offsets."""
    starts = split.sentence_offsets
    sentences = [split.tokens[a:b].tolist() for a, b in zip(starts, starts[1:], strict=False)]
    starts = split.document_offsets
    return [sentences[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def without_empty(members: list[list[list[int]]]) -> list[list[list[int]]]:
    kept = [[sentence for sentence in sentences if sentence] for sentences in members]
    return [sentences for sentences in kept if sentences]


@pytest.fixture
def store(tmp_path: Path, tokenizer: WordPieceTokenizer) -> Store:
    return write(tmp_path / "store", tokenizer, random_documents(tokenizer.vocab_size))


def test_documents_come_back_without_empty_ones(
    store: Store, tokenizer: WordPieceTokenizer
) -> None:
    documents = random_documents(tokenizer.vocab_size)
    for name, members in documents.items():
        split = verify_store(store.path).split(name)
        expected = without_empty(members)
        assert expected != members
        assert read(split) == expected
        assert split.documents == len(expected)
        assert split.sentences == sum(map(len, expected))
        assert store.manifest["splits"][name] == {
            "documents": split.documents,
            "sentences": split.sentences,
            "tokens": len(split.tokens),
        }
        assert split.tokens.dtype == np.uint16
        assert split.sentence_offsets.dtype == split.document_offsets.dtype == np.int64
        assert not split.tokens.flags.writeable


def test_a_store_knows_its_tokenizer(store: Store, tokenizer: WordPieceTokenizer) -> None:
    opened = open_store(store.path)
    assert opened.special == tokenizer.special and opened.vocab_size == tokenizer.vocab_size
    assert opened.tokenizer.fingerprint == tokenizer.fingerprint
    assert opened.tokenizer.encode_batch(["the cat"]) == tokenizer.encode_batch(["the cat"])


def test_large_vocabularies_get_wider_tokens(tmp_path: Path) -> None:
    for size, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        words = [*SPECIAL_NAMES, *(f"w{number}" for number in range(size - 5))]
        tokenizer = WordPieceTokenizer(words, lower_case=True)
        store = write(tmp_path / f"{size}", tokenizer, {"train": [[[size - 1, 0]]]})
        assert store.split("train").tokens.dtype == dtype
        assert store.split("train").tokens.tolist() == [size - 1, 0]
        assert store.split("validation").documents == 0


def test_the_fingerprint_follows_content_not_place(
    tmp_path: Path, tokenizer: WordPieceTokenizer, store: Store
) -> None:
    same = write(tmp_path / "same", tokenizer, random_documents(tokenizer.vocab_size))
    other = write(tmp_path / "other", tokenizer, random_documents(tokenizer.vocab_size, seed=1))
    assert same.fingerprint == store.fingerprint == open_store(store.path).fingerprint
    assert other.fingerprint != store.fingerprint


@pytest.mark.parametrize("number", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(
    tmp_path: Path, tokenizer: WordPieceTokenizer, number: int
) -> None:
    with (
        StoreWriter(tmp_path / "store", tokenizer) as writer,
        pytest.raises(DataError, match=f"the vocabulary has {tokenizer.vocab_size}"),
    ):
        writer.add_document("train", [[3, number]])


def test_an_unfinished_store_leaves_nothing(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "store", tokenizer) as writer:
        writer.add_document("train", [[1]])
        assert (tmp_path / "store.tmp").is_dir() and not (tmp_path / "store").exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal
from pathlib import Path
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import load_tokenizer
writer = StoreWriter(Path({path!r}), load_tokenizer(Path({tokenizer!r})))
for _ in range(10000):
    writer.add_document("train", [[5, 6, 7]])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_cleared_away(
    tmp_path: Path, tokenizer: WordPieceTokenizer, tokenizer_directory: Path
) -> None:
    path = tmp_path / "store"
    program = KILLED.format(path=str(path), tokenizer=str(tokenizer_directory))
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "store.tmp" / "train" / "tokens.npy").stat().st_size > 0
    with pytest.raises(DataError, match="no store at"):
        open_store(path)
    documents = random_documents(tokenizer.vocab_size)
    write(path, tokenizer, documents)
    assert read(verify_store(path).split("train")) == without_empty(documents["train"])
    assert sorted(entry.name for entry in path.iterdir()) == [
        "store.json",
        "tokenizer",
        "train",
        "validation",
    ]
    assert not (tmp_path / "store.tmp").exists()


def test_only_one_writer_at_a_time(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        writer.add_document("train", [[1, 2]])
        with pytest.raises(OutputError, match="another process is writing"):
            StoreWriter(tmp_path / "store", tokenizer)
        writer.finish({})
    assert verify_store(tmp_path / "store").split("train").tokens.tolist() == [1, 2]


def test_what_is_there_already_is_left_alone(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    for name in ("file", "folder"):
        with pytest.raises(OutputError, match="exists already"):
            StoreWriter(tmp_path / name, tokenizer)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", tokenizer, {"train": [[[1]]]})


def test_an_unwritable_place_is_named(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to .*file/store.tmp: Not a directory"):
        StoreWriter(tmp_path / "file" / "store", tokenizer)


FULL = """
import resource
from pathlib import Path
from data_pipeline.errors import DiskError
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import load_tokenizer
tokenizer = load_tokenizer(Path({tokenizer!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with StoreWriter(Path({path!r}), tokenizer) as writer:
        for _ in range(100):
            writer.add_document("train", [[1] * 1000])
        writer.finish({{}})
except DiskError as error:
    print(error.exit_code, error)
"""


def test_a_full_disk_is_reported_and_cleaned_up(tmp_path: Path, tokenizer_directory: Path) -> None:
    """A limit on the size of files fails as a full disk does."""
    program = FULL.format(path=str(tmp_path / "store"), tokenizer=str(tokenizer_directory))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.startswith("74 writing "), done.stderr
    assert "free some space and start again" in done.stdout
    assert list(tmp_path.iterdir()) == [tokenizer_directory]


def change_manifest(store: Store, **changes: object) -> None:
    path = store.path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_flipped_bit_is_noticed(store: Store) -> None:
    random = np.random.default_rng(0)
    files = sorted(store.manifest["files"])
    assert len(files) == 8
    for name in files:
        path = store.path / name
        good = path.read_bytes()
        for _ in range(5):
            bad = bytearray(good)
            bad[random.integers(len(bad))] ^= 1 << random.integers(8)
            path.write_bytes(bad)
            with pytest.raises(DataError, match="does not have the checksum") as raised:
                verify_store(store.path)
            assert str(path) in str(raised.value)
        path.write_bytes(good)
    verify_store(store.path)


def test_missing_and_cut_files_are_named_at_opening(store: Store) -> None:
    path = store.path / "train" / "tokens.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"tokens.npy has {len(content) - 1:,} bytes instead of"):
        open_store(store.path)
    path.unlink()
    with pytest.raises(DataError, match="train/tokens.npy is missing"):
        open_store(store.path)


def test_other_versions_and_broken_manifests_are_refused(store: Store) -> None:
    change_manifest(store, format_version=2)
    with pytest.raises(DataError, match="store format 2, this version reads 1") as raised:
        open_store(store.path)
    assert raised.value.exit_code == 65
    (store.path / "store.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        open_store(store.path)
    good = dict(store.manifest)
    for name in ("tokenizer", "splits", "files"):
        for bad in (None, [], {"x": 1}, "text"):
            (store.path / "store.json").write_text(json.dumps(good | {name: bad}))
            with pytest.raises(DataError, match="is not as it was written|is missing"):
                open_store(store.path)
    (store.path / "store.json").write_text("[1]")
    with pytest.raises(DataError, match="store format None"):
        open_store(store.path)


def test_arrays_that_contradict_the_manifest_are_refused(store: Store) -> None:
    splits = dict(store.manifest["splits"])
    change_manifest(store, splits=splits | {"train": splits["train"] | {"documents": 1}})
    with pytest.raises(DataError, match="the arrays hold"):
        open_store(store.path).split("train")


def test_an_exchanged_tokenizer_is_noticed(store: Store) -> None:
    path = store.path / "tokenizer" / "vocab.txt"
    path.write_text(path.read_text().replace("cat\ndog", "dog\ncat"))
    with pytest.raises(DataError, match="is not the tokenizer that made this store"):
        _ = open_store(store.path).tokenizer


def test_object_arrays_are_never_unpickled(store: Store) -> None:
    path = store.path / "train" / "tokens.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    files = dict(store.manifest["files"])
    files["train/tokens.npy"] = {"bytes": os.path.getsize(path), "crc32": "0"}
    change_manifest(store, files=files)
    with pytest.raises(DataError, match="cannot be read as an array"):
        open_store(store.path).split("train")
