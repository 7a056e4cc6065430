# SPDX-License-Identifier: Apache-2.0
"""One run, one process: an exclusive lock on the work directory.

Two trainers in one directory overwrite each other's checkpoints without an error from either. The
lock is the kernel's (`flock`), so it cannot outlive its owner: after a kill nothing has to be
cleaned up, and the text in the file only tells the next one who holds it. Where it ends at the host
(Cloud Storage FUSE), a lease keeps other hosts out.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from bert_jax import distributed, lease
from data_pipeline.errors import OutputError

NAME = "run.lock"


@contextlib.contextmanager
def exclusive(workdir: pathlib.Path | str) -> Iterator[None]:
    """Makes `workdir` if it is absent and holds its lock and its lease.

    Raises:
        OutputError: it is no path, cannot be made or written, or another run is at work there.
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
        with lease.held(workdir, distributed.leave):
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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(lease.owner()).encode() + b"\n", 0)
    except BlockingIOError as error:
        raise lease.in_use(path.parent, _owner(descriptor)) from error
    except OSError as error:
        raise OutputError(f"cannot lock {path}: {error.strerror}") from error


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return {}
