# SPDX-License-Identifier: Apache-2.0
"""One run, one process: an exclusive lock on the work directory.

Two trainers in one directory overwrite each other's checkpoints without an error from either. The
lock is the kernel's (`flock`), so it cannot outlive its owner: after a kill nothing has to be
cleaned up, and the text in the file only tells the next one who holds it.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from data_pipeline.errors import OutputError

NAME = "run.lock"


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path | str) -> Iterator[None]:
    """Makes `workdir` if it is absent and holds its lock.

    Raises:
        OutputError: it is no path, cannot be made or written, or another process holds its lock.
    """
    workdir = pathlib.Path(workdir)
    _make(workdir)
    path = workdir / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(
            f"cannot write into the work directory {workdir}: {error.strerror}; "
            "choose another --workdir or change its permissions"
        ) from error
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _make(workdir: pathlib.Path) -> None:
    if workdir.parts and workdir.parts[0].endswith(":"):  # pathlib writes gs://x as gs:/x
        scheme, rest = workdir.parts[0], "/".join(workdir.parts[1:])
        raise OutputError(
            f"the work directory {scheme}//{rest} is in an object store, and has to be a path: "
            "mount the bucket on every host (docs/tpu.md; launch does so)"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"the work directory {workdir} is a file; choose another --workdir"
        ) from error
    except OSError as error:
        raise OutputError(
            f"the work directory {workdir} cannot be made: {error.strerror}; "
            "choose another --workdir or change the permissions"
        ) from error


def _lock(descriptor: int, path: pathlib.Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)
    except BlockingIOError as error:
        raise OutputError(
            f"another run is at work in {path.parent}: {_owner(descriptor)}; "
            "wait for it, stop it, or choose another --workdir"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot lock {path}: {error.strerror}") from error


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return "process {pid} on {host}, started {started}".format(**owner)
    except (ValueError, KeyError, TypeError):
        return "its name is not in the lock file yet"
