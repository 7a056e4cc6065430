# SPDX-License-Identifier: Apache-2.0
"""Parts into arrays: what stays, against plain Python over lists of sentences."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline import equal_hashes, merge
from data_pipeline.copies import Drops, find_copies, no_documents
from data_pipeline.corpora import CorpusOptions, Piece, Unit, find_sources
from data_pipeline.documents import Document
from data_pipeline.merge import hash_range, write_arrays
from data_pipeline.parts import Counts, Part, PartJob, encode, part_path
from data_pipeline.prepare import prepare, summary
from data_pipeline.store_writer import StoreWriter
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.test_prepare import decoded, random_documents, write_lines

FILES = 4


@pytest.fixture
def documents() -> list[list[list[str]]]:
    """Documents of each of four files; some occur again, in the same file or another."""
    made = random_documents(60)
    random = np.random.default_rng(1)
    return [
        [made[number] for number in random.integers(0, 60, 30)] + [made[0]] for _ in range(FILES)
    ]


@pytest.fixture
def parts(
    tmp_path: Path, documents: list[list[list[str]]], tokenizer: WordPieceTokenizer
) -> list[Path]:
    """A part for each file."""
    for number, members in enumerate(documents):
        write_lines(tmp_path / f"{number}.txt", members)
    corpus = CorpusOptions(f"{tmp_path}/*.txt", format="lines")
    directory = tmp_path / "parts"
    directory.mkdir()
    units = [
        Unit(number, (Piece(source),), source.bytes)
        for number, source in enumerate(find_sources(corpus))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.parts._CHUNK_CHARACTERS", 200)
        for unit in units:
            PartJob(str(directory), corpus, tokenizer)(unit)
    return [part_path(directory, unit.number) for unit in units]


@pytest.mark.parametrize("at_once", [1 << 23, 40, 7])
def test_copies_are_all_but_the_first(
    tmp_path: Path,
    parts: list[Path],
    documents: list[list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(equal_hashes, "_AT_ONCE", at_once)
    seen: set[str] = set()
    expected = []
    for members in documents:
        texts = ["\n".join(document) for document in members]
        expected.append([text in seen or seen.add(text) is not None for text in texts])
    found = find_copies(parts, tmp_path / "scratch")
    assert [copies.tolist() for copies in found] == expected
    assert 40 < sum(map(sum, expected)) < 100


def test_no_parts_hold_no_copies(tmp_path: Path) -> None:
    assert find_copies([], tmp_path / "scratch") == []


def test_documents_and_sentences_are_dropped(
    tmp_path: Path,
    parts: list[Path],
    documents: list[list[list[str]]],
    tokenizer: WordPieceTokenizer,
) -> None:
    random = np.random.default_rng(3)
    documents_dropped = [random.random(len(members)) < 0.3 for members in documents]
    sentences_dropped = [random.random(sum(map(len, members))) < 0.4 for members in documents]
    drops = Drops(documents_dropped, sentences_dropped.__getitem__)
    with Part(parts[0]) as part:
        assert part.blocks > 3
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        totals = write_arrays(parts, writer, 1 << 63, drops, tokenizer.special.unk)
        store = writer.finish({})
    sides = {"train": [], "validation": []}
    gone = 0
    for members, dropped, marks in zip(
        documents, documents_dropped, map(iter, sentences_dropped), strict=True
    ):
        for document, away in zip(members, dropped, strict=True):
            kept = [s for s, mark in [(s, next(marks)) for s in document] if not mark and not away]
            place = encode([Document(document)], tokenizer, Counts()).text_hashes[0]
            gone += not kept
            if kept:
                sides["validation" if place < 1 << 63 else "train"].append(kept)
    assert min(map(len, sides.values())) > 10
    for name, expected in sides.items():
        assert decoded(store, name) == expected
    assert totals.dropped_documents == gone > 20


def test_the_range_of_hashes_is_that_of_what_stays(parts: list[Path]) -> None:
    drops = Drops(no_documents(parts, parts[0].parent))
    hashes = []
    for path in parts:
        with Part(path) as part:
            hashes.append(part.column("text_hashes"))
    together = np.concatenate(hashes)
    assert hash_range(parts, drops) == (together.min(), together.max())
    drops.documents[0][hashes[0] == together.max()] = True
    for number, found in enumerate(hashes):
        drops.documents[number][found == together.max()] = True
    assert hash_range(parts, drops)[1] == np.unique(together)[-2]
    for dropped in drops.documents:
        dropped[:] = True
    assert hash_range(parts, drops) == (merge.HASHES, -1)


def test_copies_are_dropped_by_choice_and_counted(
    tmp_path: Path, documents: list[list[list[str]]], tokenizer: WordPieceTokenizer
) -> None:
    for number, members in enumerate(documents):
        write_lines(tmp_path / f"{number}.txt", members)
    corpus = CorpusOptions(f"{tmp_path}/*.txt", format="lines")
    kept = prepare(corpus, tokenizer, tmp_path / "kept", validation_fraction=0.2)
    once = prepare(
        corpus, tokenizer, tmp_path / "once", validation_fraction=0.2, duplicates="exact"
    )
    every = ["\n".join(document) for members in documents for document in members]
    for name in ("train", "validation"):
        texts = ["\n".join(document) for document in decoded(kept, name)]
        assert ["\n".join(document) for document in decoded(once, name)] == list(
            dict.fromkeys(texts)
        )
    copies = len(every) - len(set(every))
    assert kept.manifest["counts"]["dropped_documents"] == 0
    assert once.manifest["counts"]["dropped_documents"] == copies
    assert f", {copies:,} copies of documents left out" in summary(once)
