# SPDX-License-Identifier: Apache-2.0
"""Documents from text files, JSONL and TensorFlow Datasets, as a stream in bounded memory.

Formats of files, each also compressed (.gz, .zst):
    lines: one sentence a line, an empty line between documents, as the original BERT reads.
    prose: one document a file, paragraphs between empty lines; sentences are found later.
    jsonl: one JSON object a line with the document in a field; a line end in it ends a paragraph.
"""

import dataclasses
import glob
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from absl import flags, logging

from data_pipeline.errors import DataError, UsageError
from data_pipeline.sentences import split_sentences
from data_pipeline.text_files import TextFile
from data_pipeline.tfds_text import find_dataset

FORMATS = ("auto", "lines", "prose", "jsonl")
# A longer document is cut at a line end: it has to fit into memory, and nothing in training looks
# further than 512 tokens.
MAX_DOCUMENT_CHARACTERS = 1 << 24
MAX_PARAGRAPH_CHARACTERS = 1 << 20
_HEAD_LINES = 400
_HEAD_CHARACTERS = 1 << 16
_SENTENCE_END = re.compile("[.!?:;…。！？।؟۔][\"')\\]”’»」]*$")


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """Which documents to read, and how; also the flags of the commands that read text."""

    input: str  # comma-separated files, globs and tfds:NAME[:SPLIT]
    format: str = "auto"  # one of FORMATS; "auto" looks at each file (`detect_format`)
    language: str = "en"  # ISO 639 code, for the sentence splitter
    text_field: str = "text"  # field of JSONL and TFDS that holds the document
    tfds_data_dir: str | None = None  # where TensorFlow Datasets keeps its data

    @staticmethod
    def define_flags() -> None:
        """Defines a flag for each field."""
        flags.DEFINE_string("input", None, "Files, globs and tfds:NAME[:SPLIT], by commas.")
        flags.DEFINE_string("format", "auto", f"Format of the files: {', '.join(FORMATS)}.")
        flags.DEFINE_string("language", "en", "ISO 639 code, for finding sentences in prose.")
        flags.DEFINE_string("text_field", "text", "Field of JSONL or TFDS that holds the text.")
        flags.DEFINE_string("tfds_data_dir", None, "Data directory of TensorFlow Datasets.")

    @classmethod
    def from_flags(cls) -> Self:
        """Reads the flags."""
        values: dict[str, Any] = flags.FLAGS.flag_values_dict()
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclasses.dataclass(frozen=True)
class Source:
    """One file, or one split of a TensorFlow dataset, and how to read it."""

    name: str  # path, or tfds:NAME:SPLIT
    format: str  # lines, prose, jsonl or tfds
    bytes: int  # size on disk


@dataclasses.dataclass(frozen=True)
class Document:
    """The sentences of one document, as text; none is empty, but there may be none."""

    sentences: list[str]
    position: int  # bytes of all sources read when it ended, for progress


def find_sources(options: CorpusOptions) -> list[Source]:
    """Resolves the input to what there is to read; each file once, in the order given.

    Raises:
        UsageError: empty list or unknown format.
        DataError: a glob matches no file, a dataset or split does not exist, a file is unreadable.
    """
    if options.format not in FORMATS:
        raise UsageError(f"--format={options.format} is unknown; choose from {', '.join(FORMATS)}")
    patterns = [pattern for part in options.input.split(",") if (pattern := part.strip())]
    if not patterns:
        raise UsageError("--input is empty; give files, globs or tfds:NAME, separated by commas")
    sources: dict[str, Source] = {}
    found: dict[str, list[str]] = {}  # format -> why, for each file
    for pattern in patterns:
        if pattern.startswith("tfds:"):
            size = find_dataset(pattern, options.tfds_data_dir).bytes
            sources[pattern] = Source(pattern, "tfds", size)
            continue
        for path in _find_files(pattern):
            if str(path) in sources:
                continue
            kind = options.format
            if kind == "auto":
                kind, reason = detect_format(path)
                found.setdefault(kind, []).append(f"{path} because {reason}")
            sources[str(path)] = Source(str(path), kind, path.stat().st_size)
    for kind, reasons in found.items():
        more = f" ... and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        print(f"read as {kind}: {reasons[0]}{more}", file=sys.stderr)
    return list(sources.values())


def _find_files(pattern: str) -> list[Path]:
    """Files of one glob, sorted; a name that exists is taken as it is, brackets or not."""
    path = Path(pattern)
    if path.is_dir():
        raise DataError(f"--input: {pattern} is a directory; give its files, like {pattern}/*.txt")
    found = [path] if path.is_file() else map(Path, sorted(glob.glob(pattern, recursive=True)))
    files = [path for path in found if path.is_file()]
    if not files:
        raise DataError(f"--input: no file matches {pattern}")
    return files


def detect_format(path: Path) -> tuple[str, str]:
    """Finds the format of a file from its name and its first lines.

    The rule: `.jsonl` and `.ndjson` are jsonl, and so is a file whose first line is a JSON object.
    Other files are lines if, among the first 400 lines with text, most end like a sentence and
    most are left whole by the sentence splitter; otherwise prose.

    Returns:
        The format, and the reason in words.
    """
    names = [suffix.lower() for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    if names and names[-1] in (".jsonl", ".ndjson"):
        return "jsonl", f"it is named {names[-1]}"
    head = _head(path)
    if not head:
        return "prose", "it is empty"
    if _is_json_object(head[0]):
        return "jsonl", "its first line is a JSON object"
    ending = sum(bool(_SENTENCE_END.search(line)) for line in head) / len(head)
    whole = sum(len(split_sentences(line)) == 1 for line in head) / len(head)
    kind = "lines" if ending > 0.5 and whole > 0.5 else "prose"
    shares = f"{ending:.0%} end like a sentence and {whole:.0%} hold one"
    return kind, f"of its first {len(head)} lines {shares}"


def _head(path: Path) -> list[str]:
    """The first lines with text, stripped."""
    head: list[str] = []
    characters = 0
    with TextFile(path) as file:
        for line in map(str.strip, file.lines()):
            if line:
                head.append(line)
                characters += len(line)
            if len(head) == _HEAD_LINES or characters > _HEAD_CHARACTERS:
                break
    return head


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_documents(sources: Iterable[Source], options: CorpusOptions) -> Iterator[Document]:
    """Streams the documents of all sources, in order, cut into sentences.

    Raises:
        DataError: content that cannot be used, with file and line.
        DiskError: reading failed.
    """
    earlier = 0
    for source in sources:
        if source.format == "tfds":
            dataset = find_dataset(source.name, options.tfds_data_dir)
            for text, position in dataset.texts(options.text_field):
                yield Document(_sentences(text.split("\n"), options), earlier + position)
        else:
            with TextFile(Path(source.name)) as file:
                for sentences in _read_file(file, source, options):
                    yield Document(sentences, earlier + file.position)
        earlier += source.bytes


def _read_file(file: TextFile, source: Source, options: CorpusOptions) -> Iterator[list[str]]:
    """The sentences of each document of a file."""
    if source.format == "lines":
        yield from _groups(file.lines(), MAX_DOCUMENT_CHARACTERS, source.name)
    elif source.format == "prose":
        for paragraphs in _whole_file(file, source.name):
            yield _sentences(paragraphs, options)
    else:
        for number, line in enumerate(file.lines(), 1):
            if line.strip():
                text = _json_text(line, options.text_field, f"{source.name}, line {number}")
                yield _sentences(text.split("\n"), options)


def _sentences(paragraphs: Iterable[str], options: CorpusOptions) -> list[str]:
    return [s for part in paragraphs for s in split_sentences(part, options.language)]


def _whole_file(file: TextFile, name: str) -> Iterator[list[str]]:
    """The paragraphs of a file, in several documents if it is too long for the memory."""
    paragraphs: list[str] = []
    characters = 0
    for lines in _groups(file.lines(), MAX_PARAGRAPH_CHARACTERS, name):
        paragraphs.append(" ".join(lines))
        characters += len(paragraphs[-1])
        if characters > MAX_DOCUMENT_CHARACTERS:
            logging.warning("%s is very long and is cut into several documents", name)
            yield paragraphs
            paragraphs, characters = [], 0
    yield paragraphs


def _groups(lines: Iterable[str], limit: int, name: str) -> Iterator[list[str]]:
    """Lines between empty lines, stripped; a group longer than `limit` characters is cut."""
    group: list[str] = []
    characters = 0
    for line in lines:
        line = line.strip()
        if line:
            group.append(line)
            characters += len(line)
        if group and (not line or characters > limit):
            if line:
                logging.warning("%s: text without an empty line for %d characters", name, limit)
            yield group
            group, characters = [], 0
    if group:
        yield group


def _json_text(line: str, field: str, place: str) -> str:
    """The text in one line of JSONL.

    Raises:
        DataError: no JSON object, or no text in the field; names `place`.
    """
    try:
        example: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(example, dict) or field not in example:
        found = ", ".join(sorted(example)) if isinstance(example, dict) else type(example).__name__
        raise DataError(f"{place}: no field {field!r} (found: {found}); see --text_field")
    if not isinstance(example[field], str):
        raise DataError(f"{place}: field {field!r} holds {type(example[field]).__name__}, not text")
    # JSON escapes can name half a surrogate pair, which no text may hold.
    return example[field].encode("utf-8", "ignore").decode("utf-8")
