# SPDX-License-Identifier: Apache-2.0
"""Texts of Parquet files, one document a row, row group by row group in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from data_pipeline.errors import DataError
from data_pipeline.files import open_binary

_MAGIC = b"PAR1"
_ROWS_AT_ONCE = 64  # rows may be whole books
_BLOCK = 1 << 20  # without it, a column of a whole row group is read at once


def is_parquet(path: str | Path) -> bool:
    """Does the file begin as Parquet files do?"""
    with open_binary(path) as file:
        return file.read(len(_MAGIC)) == _MAGIC


class ParquetText:
    """A Parquet file, of which one column is read; use it in a `with` block."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file and reads its footer.

        Raises:
            DataError: it cannot be opened or is no whole Parquet file, or pyarrow is missing.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise DataError(
                f"{path} needs pyarrow; install the extra: pip install 'bert-jax[data]'"
            ) from error
        self._path = path
        # What pyarrow raises for damaged files; some of it is a plain OSError.
        self._errors: tuple[type[Exception], ...] = (pyarrow.ArrowException, OSError)
        self._file = open_binary(path)
        try:
            self._parquet: Any = pyarrow.parquet.ParquetFile(
                self._file,
                buffer_size=_BLOCK,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        except self._errors as error:
            self._file.close()
            raise self._damage(error) from error
        self.row_groups: int = self._parquet.num_row_groups

    def texts(self, column: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The texts of the row groups from `start` up to `stop`, in order.

        Raises:
            DataError: there is no such text column, a row without text, or damage.
        """
        schema = self._parquet.schema_arrow
        if column not in schema.names or not _is_text(schema.field(column).type):
            names = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise DataError(
                f"{self._path} has no text column {column!r} (columns: {names}); choose one with "
                "--text_field"
            )
        groups = range(start, self.row_groups if stop is None else stop)
        rows = self._parquet.metadata.row_group
        for group in groups:
            for number, text in enumerate(self._group(column, group), 1):
                if text is None:
                    row = number + sum(rows(earlier).num_rows for earlier in range(group))
                    raise DataError(f"{self._path}, row {row}: column {column!r} is null, not text")
                yield text

    def _group(self, column: str, group: int) -> Iterator[str | None]:
        try:
            for batch in self._parquet.iter_batches(_ROWS_AT_ONCE, [group], columns=[column]):
                yield from batch.column(0).to_pylist()
        except self._errors as error:
            raise self._damage(error) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path}, row group {group}: column {column!r} is not UTF-8: {error}"
            ) from error

    def _damage(self, error: Exception) -> DataError:
        return DataError(f"{self._path} is damaged or no Parquet file: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
