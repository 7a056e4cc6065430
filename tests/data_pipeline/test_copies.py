# SPDX-License-Identifier: Apache-2.0
"""Near copies and repeated sentences in a store, against sets and counters over the text."""

import collections
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import copies, equal_hashes, near_copies
from data_pipeline.corpora import CorpusOptions
from data_pipeline.documents import Document
from data_pipeline.errors import UsageError
from data_pipeline.parts import Counts, encode
from data_pipeline.prepare import prepare, summary
from data_pipeline.store import Store
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.test_prepare import decoded, write_lines

WORDS = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "ab", "er", "in")]


@pytest.fixture(scope="module")
def words() -> WordPieceTokenizer:
    """A tokenizer in which each word is one token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return WordPieceTokenizer([*special, *WORDS], lower_case=True)


def sentence(random: np.random.Generator, length: int = 12) -> str:
    return " ".join(random.choice(WORDS, length))


def changed(random: np.random.Generator, document: list[str], share: float) -> list[str]:
    """The document with some share of its words replaced."""
    return [
        " ".join(str(random.choice(WORDS)) if random.random() < share else w for w in line.split())
        for line in document
    ]


def make(path: Path, documents: list[list[str]], tokenizer: WordPieceTokenizer, **options) -> Store:
    files = path / "text"
    files.mkdir()
    for number in range(4):
        write_lines(files / f"{number}.txt", documents[number::4])
    corpus = CorpusOptions(f"{files}/*.txt", format="lines")
    return prepare(corpus, tokenizer, path / "store", validation_fraction=0.1, **options)


def texts(store: Store) -> list[list[str]]:
    return [document for name in ("train", "validation") for document in decoded(store, name)]


@pytest.mark.parametrize("at_once", [1 << 23, 50])
def test_near_copies_are_left_out(
    tmp_path: Path, words: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(equal_hashes, "_AT_ONCE", at_once)
    monkeypatch.setattr(near_copies, "_PAIRS_AT_ONCE", 7)
    random = np.random.default_rng(0)
    originals = [[sentence(random) for _ in range(20)] for _ in range(60)]
    nearly = [changed(random, document, 0.005) for document in originals[:20]]
    other = [changed(random, document, 0.15) for document in originals[20:40]]
    # Files take turns in `make`; the originals come first in each of them.
    store = make(tmp_path, originals + nearly + other, words, duplicates="near")
    kept = {"\n".join(document) for document in texts(store)}
    expected = {"\n".join(document) for document in originals + other}
    assert kept == expected
    assert store.manifest["counts"]["dropped_documents"] == 20
    assert "20 copies of documents left out" in summary(store)


def test_exact_search_keeps_near_copies(tmp_path: Path, words: WordPieceTokenizer) -> None:
    random = np.random.default_rng(0)
    documents = [[sentence(random) for _ in range(20)] for _ in range(8)]
    documents += [changed(random, document, 0.03) for document in documents]
    store = make(tmp_path, documents + documents[:4], words, duplicates="exact")
    assert sorted(texts(store)) == sorted(documents)


@pytest.mark.parametrize("at_once", [1 << 23, 50])
def test_often_repeated_sentences_are_kept_once(
    tmp_path: Path, words: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(equal_hashes, "_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    often, seldom = sentence(random), sentence(random)
    short = sentence(random, copies.SHORTEST_SENTENCE - 1)
    documents = [[sentence(random), sentence(random), short] for _ in range(30)]
    for number in range(0, 20):
        documents[number].insert(number % 3, often)
    for number in range(10, 13):
        documents[number].append(seldom)
    documents.append([often])
    store = make(tmp_path, documents, words, repeated_sentences=3)
    counted = collections.Counter(line for document in texts(store) for line in document)
    assert counted[often] == 1
    assert counted[seldom] == 3
    assert counted[short] == 30
    assert sum(counted.values()) == sum(map(len, documents)) - 20
    counts = store.manifest["counts"]
    assert counts["dropped_sentences"] == 20
    assert counts["dropped_documents"] == 1  # the one that held nothing else
    first = next(document for document in decoded(store, "train") if often in document)
    assert first in documents[:4]  # one of the first documents of the four files


def test_each_split_keeps_a_document_when_sentences_are_dropped(
    tmp_path: Path, words: WordPieceTokenizer
) -> None:
    random = np.random.default_rng(0)
    often = sentence(random)
    documents = [[often, sentence(random)] for _ in range(4)]
    hashes = [encode([Document(d)], words, Counts()).text_hashes[0] for d in documents]
    # A document that loses all it has, and would be the one that is held out.
    gone = next(
        document
        for document in ([often] * times for times in range(1, 200))
        if encode([Document(document)], words, Counts()).text_hashes[0] < min(hashes)
    )
    store = make(tmp_path, [*documents, gone], words, repeated_sentences=1)
    assert len(decoded(store, "train")) == 3 and len(decoded(store, "validation")) == 1
    counts = store.manifest["counts"]
    assert counts["characters"] == sum(len(line) for d in texts(store) for line in d)


def test_sentences_of_dropped_copies_do_not_count(
    tmp_path: Path, words: WordPieceTokenizer
) -> None:
    random = np.random.default_rng(0)
    documents = [[sentence(random), sentence(random)] for _ in range(8)]
    store = make(tmp_path, documents * 3, words, duplicates="exact", repeated_sentences=1)
    assert sorted(texts(store)) == sorted(documents)
    assert store.manifest["counts"]["dropped_sentences"] == 0


def test_a_negative_number_is_refused(tmp_path: Path, words: WordPieceTokenizer) -> None:
    with pytest.raises(UsageError, match="--repeated_sentences=-1 must not be negative"):
        make(tmp_path, [["ba"]], words, repeated_sentences=-1)
