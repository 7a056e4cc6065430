# SPDX-License-Identifier: Apache-2.0
"""Documents from text files, JSONL, Parquet and TensorFlow Datasets, in bounded memory."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

from data_pipeline.corpora import CorpusOptions, Piece
from data_pipeline.errors import DataError
from data_pipeline.parquet_text import ParquetText
from data_pipeline.sentences import split_sentences
from data_pipeline.text_files import TextFile, find_gap, find_line
from data_pipeline.tfds_text import find_dataset

# A longer document is cut into several: it has to fit into memory, and nothing in training looks
# further than 512 tokens.
MAX_DOCUMENT_CHARACTERS = 1 << 24
MAX_PARAGRAPH_CHARACTERS = 1 << 20
# A longer line of a file with one sentence a line is no sentence.
MAX_SENTENCE_CHARACTERS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Document:
    """The sentences of one document, as text; none is empty, but there may be none."""

    sentences: list[str]
    cut: bool = False  # it was too long, and the next one goes on with it


def read_piece(piece: Piece, options: CorpusOptions) -> Iterator[Document]:
    """Streams the documents of one piece, cut into sentences.

    All pieces of a source in order give the documents of the source as a whole, except that a
    document of more than 16 MB may be cut elsewhere.

    Raises:
        DataError: content that cannot be used, with file and line.
        DiskError: reading failed.
    """
    name = piece.source.name
    if piece.source.format == "tfds":
        dataset = find_dataset(name, options.tfds_data_dir)
        for text in dataset.texts(options.text_field, piece.start, piece.stop):
            yield from _documents(text, options)
        return
    if piece.source.format == "parquet":
        yield from _read_parquet(piece, options)
        return
    cut = False
    if piece.source.format == "jsonl":
        start, stop = find_line(name, piece.start), piece.stop
        if stop is not None:
            stop = start if start >= stop else find_line(name, stop)
    else:
        (start, _), stop = find_gap(name, piece.start), piece.stop
        if stop is not None:
            stop, cut = find_gap(name, stop)
            cut |= piece.source.format == "prose" and start < stop < piece.source.bytes
        if start == stop:
            return
    with TextFile(name, start, stop) as file:
        if piece.source.format == "jsonl":
            yield from _read_jsonl(file, options)
            return
        read = _read_lines if piece.source.format == "lines" else _read_prose
        last: Document | None = None
        for document in read(file, options):
            if last:
                yield last
            last = document
        if last:
            yield dataclasses.replace(last, cut=cut)


def _read_lines(file: TextFile, options: CorpusOptions) -> Iterator[Document]:
    """Documents of one sentence a line."""
    for lines, cut in _groups(file.lines(), MAX_DOCUMENT_CHARACTERS):
        sentences = lines
        if max(map(len, lines)) > MAX_SENTENCE_CHARACTERS:
            sentences = [
                sentence
                for line in lines
                for sentence in (
                    _sentences([line], options) if len(line) > MAX_SENTENCE_CHARACTERS else [line]
                )
            ]
        yield Document(sentences, cut)


def _read_prose(file: TextFile, options: CorpusOptions) -> Iterator[Document]:
    """The text as one document, or as several if it is too long for the memory."""
    paragraphs: list[str] = []
    characters = 0
    for lines, _ in _groups(file.lines(), MAX_PARAGRAPH_CHARACTERS):
        if characters > MAX_DOCUMENT_CHARACTERS:
            yield Document(_sentences(paragraphs, options), cut=True)
            paragraphs, characters = [], 0
        paragraphs.append(" ".join(lines))
        characters += len(paragraphs[-1])
    yield Document(_sentences(paragraphs, options))


def _read_jsonl(file: TextFile, options: CorpusOptions) -> Iterator[Document]:
    """A document from each line that is not empty."""
    for line in file.lines(whole=True):
        if line.strip():
            text = _json_text(line, options.text_field, file)
            del line  # it may be 200 MB
            yield from _documents(text, options)


def _read_parquet(piece: Piece, options: CorpusOptions) -> Iterator[Document]:
    """A document from each row."""
    with ParquetText(piece.source.name) as file:
        for text in file.texts(options.text_field, piece.start, piece.stop):
            yield from _documents(text, options)


def _documents(text: str, options: CorpusOptions) -> Iterator[Document]:
    """The document of a text, or several if it is too long for the memory."""
    for part, more in _cut_text(text, MAX_DOCUMENT_CHARACTERS):
        yield Document(_sentences(part.split("\n"), options), more)


def _cut_text(text: str, limit: int) -> Iterator[tuple[str, bool]]:
    """Parts of up to `limit` characters, cut at a line end, else a sentence end, else a blank."""
    start = 0
    while len(text) - start > limit:
        ends = (text.rfind(mark, start, start + limit) + 1 for mark in ("\n", ". ", "。", " "))
        stop = next((end for end in ends if end > start), start + limit)
        yield text[start:stop], True
        start = stop
    yield text[start:], False


def _sentences(paragraphs: Iterable[str], options: CorpusOptions) -> list[str]:
    return [
        sentence
        for paragraph in paragraphs
        for part, _ in _cut_text(paragraph, MAX_PARAGRAPH_CHARACTERS)
        for sentence in split_sentences(part, options.language)
    ]


def _groups(lines: Iterable[str], limit: int) -> Iterator[tuple[list[str], bool]]:
    """Lines between empty lines, stripped; a longer group than `limit` characters is cut.

    Yields:
        The lines, at least one, and whether the next group goes on with them.
    """
    group: list[str] = []
    characters = 0
    for line in map(str.strip, lines):
        if group and (not line or characters > limit):
            yield group, bool(line)
            group, characters = [], 0
        if line:
            group.append(line)
            characters += len(line)
    if group:
        yield group, False


def _json_text(line: str, field: str, file: TextFile) -> str:
    """The text in one line of JSONL.

    Raises:
        DataError: no JSON object, or no text in the field; names the line.
    """
    try:
        example: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.line()}: not valid JSON: {error}") from error
    if not isinstance(example, dict) or field not in example:
        found = ", ".join(sorted(example)) if isinstance(example, dict) else type(example).__name__
        raise DataError(f"{file.line()}: no field {field!r} (found: {found}); see --text_field")
    text = example[field]
    if not isinstance(text, str):
        raise DataError(f"{file.line()}: field {field!r} holds {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON escapes can name half a surrogate pair, which no text may hold.
        return text.encode("utf-8", "ignore").decode("utf-8")
    return text
