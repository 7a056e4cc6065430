# SPDX-License-Identifier: Apache-2.0
"""Documents from files of every format."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from data_pipeline import documents
from data_pipeline.corpora import CorpusOptions, detect_format, find_sources
from data_pipeline.errors import DataError, UsageError
from data_pipeline.sentences import split_sentences
from tests.data_pipeline.corpus import read_corpus

DOCUMENTS = [
    ["The cat sat.", "It was warm.", "“Why?” asked the dog."],
    ["A king went home."],
    ["He said so.", "So it was."],
]
LINES = "\n\n".join("\n".join(document) for document in DOCUMENTS) + "\n"
PROSE = """The cat sat on
the mat. It was
warm there.

Mr. Smith said: "Why? Who knows." He went to Washington, D.C. on Jan. 5th.
"""
PROSE_SENTENCES = [
    "The cat sat on the mat.",
    "It was warm there.",
    'Mr. Smith said: "Why? Who knows."',
    "He went to Washington, D.C. on Jan. 5th.",
]


def read(inputs: str, **options: str) -> list[list[str]]:
    corpus = CorpusOptions(inputs, **options)
    return read_corpus(corpus)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_one_sentence_a_line(tmp_path: Path, suffix: str) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"corpus.txt{suffix}"
    path.write_bytes(compress(LINES.replace("\n\n", "\n \n\n\n").encode()))
    assert read(str(path)) == DOCUMENTS
    assert read(str(path), format="lines") == DOCUMENTS


def test_lines_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Two. Sentences.\nhalf of\na third\n")
    assert read(f"{tmp_path}/a.txt", format="lines") == [["Two. Sentences.", "half of", "a third"]]


def test_prose_is_one_document_a_file(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(PROSE)
    assert read(f"{tmp_path}/*.txt") == [PROSE_SENTENCES] * 2
    assert read(f"{tmp_path}/a.txt", format="prose") == [PROSE_SENTENCES]


def test_jsonl_is_one_document_a_line(tmp_path: Path) -> None:
    rows = [
        {"text": "The cat sat. It was warm.\nA heading\n\nThe end.", "id": 1},
        {"text": ""},
        {"text": "half \ud83d a pair and 😀"},
    ]
    content = "\n\n".join(json.dumps(row) for row in rows)
    expected = [
        ["The cat sat.", "It was warm.", "A heading", "The end."],
        [],
        ["half  a pair and 😀"],
    ]
    for name in ("a.jsonl", "a.ndjson", "a.txt"):
        (tmp_path / name).write_text(content)
        assert read(str(tmp_path / name)) == expected
    (tmp_path / "b.jsonl").write_text('{"body": "The cat sat."}')
    assert read(f"{tmp_path}/b.jsonl", text_field="body") == [["The cat sat."]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"', "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ('["text"]', "line 2: no field 'text' (found: list); see --text_field"),
        ('{"body": "x", "id": 3}', "line 2: no field 'text' (found: body, id)"),
        ('{"text": 3}', "line 2: field 'text' holds int, not text"),
    ],
)
def test_broken_jsonl_is_located(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' + line + '\n{"text": "fine"}\n')
    with pytest.raises(DataError) as raised:
        read(str(path))
    assert f"{path}, {message}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", LINES, "lines"),
        ("a.txt", PROSE, "prose"),
        ("a.txt", "One paragraph. It has three. Sentences.\n" * 5, "prose"),
        ("a.txt", "One of two. Here.\n" * 3 + "Alone.\n" * 2, "prose"),
        ("a.txt", "One of two. Here.\n" * 2 + "Alone.\n" * 3, "lines"),
        ("a.txt", "no marks at the end\n" * 5, "prose"),
        ("a.txt", "wrapped in the middle of\n" * 3 + "the line.\n" * 2, "prose"),
        ("a.txt", "A heading\n" * 2 + "A sentence.\n" * 3, "lines"),
        ("a.txt", "“Is it so?”\n(Yes.)\n彼は帰った。\n", "lines"),
        ("a.txt", '{"text": "x"}\n', "jsonl"),
        ("a.txt", "{not json}.\n{really}.\n", "lines"),
        ("a.jsonl", LINES, "jsonl"),
        ("a.txt", "\n\n", "prose"),
    ],
)
def test_formats_are_detected(tmp_path: Path, name: str, content: str, expected: str) -> None:
    for suffix, compress in (("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)):
        path = tmp_path / (name + suffix)
        path.write_bytes(compress(content.encode()))
        found, reason = detect_format(path)
        assert found == expected
        assert reason


def test_inputs_are_globs_and_each_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "odd [1].txt"):
        (tmp_path / name).write_text(f"This is {Path(name).name}.\n")
    names = [source.name for source in find_sources(CorpusOptions(f"{tmp_path}/*.txt"))]
    assert names == [f"{tmp_path}/{name}" for name in ("a.txt", "b.txt", "odd [1].txt")]
    inputs = f"{tmp_path}/b.txt, {tmp_path}/**/?.txt,{tmp_path}/odd [1].txt"
    names = [Path(source.name).name for source in find_sources(CorpusOptions(inputs))]
    assert names == ["b.txt", "a.txt", "c.txt", "odd [1].txt"]


def test_inputs_that_lead_nowhere(tmp_path: Path) -> None:
    for inputs, message in (
        (f"{tmp_path}/*.txt", "no file matches"),
        (f"{tmp_path}/missing.txt", "no file matches"),
        (str(tmp_path), "is a directory; give its files"),
    ):
        with pytest.raises(DataError, match=message):
            find_sources(CorpusOptions(inputs))
    with pytest.raises(UsageError, match="--input is empty"):
        find_sources(CorpusOptions(" , "))
    with pytest.raises(UsageError, match="--format=xml is unknown; choose from auto, lines"):
        find_sources(CorpusOptions("x", format="xml"))


def test_documents_larger_than_memory_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_CHARACTERS", 100)
    monkeypatch.setattr(documents, "MAX_PARAGRAPH_CHARACTERS", 50)
    sentences = [f"This is sentence number {number}." for number in range(100)]
    (tmp_path / "a.txt").write_text("\n".join(sentences))
    for format_name in ("lines", "prose"):
        read_back = read(f"{tmp_path}/a.txt", format=format_name)
        assert [sentence for document in read_back for sentence in document] == sentences
        assert len(read_back) > 10
        assert max(sum(map(len, document)) for document in read_back) < 250


def test_sentences_follow_the_language() -> None:
    assert split_sentences("他来了。你好！", "zh") == ["他来了。", "你好！"]
    assert split_sentences("Das ist z.B. gut. Ja.", "de") == ["Das ist z.B. gut.", "Ja."]
    assert split_sentences(" \n ", "en") == []
