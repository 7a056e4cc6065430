# SPDX-License-Identifier: Apache-2.0
"""One run on a work directory also where locks end at the host: a lease that is kept fresh.

Through Cloud Storage FUSE a `flock` holds on one host only. So process 0 also writes its name into
run.lease and refreshes it every 15 seconds. Who finds a lease watches it: one that is refreshed is
somebody's, and the newcomer is refused; one that stays as it is for a minute has lost its owner.
An owner that finds another name there, after a minute without its storage for example, was taken
for dead; it ends itself and its run, because two would overwrite each other's checkpoints. One that
was held up after it had read the lease reads it again before it writes.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from data_pipeline.errors import OutputError

NAME = "run.lease"
REFRESH_SECONDS = 15.0
EXPIRY_SECONDS = 60.0  # without a refresh, as the one who watches counts them
_OLD_SECONDS = 600.0  # so far apart are no two hosts' clocks: a lease of then is over at once
_LOOK_SECONDS = 1.0


def owner() -> dict[str, Any]:
    """Who this process is, for the others."""
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}


def in_use(workdir: pathlib.Path, found: dict[str, Any]) -> OutputError:
    """The error to raise where another run owns the work directory."""
    return OutputError(
        f"another run is at work in {workdir}: {_name(found)}; "
        "wait for it, stop it, or choose another --workdir"
    )


@contextlib.contextmanager
def held(workdir: pathlib.Path, leave: Callable[[str, int], Any]) -> Iterator[None]:
    """Takes the lease of `workdir`, keeps it fresh, and gives it back.

    Args:
        workdir: of the run.
        leave: ends the process with a message and an exit code; called in a thread of its own
            when another run has taken over.

    Raises:
        OutputError: another run keeps it fresh, or it cannot be written.
    """
    path = workdir / NAME
    mine = owner() | {"run": uuid.uuid4().hex, "machine": _machine()}
    try:
        _take(path, mine)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, mine, done, leave), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join(REFRESH_SECONDS)  # where the storage hangs, it is not waited for
        with contextlib.suppress(OSError):
            if _is_mine(_read(path), mine):
                path.unlink()


def _take(path: pathlib.Path, mine: dict[str, Any]) -> None:
    first, since = None, time.monotonic()
    while True:
        with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            json.dump(_fresh(mine), file)
            return
        found = _read(path)
        if found is None:
            continue
        if first is None and not _is_over(found):
            logging.warning(
                "%s names %s: watching it for at most %g s", path, _name(found), EXPIRY_SECONDS
            )
        first = first or found
        if found and found != first:  # it cannot be understood while it is being written
            raise in_use(path.parent, found)
        if _is_over(found) or time.monotonic() - since > EXPIRY_SECONDS:
            _write(path, mine)
            return
        time.sleep(_LOOK_SECONDS)


def _keep(
    path: pathlib.Path,
    mine: dict[str, Any],
    done: threading.Event,
    leave: Callable[[str, int], Any],
) -> None:
    failing, pause = False, REFRESH_SECONDS
    while not done.wait(pause):
        try:
            pause = REFRESH_SECONDS
            asked = time.monotonic()
            found = _read(path)
            if found == {}:  # somebody is writing it, or our last write met a full disk
                done.wait(_LOOK_SECONDS)
                found = _read(path)
            if done.is_set():
                return
            if found != {} and not _is_mine(found, mine):
                leave(
                    f"{path} was taken over by {_name(found or {})}, for this run had not "
                    f"refreshed it within {EXPIRY_SECONDS:g} s; this run ends, so that the two do "
                    "not overwrite each other's checkpoints",
                    OutputError.exit_code,
                )
                return
            if time.monotonic() - asked > EXPIRY_SECONDS / 2:
                pause = 0  # held up since it read, and perhaps taken for dead: read again
                continue
            _write(path, mine)
            failing = False
        except OSError as error:  # the storage may come back, and training needs it only to save
            if not failing:
                logging.warning("cannot refresh %s: %s", path, error)
            failing = True


def _is_mine(found: dict[str, Any] | None, mine: dict[str, Any]) -> bool:
    return found is not None and found.get("run") == mine["run"]


def _is_over(found: dict[str, Any]) -> bool:
    """Whether the owner is known to be gone, without waiting for the lease to expire."""
    try:
        if time.time() - found["refreshed"] > _OLD_SECONDS:
            return True
        if found["machine"] == _machine():
            os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, OSError, OverflowError):
        return False
    return False


def _machine() -> str:
    """What tells the processes that a number names here from those of other hosts, and pods."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        found.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(found)


def _fresh(mine: dict[str, Any]) -> dict[str, Any]:
    return mine | {"refreshed": time.time()}


def _write(path: pathlib.Path, mine: dict[str, Any]) -> None:
    path.write_text(json.dumps(_fresh(mine)), "utf-8")  # in a bucket one object, put there whole


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """What the lease says; None where there is none, empty where it cannot be understood."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _name(found: dict[str, Any]) -> str:
    try:
        return "process {pid} on {host}, started {started}".format(**found)
    except KeyError:
        return "somebody whose name cannot be read"
