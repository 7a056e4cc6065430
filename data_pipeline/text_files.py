# SPDX-License-Identifier: Apache-2.0
"""Lines of UTF-8 text files, plain, gzip or zstd, with the place of whatever is wrong in them."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from data_pipeline.errors import DataError, DiskError

MAX_LINE_BYTES = 64 << 20  # a file without line ends must not fill the memory
_BLOCK = 1 << 20
_FOREIGN = {
    b"\x1f\x8b": "it looks like gzip; name it .gz",
    b"\x28\xb5\x2f\xfd": "it looks like zstd; name it .zst",
    b"\xff\xfe": "it looks like UTF-16; save it as UTF-8",
    b"\xfe\xff": "it looks like UTF-16; save it as UTF-8",
    b"PAR1": "it looks like Parquet, which cannot be read yet",
}


class TextFile:
    """A text file to read line by line in bounded memory; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DataError: it cannot be opened.
        """
        self.path = path
        try:
            self._raw = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {error.strerror}") from error
        self._stream: IO[bytes] = self._raw
        if path.suffix == ".gz":
            self._stream = gzip.GzipFile(fileobj=self._raw)  # type: ignore[assignment]
        elif path.suffix == ".zst":
            self._stream = io.BufferedReader(_ZstdReader(self._raw, path), _BLOCK)

    @property
    def position(self) -> int:
        """Bytes read of the file as it lies on the disk."""
        return self._raw.tell()

    def lines(self) -> Iterator[str]:
        """The lines without their ends; a byte order mark and CR LF are accepted.

        Raises:
            DataError: bytes that are not UTF-8, a damaged archive, an endless line.
            DiskError: reading failed.
        """
        offset = number = 0
        while True:
            line = self._read_line(number + 1)
            if not line:
                return
            number += 1
            if number == 1:
                offset = 3 if line.startswith(b"\xef\xbb\xbf") else 0
                line = line[offset:]
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                start = line if number == 1 else b""
                hints = [hint for magic, hint in _FOREIGN.items() if start.startswith(magic)]
                raise DataError(
                    f"{self.path}, line {number}: byte {offset + error.start:,} (0x"
                    f"{line[error.start]:02x}) is not UTF-8: "
                    f"{hints[0] if hints else 'convert the file to UTF-8, for example with iconv'}"
                ) from error
            offset += len(line)

    def _read_line(self, number: int) -> bytes:
        try:
            line = self._stream.readline(MAX_LINE_BYTES + 1)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{self.path} is damaged or no gzip file: {error}") from error
        except OSError as error:
            raise DiskError(f"reading {self.path} failed: {error}") from error
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{self.path}, line {number} is longer than {MAX_LINE_BYTES:,} bytes; text needs "
                "line ends"
            )
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._raw.close()


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd; the library's own reader takes a cut-off file for a whole one."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
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
