# SPDX-License-Identifier: Apache-2.0
"""The input: which files and data sets there are, their formats, and how they are cut into units.

Formats of files, each also compressed (.gz, .zst):
    lines: one sentence a line, an empty line between documents, as the original BERT reads.
    prose: one document a file, paragraphs between empty lines; sentences are found later.
    jsonl: one JSON object a line with the document in a field; a line end in it ends a paragraph.
    parquet: one document a row, in a text column; compressed within the file only.

A unit is what one worker reads at a time. Units follow from the names and sizes of the input alone,
never from the number of workers.
"""

import dataclasses
import glob
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from absl import flags

from data_pipeline.errors import DataError, UsageError
from data_pipeline.files import access_errors, is_remote, place, size_and_time
from data_pipeline.parquet_text import ParquetText, is_parquet
from data_pipeline.sentences import split_sentences
from data_pipeline.text_files import TextFile
from data_pipeline.tfds_text import find_dataset

FORMATS = ("auto", "lines", "prose", "jsonl", "parquet")
# Prose is one document a file; a longer file is several documents, cut behind an empty line.
PROSE_BYTES = 1 << 23
_UNIT_BYTES = (1 << 20, 1 << 28)  # at least, at most
_UNITS = 4096  # of a large corpus
_HEAD_LINES = 400
_HEAD_CHARACTERS = 1 << 16
_SENTENCE_END = re.compile("[.!?:;…。！？।؟۔][\"')\\]”’»」]*$")


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """Which documents to read, and how; also the flags of the commands that read text."""

    input: str  # comma-separated files, globs and tfds:NAME[:SPLIT]
    format: str = "auto"  # one of FORMATS; "auto" looks at each file (`detect_format`)
    language: str = "en"  # ISO 639 code, for the sentence splitter
    text_field: str = "text"  # field of JSONL, Parquet and TFDS that holds the document
    tfds_data_dir: str | None = None  # where TensorFlow Datasets keeps its data

    @staticmethod
    def define_flags() -> None:
        """Defines a flag for each field."""
        flags.DEFINE_string("input", None, "Files, globs and tfds:NAME[:SPLIT], by commas.")
        flags.DEFINE_string("format", "auto", f"Format of the files: {', '.join(FORMATS)}.")
        flags.DEFINE_string("language", "en", "ISO 639 code, for finding sentences in prose.")
        flags.DEFINE_string("text_field", "text", "Field or column that holds the text.")
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
    format: str  # lines, prose, jsonl, parquet or tfds
    bytes: int  # size on disk


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a source, the whole of it by default.

    `start` and `stop` count the bytes of a file (a document belongs to the piece in which it
    starts), the row groups of Parquet and the examples of a dataset; `stop` is None at the end of
    the source.
    """

    source: Source
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one worker reads at a time; all units in order are the corpus."""

    number: int
    pieces: tuple[Piece, ...]
    bytes: int


def cut_units(sources: Sequence[Source], data_dir: str | None = None) -> list[Unit]:
    """Cuts the corpus: large plain files and datasets in stretches, small files together.

    Args:
        sources: from `find_sources`.
        data_dir: as `CorpusOptions.tfds_data_dir`.
    """
    least, most = _UNIT_BYTES
    wanted = min(max(sum(source.bytes for source in sources) // _UNITS, least), most)
    units: list[Unit] = []
    pieces: list[Piece] = []
    size = 0
    for piece, piece_bytes in (p for source in sources for p in _cut(source, wanted, data_dir)):
        pieces.append(piece)
        size += piece_bytes
        if size >= wanted:
            units.append(Unit(len(units), tuple(pieces), size))
            pieces, size = [], 0
    if pieces:
        units.append(Unit(len(units), tuple(pieces), size))
    return units


def _cut(source: Source, wanted: int, data_dir: str | None) -> Iterator[tuple[Piece, int]]:
    """Pieces of a source of about `wanted` bytes, and their bytes."""
    if source.format == "tfds":
        end = find_dataset(source.name, data_dir).examples
        step = max(1, wanted * end // max(source.bytes, 1))
    elif source.format == "parquet":
        with ParquetText(source.name) as file:
            end = file.row_groups
        step = max(1, wanted * end // max(source.bytes, 1))
    elif source.name.endswith((".gz", ".zst")):
        end = step = max(source.bytes, 1)
    else:
        # Where prose is cut decides what its documents are, so that must not depend on the rest.
        end, step = source.bytes, PROSE_BYTES if source.format == "prose" else wanted
    for start in range(0, end, step):
        stop = start + step
        yield (
            Piece(source, start, stop if stop < end else None),
            source.bytes * (min(stop, end) - start) // end,
        )


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
            sources[str(path)] = Source(str(path), kind, size_and_time(path)[0])
    for kind, reasons in found.items():
        more = f" ... and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        print(f"read as {kind}: {reasons[0]}{more}", file=sys.stderr)
    return list(sources.values())


def _find_files(pattern: str) -> list[Path]:
    """Files of one glob, sorted; a name that exists is taken as it is, brackets or not."""
    path = place(pattern)
    with access_errors(pattern, DataError):
        if path.is_dir():
            raise DataError(
                f"--input: {pattern} is a directory; give its files, like {pattern}/*.txt"
            )
        found: Iterable[Path] = [path]
        if not path.is_file():
            if is_remote(pattern):
                found = sorted(path.parent.glob(path.name))
            else:
                found = map(Path, sorted(glob.glob(pattern, recursive=True)))
        files = [path for path in found if path.is_file()]
    if not files:
        raise DataError(f"--input: no file matches {pattern}")
    return files


def detect_format(path: Path) -> tuple[str, str]:
    """Finds the format of a file from its name and its first lines.

    The rule: a file that begins as Parquet does is parquet; `.jsonl` and `.ndjson` are jsonl, and
    so is a file whose first line is a JSON object.
    Other files are lines if, among the first 400 lines with text, most end like a sentence and
    most are left whole by the sentence splitter; otherwise prose.

    Returns:
        The format, and the reason in words.
    """
    if is_parquet(path):
        return "parquet", "it begins with PAR1"
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
