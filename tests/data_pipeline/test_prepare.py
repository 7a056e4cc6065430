# SPDX-License-Identifier: Apache-2.0
"""Preparing a store: what goes in comes out, split by document, once."""

import gzip
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import parts
from data_pipeline.corpora import CorpusOptions
from data_pipeline.errors import DataError, OutputError, UsageError
from data_pipeline.prepare import prepare, summary
from data_pipeline.store import Store, open_store, verify_store
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.command import assert_fails, run

WORDS = ["the", "cat", "dog", "sat", "on", "mat", "king", "went", "home", "and", "he", "said"]


def random_documents(count: int, seed: int = 0) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [
        [" ".join(random.choice(WORDS, random.integers(1, 9))) + "." for _ in range(n)]
        for n in random.integers(1, 6, count)
    ]


def write_lines(path: Path, documents: list[list[str]]) -> Path:
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def decoded(store: Store, name: str) -> list[list[str]]:
    """The documents of a split as text."""
    split = store.split(name)
    offsets = split.sentence_offsets
    texts = [
        store.tokenizer.decode(split.tokens[a:b]).replace(" .", ".")
        for a, b in itertools.pairwise(offsets)
    ]
    return [texts[a:b] for a, b in itertools.pairwise(split.document_offsets)]


def test_every_document_lands_in_one_split_unchanged(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    documents = random_documents(300)
    path = write_lines(tmp_path / "a.txt", documents)
    store = prepare(
        CorpusOptions(str(path)), tokenizer, tmp_path / "store", validation_fraction=0.2
    )
    train, held_out = decoded(store, "train"), decoded(store, "validation")
    assert sorted(train + held_out) == sorted(documents)
    assert 30 <= len(held_out) <= 90
    in_order = iter(documents)
    assert all(document in in_order for document in train)
    verify_store(store.path)


def test_copies_of_a_document_land_on_the_same_side(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    documents = random_documents(200)
    write_lines(tmp_path / "a.txt", documents)
    write_lines(tmp_path / "b.txt", documents[::-1])
    corpus = CorpusOptions(f"{tmp_path}/*.txt")
    store = prepare(corpus, tokenizer, tmp_path / "store", validation_fraction=0.3)
    train = {"\n".join(document) for document in decoded(store, "train")}
    held_out = {"\n".join(document) for document in decoded(store, "validation")}
    assert not train & held_out
    assert store.split("train").documents == 2 * len(
        [document for document in documents if "\n".join(document) in train]
    )


def test_the_split_does_not_depend_on_order_or_compression(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    documents = random_documents(200)
    plain = write_lines(tmp_path / "a.txt", documents)
    other = tmp_path / "b.txt.gz"
    other.write_bytes(gzip.compress(write_lines(tmp_path / "b.txt", documents[::-1]).read_bytes()))
    stores = [
        prepare(CorpusOptions(str(path)), tokenizer, tmp_path / name, validation_fraction=0.1)
        for name, path in (("plain", plain), ("other", other))
    ]
    held_out = [sorted(decoded(store, "validation")) for store in stores]
    assert held_out[0] == held_out[1] != []


def test_the_split_stays_the_same_in_later_versions(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    """Stores of old and new versions must not hold out different documents."""
    path = write_lines(tmp_path / "a.txt", [[f"{a} {b}.", "He sat."] for a in WORDS for b in WORDS])
    corpus = CorpusOptions(str(path), format="lines")
    store = prepare(corpus, tokenizer, tmp_path / "store", validation_fraction=0.05)
    held_out = [document[0] for document in decoded(store, "validation")]
    assert " ".join(held_out) == (
        "cat cat. cat went. dog cat. dog said. sat king. mat sat. king king. went king. home on."
    )


def test_chunks_change_nothing(
    tmp_path: Path, tokenizer: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = CorpusOptions(str(write_lines(tmp_path / "a.txt", random_documents(100))))
    whole = prepare(corpus, tokenizer, tmp_path / "whole", validation_fraction=0.1)
    monkeypatch.setattr(parts, "_CHUNK_CHARACTERS", 50)
    cut = prepare(corpus, tokenizer, tmp_path / "parts", validation_fraction=0.1)
    assert cut.fingerprint == whole.fingerprint


@pytest.mark.parametrize("fraction", [1e-9, 0.02, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_tiny_corpus_has_a_document_on_each_side(
    tmp_path: Path, tokenizer: WordPieceTokenizer, fraction: float, count: int
) -> None:
    path = write_lines(tmp_path / "a.txt", random_documents(count))
    corpus = CorpusOptions(str(path), format="lines")
    store = prepare(corpus, tokenizer, tmp_path / "store", validation_fraction=fraction)
    documents = [store.split(name).documents for name in ("train", "validation")]
    assert min(documents) >= 1 and sum(documents) == count
    if fraction < 0.01:
        assert documents[1] == 1


def test_unusual_documents_are_kept(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    """One word; a sentence longer than any sequence; no text after cleaning."""
    long = " ".join(["the cat sat"] * 400) + "."
    path = write_lines(tmp_path / "a.txt", [["Cat"], [long], ["\u200b", "\ufffd"], ["the dog."]])
    store = prepare(CorpusOptions(str(path), format="lines"), tokenizer, tmp_path / "store")
    documents = decoded(store, "train") + decoded(store, "validation")
    assert sorted(documents) == sorted([["cat"], [long], ["the dog."]])
    assert store.manifest["counts"]["empty_documents"] == 1
    splits = [store.split("train"), store.split("validation")]
    assert max(np.diff(split.sentence_offsets).max() for split in splits) > 512


def test_the_manifest_says_what_is_inside(tmp_path: Path, tokenizer: WordPieceTokenizer) -> None:
    path = write_lines(tmp_path / "a.txt", [["The cat.", "☃"], ["the dog."], ["so ☃."]])
    store = prepare(
        CorpusOptions(str(path), format="lines"),
        tokenizer,
        tmp_path / "store",
        licence="CC0-1.0",
        provenance="made up",
    )
    manifest = store.manifest
    assert manifest["name"] == "store"
    assert (manifest["licence"], manifest["provenance"]) == ("CC0-1.0", "made up")
    assert manifest["sources"] == [
        {"name": str(path), "format": "lines", "bytes": path.stat().st_size}
    ]
    assert manifest["counts"] == {
        "characters": 22,
        "unknown_tokens": 2,
        "empty_documents": 0,
        "dropped_documents": 0,
        "dropped_sentences": 0,
        "cut_documents": 0,
        "nul_characters": 0,
    }
    tokens = sum(split["tokens"] for split in manifest["splits"].values())
    assert tokens == 3 + 1 + 3 + 4  # the cat . | ☃ | the dog . | s ##o ☃ .
    assert manifest["options"]["validation_fraction"] == 0.02
    assert set(manifest["versions"]) == {"python", "unicode", "tokenizers", "sentencex"}
    assert f"[UNK] {2 / tokens:.3%}" in summary(store)


def test_a_finished_store_is_recognised(
    tmp_path: Path, tokenizer: WordPieceTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(tmp_path / "a.txt", random_documents(20))
    output = tmp_path / "store"
    first = prepare(CorpusOptions(str(path)), tokenizer, output)
    times = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    again = prepare(CorpusOptions(str(path)), tokenizer, output)
    assert "nothing left to do" in capsys.readouterr().out
    assert again.fingerprint == first.fingerprint
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*")} == times


def test_a_store_of_other_options_is_not_taken_for_it(
    tmp_path: Path, tokenizer: WordPieceTokenizer, vocabulary: list[str]
) -> None:
    path = write_lines(tmp_path / "a.txt", random_documents(20))
    output = tmp_path / "store"
    corpus = CorpusOptions(str(path))
    prepare(corpus, tokenizer, output)
    with pytest.raises(OutputError, match=r"validation_fraction: 0\.02 there, 0\.1 asked for"):
        prepare(corpus, tokenizer, output, validation_fraction=0.1)
    with pytest.raises(OutputError, match="language: en there, de asked for"):
        prepare(CorpusOptions(str(path), language="de"), tokenizer, output)
    with pytest.raises(OutputError, match="tokenizer: "):
        prepare(corpus, WordPieceTokenizer(vocabulary, lower_case=False), output)
    path.write_text(path.read_text() + "\nOne more.\n")
    with pytest.raises(OutputError, match="sources: ") as raised:
        prepare(corpus, tokenizer, output)
    assert raised.value.exit_code == 73
    open_store(output)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no text in"),
        (" \n\n\u200b\n", "there is no text in"),
        ("The cat.\nThe dog.\n", "holds one document only, and one has to be held out"),
        ("The cat.\n\nThe cat.\n\nThe cat.\n", "holds one document only"),
    ],
)
def test_too_little_text_is_refused(
    tmp_path: Path, tokenizer: WordPieceTokenizer, text: str, message: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        prepare(CorpusOptions(str(path), format="lines"), tokenizer, tmp_path / "store")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fraction", [0, 1, -1, 1.5, float("nan")])
def test_impossible_fractions_are_refused(
    tmp_path: Path, tokenizer: WordPieceTokenizer, fraction: float
) -> None:
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        prepare(CorpusOptions("x"), tokenizer, tmp_path, validation_fraction=fraction)


def test_bad_bytes_in_the_middle_leave_nothing_behind(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"The cat sat.\n\n" * 1000 + b"caf\xe9\n")
    with pytest.raises(DataError, match="a.txt, line 2001: byte 14,003 "):
        prepare(CorpusOptions(str(path), format="lines"), tokenizer, tmp_path / "store")
    assert list(tmp_path.iterdir()) == [path]


def test_the_command(tmp_path: Path, tokenizer_directory: Path) -> None:
    path = write_lines(tmp_path / "a.txt", random_documents(50))
    arguments = [
        f"--input={path}",
        f"--tokenizer={tokenizer_directory}",
        f"--output={tmp_path / 'store'}",
    ]
    done = run("prepare", *arguments)
    assert done.returncode == 0, done.stderr
    assert "parts: 1 of 1, done in" in done.stderr and "read as lines: " in done.stderr
    assert "[UNK] 0.000% of the tokens" in done.stdout
    assert json.loads((tmp_path / "store" / "store.json").read_text())["licence"] == ""
    again = run("prepare", *arguments)
    assert again.returncode == 0 and "nothing left to do" in again.stdout
    assert_fails(run("prepare", *arguments, "--language=de"), 73, "language: en there, de asked")
    assert_fails(run("prepare", *arguments, "--format=xml"), 64, "--format=xml is unknown")
    assert_fails(run("prepare", *arguments[1:]), 64, "--input is missing")
    assert_fails(run("prepare", *arguments, "--colour=red"), 64, "Unknown command line flag")
    arguments[2] = f"--output={path}/store"
    assert_fails(run("prepare", *arguments), 73, f"cannot write to {path}/store.tmp")
    shutil.rmtree(tokenizer_directory)
    assert_fails(run("prepare", *arguments), 65, "no tokenizer at")
