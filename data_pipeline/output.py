# SPDX-License-Identifier: Apache-2.0
"""Output that is whole or absent: directories made aside, durable files, full disks."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

import numpy as np

from data_pipeline.errors import DiskError, OutputError

LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NpyWriter:
    """Writes a `.npy` file whose length along the first axis is known only at the end.

    `close` writes the final length into the header, which NumPy pads for just this purpose.
    """

    def __init__(
        self, path: Path, dtype: np.dtype | type[np.generic], row_shape: tuple[int, ...] = ()
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self.length = 0
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.length, *self._row_shape)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
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


def claim(directory: Path) -> IO[str]:
    """Makes a directory, or takes one that is there, for this process alone.

    Returns:
        The open file to close when done; it is closed too when the process ends in any way.

    Raises:
        OutputError: another process is at work there.
        OSError: the place cannot be written to.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = open(directory / LOCK, "w")  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock may have finished and taken the file along.
        mine = os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except (BlockingIOError, FileNotFoundError):
        mine = False
    if not mine:
        lock.close()
        raise OutputError(f"another process is writing {directory}; wait for it")
    return lock


class NewDirectory:
    """A directory that appears under its name only when it is complete.

        with NewDirectory(path) as directory:
            (directory.temporary / "content").write_text("...")
            directory.commit()

    Until then everything is in `path`.tmp, which is removed when the block is left early. What a
    killed process left there is cleared away by the next one.
    """

    def __init__(self, path: Path) -> None:
        """Claims the place.

        Raises:
            OutputError: something is there already, another process is writing there, or the
                place cannot be written to.
        """
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise OutputError(f"{path} exists already; remove it or choose another --output")
        try:
            self._lock = claim(self.temporary)
            for left in self.temporary.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
                elif left.name != LOCK:
                    left.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write to {self.temporary}: {reason}") from error

    def commit(self) -> None:
        """Gives the directory its name."""
        self.temporary.rename(self.path)
        (self.path / LOCK).unlink()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._lock.closed:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self._lock.close()


def write_durably(path: Path, text: str) -> None:
    """Writes a text file and waits until it is on the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Reports what the operating system says while writing as a DiskError."""
    try:
        yield
    except OSError as error:
        hint = "free some space and start again" if error.errno in _FULL else "look at the disk"
        raise DiskError(f"writing {path} failed: {error.strerror or error}; {hint}") from error
