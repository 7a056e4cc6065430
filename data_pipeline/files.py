# SPDX-License-Identifier: Apache-2.0
"""Files here and in object stores (gs://, s3://), and writing them whole or not at all.

Paths of object stores are those of `etils.epath`, which behave like `pathlib`; everything else is
`pathlib` itself.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_pipeline.errors import DataError, DiskError, UsageError, UserError


def is_remote(path: str | Path) -> bool:
    """Is it in an object store?"""
    return "://" in str(path) or not isinstance(path, str | Path)


def place(path: str | Path) -> Path:
    """The path object of a name; `etils`, which comes with TFDS, knows object stores.

    Raises:
        UsageError: no kind of object store that is known here.
    """
    if not is_remote(path):
        return Path(path)
    if not isinstance(path, str):
        return path
    try:
        from etils import epath

        return epath.Path(path)
    except (ImportError, KeyError) as error:
        raise UsageError(
            f"{path} cannot be used here: paths of this machine can, and gs:// and s3:// with the "
            "extra: pip install 'bert-jax[data]'"
        ) from error


@contextlib.contextmanager
def access_errors(path: str | Path, kind: type[UserError]) -> Iterator[None]:
    """Reports that a place is closed to us, in whatever error of an object store's library."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, PermissionError) and not is_remote(path):
            raise kind(f"{path} cannot be reached: {error.strerror}") from error
        if not is_remote(path):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise kind(
            f"{path} cannot be reached: {reason}; look at the name, the network and the credentials"
        ) from error


def open_binary(path: str | Path) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
        DataError: there is no such file, or it is not for us.
        DiskError: it cannot be opened for another reason, which may pass.
    """
    with access_errors(path, DiskError):
        try:
            return place(path).open("rb") if is_remote(path) else open(path, "rb")
        except OSError as error:
            passing = not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
            kind = DiskError if passing else DataError
            raise kind(f"{path} cannot be opened: {error.strerror or error}") from error


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a file, and when it was last changed, in nanoseconds (0 where that is unknown)."""
    status: Any = path.stat()
    if isinstance(path, Path):
        return status.st_size, status.st_mtime_ns
    return status.length, int((status.mtime or 0) * 1e9)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file here to write to, which appears at `path` when the block has ended well.

    Whoever is killed on the way leaves no half of a file under that name, and two who write the
    same file do not disturb each other.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory) / path.name
            yield local
            with (
                access_errors(path, DiskError),
                open(local, "rb") as source,
                path.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 22)
        return
    local = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield local
        descriptor = os.open(local, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        local.replace(path)
    finally:
        local.unlink(missing_ok=True)
