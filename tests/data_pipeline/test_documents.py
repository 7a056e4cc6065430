# SPDX-License-Identifier: Apache-2.0
"""Documents read in units are those of the whole corpus; unusual text is handled and counted."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import corpora, documents, text_files
from data_pipeline.corpora import CorpusOptions, Source, cut_units, find_sources
from data_pipeline.documents import read_piece
from data_pipeline.prepare import prepare, summary
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.corpus import read_corpus
from tests.data_pipeline.test_prepare import decoded

TEXTS = {
    "Arabic": ["ذهب الملك إلى البيت.", "هل رأيته؟"],
    "Hebrew": ["המלך הלך הביתה.", "הוא אמר שלום."],
    "Chinese": ["国王回家了。", "他说你好。"],
    "Japanese": ["王様は家に帰った。", "猫がいる。"],
    "mixed": ["The king said שלום and 你好.", "Ça va‽"],
}


def read_units(corpus: CorpusOptions) -> list[list[str]]:
    """The documents of all units in order."""
    units = cut_units(find_sources(corpus))
    assert [unit.number for unit in units] == list(range(len(units)))
    pieces = [piece for unit in units for piece in unit.pieces]
    return [document.sentences for piece in pieces for document in read_piece(piece, corpus)]


LINE = st.sampled_from(["", " ", "He sat.", "Grüße.", "猫。", "\r", "a b c"])


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(LINE, max_size=80), unit=st.integers(1, 200), end=st.sampled_from(["\n", "\r\n"])
)
def test_units_of_lines_are_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], unit: int, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(end.join(lines).encode())
    corpus = CorpusOptions(str(path), format="lines")
    whole = read_corpus(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_UNIT_BYTES", (unit, unit))
        assert read_units(corpus) == whole


@pytest.mark.parametrize("unit", [1, 10, 33, 1000])
def test_units_of_json_are_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: int
) -> None:
    texts = [f"This is number {number}. " * (number % 5) for number in range(50)]
    content = "\r\n".join(json.dumps({"text": text}) + "\n" * (len(text) % 2) for text in texts)
    (tmp_path / "a.jsonl").write_text(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    corpus = CorpusOptions(f"{tmp_path}/*")
    whole = read_corpus(corpus)
    assert [" ".join(sentences) for sentences in whole] == [text.strip() for text in texts] * 2
    monkeypatch.setattr(corpora, "_UNIT_BYTES", (unit, unit))
    assert read_units(corpus) == whole


def test_small_files_share_a_unit_and_archives_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_UNIT_BYTES", (1000, 1000))
    sources = [Source(f"{n}.txt", "prose", 300) for n in range(6)]
    sources += [Source("a.txt.gz", "lines", 5000), Source("b.txt", "lines", 2500)]
    units = cut_units(sources)
    assert [[(p.source.name, p.start, p.stop) for p in unit.pieces] for unit in units] == [
        [(f"{n}.txt", 0, None) for n in range(4)],
        [("4.txt", 0, None), ("5.txt", 0, None), ("a.txt.gz", 0, None)],
        [("b.txt", 0, 1000)],
        [("b.txt", 1000, 2000)],
        [("b.txt", 2000, None)],
    ]
    assert sum(unit.bytes for unit in units) == sum(source.bytes for source in sources)


def test_large_prose_is_cut_behind_an_empty_line_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: WordPieceTokenizer
) -> None:
    monkeypatch.setattr(corpora, "PROSE_BYTES", 200)
    paragraphs = [f"The cat sat on the {'ab' * (n % 7 + 1)}. He went home." for n in range(40)]
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(paragraphs))
    corpus = CorpusOptions(str(path), format="prose")
    read = read_units(corpus)
    assert [" ".join(sentences) for sentences in read] != paragraphs
    assert " ".join(s for sentences in read for s in sentences) == " ".join(paragraphs)
    assert all(len(sentences) % 2 == 0 for sentences in read)
    store = prepare(corpus, tokenizer, tmp_path / "store")
    assert store.manifest["counts"]["cut_documents"] == len(read) - 1 > 3


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("kind", ["lines", "prose", "jsonl"])
def test_any_script(tmp_path: Path, language: str, kind: str) -> None:
    sentences = TEXTS[language]
    joined = " ".join(sentences)
    text = {
        "lines": "\n".join(sentences),
        "prose": joined,
        "jsonl": json.dumps({"text": joined}, ensure_ascii=False),
    }[kind]
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert read_units(CorpusOptions(str(path), format=kind)) == [sentences]


def test_nul_empty_documents_and_mixed_ends_are_handled_and_counted(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"the c\x00at.\r\nhe sat.\n\n\x00\x00\n\n\xe2\x80\x8b\r\n\r\n\r\n\n"
        b"the dog.\rthe king.\n \t\na mat.\r\rhome.\n\n\n"
    )
    store = prepare(CorpusOptions(str(path), format="lines"), tokenizer, tmp_path / "store")
    found = sorted(decoded(store, "train") + decoded(store, "validation"))
    assert found == [["a mat."], ["home."], ["the cat.", "he sat."], ["the dog.", "the king."]]
    counts = store.manifest["counts"]
    assert (counts["nul_characters"], counts["empty_documents"]) == (3, 2)
    assert "2 empty documents left out" in summary(store)
    assert "3 NUL characters left out" in summary(store)


@pytest.mark.parametrize("kind", ["lines", "prose", "jsonl", "wide"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_document_on_one_endless_line_is_cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: WordPieceTokenizer,
    kind: str,
    suffix: str,
) -> None:
    """All limits a thousandth of what they are."""
    for module, name in (
        (text_files, "MAX_LINE_BYTES"),
        (documents, "MAX_PARAGRAPH_CHARACTERS"),
        (documents, "MAX_SENTENCE_CHARACTERS"),
        (documents, "MAX_DOCUMENT_CHARACTERS"),
        (text_files, "MAX_GAP_BYTES"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) // 1000)
    monkeypatch.setattr(corpora, "_UNIT_BYTES", (4000, 1 << 28))
    random = np.random.default_rng(0)
    words = [*"abcdefgh", "cat.", "dog."] if kind != "wide" else ["猫。", "犬", "人"]
    text = ("" if kind == "wide" else " ").join(random.choice(words, 60_000))
    name = f"a.{'jsonl' if kind == 'jsonl' else 'txt'}{suffix}"
    content = json.dumps({"text": text}) if kind == "jsonl" else text
    encoded = f"{content}\n\n{content[:0]}".encode()
    (tmp_path / name).write_bytes(gzip.compress(encoded) if suffix else encoded)
    corpus = CorpusOptions(
        f"{tmp_path}/{name}", format="lines" if kind == "wide" else kind, language="zh"
    )
    read = read_units(corpus)
    together = "".join(sentence for sentences in read for sentence in sentences)
    assert together.replace(" ", "") == text.replace(" ", "")
    assert len(read) >= 4
    assert max(sum(map(len, sentences)) for sentences in read) < 3 * 16_777
    if kind != "prose":
        assert max(len(s) for sentences in read for s in sentences) < 200
    store = prepare(corpus, tokenizer, tmp_path / "store")
    assert store.manifest["counts"]["cut_documents"] == len(read) - 1
