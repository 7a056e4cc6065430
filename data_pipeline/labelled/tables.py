# SPDX-License-Identifier: Apache-2.0
"""Labelled rows with named columns, from the user's TSV, CSV and JSONL files or from TFDS.

Tab-separated files are read as GLUE's are: a tab ends a field, quotes are ordinary characters.
Comma-separated files follow the usual quoting. In JSONL every line is an object.
"""

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from data_pipeline.errors import DataError

_SHOWN = 60  # characters of a value in a message
_MAX_FIELD = 16 << 20  # characters; the csv module's own limit is 131,072


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one split.

    Attributes:
        name: file or data set and split, for messages.
        columns: their names.
        rows: one dictionary a row, a string for every column; "" where there is no value.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[dict[str, str]]

    def column(self, name: str) -> list[str]:
        """The values of one column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name} has no column {name!r} (columns: {', '.join(self.columns)}); the "
                "recipe names the columns: --config.data.text_a and its neighbours"
            )
        return [row[name] for row in self.rows]

    def place(self, number: int) -> str:
        """Where row `number` (from 0) is, for messages."""
        return f"{self.name}, row {number + 1}"


def shorten(value: str) -> str:
    """A value for a message, cut if it is long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def read_table(source: str, split: str, *, tfds_data_dir: str = "") -> Table:
    """Reads one split.

    Args:
        source: "files", or the name of a TFDS data set such as "glue/sst2".
        split: a file, or a split of the data set such as "validation" or "train[:1%]".
        tfds_data_dir: where TFDS keeps its data; empty for its default.

    Raises:
        DataError: it cannot be read, holds no rows, or a row does not fit the columns.
    """
    if source != "files":
        from data_pipeline.labelled.tfds_tables import read_tfds

        name, (columns, rows) = f"{source}:{split}", read_tfds(source, split, tfds_data_dir)
    else:
        name, (columns, rows) = split, _read_file(Path(split))
    if not rows:
        raise DataError(f"{name} holds no rows")
    return Table(name, columns, rows)


def _read_file(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    readers = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: the name of a labelled file ends in .tsv, .csv or .jsonl, with the columns' "
            "names in the first line or in every object"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return readers[path.suffix](path, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it first") from error


def _read_tsv(path: Path, file: TextIO) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    # Not csv, whose QUOTE_NONE would still end a row at a bare carriage return.
    lines = (line.rstrip("\r\n").split("\t") for line in _lines(file))
    return _with_header(path, lines)


def _lines(file: TextIO) -> Iterator[str]:
    return iter(line for line in re.split(r"\r?\n", file.read()) if line)


def _read_csv(path: Path, file: TextIO) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    limit = csv.field_size_limit(_MAX_FIELD)
    try:
        return _with_header(path, (row for row in csv.reader(file, strict=True) if row))
    except csv.Error as error:
        raise DataError(f"{path} is no proper CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _with_header(
    path: Path, lines: Iterator[list[str]]
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    columns = tuple(next(lines, ()))
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column's name stands twice in the first line")
    rows = []
    for number, fields in enumerate(lines, 1):
        if len(fields) != len(columns):
            raise DataError(
                f"{path}, row {number} has {len(fields)} fields, the first line names "
                f"{len(columns)} columns ({', '.join(columns)})"
            )
        rows.append(dict(zip(columns, fields, strict=True)))
    return columns, rows


def _read_jsonl(path: Path, file: TextIO) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    objects = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}, line {number} is no JSON object")
        for key, value in found.items():
            if isinstance(value, dict | list):
                raise DataError(f"{path}, line {number}: {key!r} holds no plain value")
        objects.append({key: _as_text(value) for key, value in found.items()})
    columns = tuple(dict.fromkeys(itertools.chain.from_iterable(objects)))
    return columns, [{column: row.get(column, "") for column in columns} for row in objects]


def _as_text(value: str | int | float | bool | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def class_numbers(table: Table, column: str, labels: Sequence[str]) -> list[int]:
    """The labels of a column as places in the label set.

    Raises:
        DataError: a label that is not in the set, with its row and the set.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    found = []
    for row, label in enumerate(table.column(column)):
        if label not in numbers:
            what = f"the label {shorten(label)} is not in the label set" if label else "no label"
            raise DataError(
                f"{table.place(row)}, column {column!r}: {what} ({_listed(labels)}); correct the "
                "row, or name the whole set with --config.data.labels"
            )
        found.append(numbers[label])
    return found


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 20} more" if len(labels) > 20 else ""
    return ", ".join(labels[:20]) + more
