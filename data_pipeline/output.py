# SPDX-License-Identifier: Apache-2.0
"""Output that is whole or absent: locked directories, durable files, and what can go wrong."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.errors import DiskError, OutputError

LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NpyWriter:
    """Writes a one-dimensional `.npy` file whose length is known only at the end.

    `close` writes the final length into the header, which NumPy pads for just this purpose.
    """

    def __init__(self, path: Path, dtype: np.dtype | type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self.length = 0
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        """Adds values at the end."""
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Completes the header and waits until the data is on the disk."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is; what is still buffered may be lost."""
        with contextlib.suppress(OSError):  # a full disk, which the last write has reported
            self._file.close()


def claim_directory(directory: Path) -> IO[str]:
    """Makes `directory`, locks it against other writers and empties what a killed one left.

    Returns:
        The open lock file, `directory`/LOCK; closing it frees the directory.

    Raises:
        OutputError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = open(directory / LOCK, "w")  # noqa: SIM115 - held until the store is finished
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock.fileno()), os.stat(directory / LOCK)):
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError) as error:
        lock.close()
        raise OutputError(f"another process is writing {directory}; wait for it") from error
    for left in directory.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != LOCK:
            left.unlink()
    return lock


def write_durably(path: Path, text: str) -> None:
    """Writes a text file and waits until it is on the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Reports what the operating system says about a place to write to as an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Reports what the operating system says while writing as a DiskError."""
    try:
        yield
    except OSError as error:
        hint = "free some space and start again" if error.errno in _FULL else "look at the disk"
        raise DiskError(f"writing {path} failed: {error.strerror or error}; {hint}") from error
