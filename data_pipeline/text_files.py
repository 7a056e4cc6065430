# SPDX-License-Identifier: Apache-2.0
"""Lines of UTF-8 text files, plain, gzip or zstd, with the place of whatever is wrong in them.

A plain file can also be read from one place to another: `find_line` and `find_gap` give places
between two documents, so that several readers together read what one would.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from data_pipeline.errors import DataError, DiskError
from data_pipeline.files import open_binary

# Longer lines are read in pieces, except where half a line is of no use (JSON).
MAX_LINE_BYTES = 1 << 20
MAX_WHOLE_LINE_BYTES = 200 << 20
# How far to look for an empty line before a document is cut elsewhere.
MAX_GAP_BYTES = 1 << 24
_BLOCK = 1 << 20
_GAP = re.compile(rb"\n[ \t\r\f\v]{0,1000}\n")
_GAP_BYTES = 1002  # of the longest match
_FOREIGN = {
    b"\x1f\x8b": "it looks like gzip; name it .gz",
    b"\x28\xb5\x2f\xfd": "it looks like zstd; name it .zst",
    b"\xff\xfe": "it looks like UTF-16; save it as UTF-8",
    b"\xfe\xff": "it looks like UTF-16; save it as UTF-8",
    b"PAR1": "it looks like Parquet; use --format=parquet",
}


class TextFile:
    """A text file, or a stretch of one, to read line by line; use it in a `with` block."""

    def __init__(self, path: str | Path, start: int = 0, stop: int | None = None) -> None:
        """Opens the file.

        Args:
            path: here or in an object store.
            start: first byte, at the start of a line. Only a plain file has a start and a stop.
            stop: byte to stop before; None reads to the end.

        Raises:
            DataError: it cannot be opened.
        """
        self.path = path
        self._start = start
        self._number = 0  # of the line read last, counted from the start
        self._left = None if stop is None else stop - start
        self._raw = open_binary(path)
        self._stream: IO[bytes] = self._raw
        if str(path).endswith(".gz"):
            self._stream = gzip.GzipFile(fileobj=self._raw)  # type: ignore[assignment]
        elif str(path).endswith(".zst"):
            self._stream = io.BufferedReader(_ZstdReader(self._raw, path), _BLOCK)
        elif start:
            self._raw.seek(start)

    def lines(self, whole: bool = False) -> Iterator[str]:
        """The lines without their ends, which are LF, CR LF or CR; a byte order mark is accepted.

        Args:
            whole: CR ends no line, and a line is never cut into pieces. Without it a line longer
                than `MAX_LINE_BYTES` comes in pieces of that size, cut behind a sentence if
                possible, else at a blank.

        Raises:
            DataError: bytes that are not UTF-8, a damaged archive, a line too long to be whole.
            DiskError: reading failed.
        """
        offset = self._start
        for line in self._pieces(whole):
            if offset == 0 and line.startswith(b"\xef\xbb\xbf"):
                offset, line = 3, line[3:]
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                first = line if offset == 0 else b""
                hints = [hint for magic, hint in _FOREIGN.items() if first.startswith(magic)]
                raise DataError(
                    f"{self.line()}: byte {offset + error.start:,} "
                    f"(0x{line[error.start]:02x}) is not UTF-8: "
                    f"{hints[0] if hints else 'convert the file to UTF-8, for example with iconv'}"
                ) from error
            offset += len(line)
            del line  # it may be 200 MB
            text = text.rstrip("\r\n")
            if "\r" in text and not whole:
                yield from text.split("\r")
            else:
                yield text

    def line(self) -> str:
        """Where the line read last stands, in words."""
        left, number = self._start, self._number
        with open_binary(self.path) as file:  # worth counting only when there is a complaint
            while block := file.read(min(left, _BLOCK)):
                left -= len(block)
                number += block.count(b"\n")
        return f"{self.path}, line {number}"

    def _pieces(self, whole: bool) -> Iterator[bytes]:
        """Lines with their ends, long ones in pieces unless they are to be `whole`."""
        limit = MAX_WHOLE_LINE_BYTES if whole else MAX_LINE_BYTES
        rest, begins = b"", True
        while piece := rest + self._read_line(limit - len(rest)):
            rest = b""
            self._number += begins
            ends = piece.endswith(b"\n")
            if len(piece) >= limit and not ends:
                if whole:
                    raise DataError(f"{self.line()} is longer than {limit:,} bytes; shorten it")
                cut = _place_to_cut(piece)
                piece, rest = piece[:cut], piece[cut:]
            taken = [piece]
            del piece  # while others work on it, it is theirs alone
            yield taken.pop()
            begins = ends

    def _read_line(self, size: int) -> bytes:
        """Up to `size` bytes of the line that comes next; none at the end."""
        if self._left is not None:
            size = min(size, self._left)
        try:
            line = self._stream.readline(size) if size > 0 else b""
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self.path} is damaged or no gzip file: {error}") from error
        except OSError as error:
            raise DiskError(f"reading {self.path} failed: {error}") from error
        if self._left is not None:
            self._left -= len(line)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._raw.close()


def _place_to_cut(line: bytes) -> int:
    """The last end of a sentence in a piece of a line, else of a word, else of a character."""
    for marks in ((b". ", "。".encode()), (b" ",)):
        if places := [line.rfind(mark) + len(mark) for mark in marks if mark in line]:
            return max(places)
    return next((len(line) - k for k in range(1, 4) if line[-k] >= 0xC0), len(line))


def find_line(path: str | Path, offset: int) -> int:
    """The first place at or after `offset` where a line starts, or the size of the file."""
    with open_binary(path) as file:
        if offset:
            file.seek(offset - 1)
            while (piece := file.readline(_BLOCK)) and not piece.endswith(b"\n"):
                pass
        return file.tell()


def find_gap(path: str | Path, offset: int) -> tuple[int, bool]:
    """The first place at or after `offset` that is behind an empty line, or the size of the file.

    Where there is no empty line for `MAX_GAP_BYTES`, it is the next line after that, or else the
    next blank, or the next character, each looked for as far again. A later offset never gives an
    earlier place.

    Returns:
        The place, and whether it lies within a document.
    """
    if not offset:
        return 0, False
    with open_binary(path) as file:
        for size in (1 << 16, MAX_GAP_BYTES):
            file.seek(offset - 1)
            block = file.read(size + _GAP_BYTES)
            match = _GAP.search(block)
            if match and match.start() < size:
                return offset - 1 + match.end(), False
            if len(block) < size:
                return offset - 1 + len(block), False
        for number, pattern in enumerate((rb"\n", rb"[ \n]", rb"[^\x80-\xbf]"), 1):
            begin = offset - 1 + number * MAX_GAP_BYTES
            file.seek(begin)
            block = file.read(MAX_GAP_BYTES)
            if match := re.search(pattern, block):
                return begin + (match.end() if number < 3 else match.start()), True
            if len(block) < MAX_GAP_BYTES:
                break
        return begin + len(block), False


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd; the library's own reader takes a cut-off file for a whole one."""

    def __init__(self, raw: IO[bytes], path: str | Path) -> None:
        import zstandard

        self._raw = raw
        self._path = path
        self._error = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            data = self._frame.unused_data if self._frame and self._frame.eof else b""
            data = data or self._raw.read(_BLOCK)
            if not data:
                if self._frame and not self._frame.eof:
                    raise DataError(f"{self._path} is damaged: the zstd data ends too early")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise DataError(f"{self._path} is damaged or no zstd file: {error}") from error
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count
