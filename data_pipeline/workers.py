# SPDX-License-Identifier: Apache-2.0
"""Worker processes on this machine, and how what went wrong in one of them reaches the user.

Beam's own worker processes are not used here: when one of them is killed, its local runner waits
for it for ever.
"""

import contextlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

from data_pipeline import errors
from data_pipeline.errors import Preempted, UserError
from data_pipeline.files import place, written_whole

_pool: ProcessPoolExecutor | None = None  # in the process that has workers
_work: Callable[[Any], None] | None = None  # in a worker


@contextlib.contextmanager
def worker_processes(count: int, work: Callable[[Any], None]) -> Iterator[None]:
    """Keeps `count` processes, each with its own copy of `work`, for `submit`.

    Raises:
        Preempted: one of them was killed.
    """
    global _pool
    # Spawned: a process forked from one with threads (TensorFlow's, Beam's) may hang.
    context = multiprocessing.get_context("spawn")
    _pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(work,)
    )
    try:
        yield
    except Exception as error:
        if _killed(_pool):
            raise Preempted(
                "a worker process was killed, perhaps because memory ran out (fewer --workers "
                "need less); start the same command again, it continues with what is done"
            ) from error
        raise
    finally:
        _pool.shutdown(wait=True, cancel_futures=True)
        _pool = None


def submit(task: Any) -> "Future[None]":
    """Has the task done by one of the `worker_processes`."""
    assert _pool is not None, "submit is for blocks of worker_processes"
    return _pool.submit(_do, task)


def _do(task: Any) -> None:
    assert _work is not None, "only a worker does tasks"
    _work(task)


def _killed(pool: ProcessPoolExecutor) -> bool:
    try:
        pool.submit(os.getpid)
    except BrokenExecutor:
        return True
    return False


def _start_worker(work: Callable[[Any], None]) -> None:
    """Runs first in a worker, which ends when its parent is gone, however that came."""
    global _work
    _work = work
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


class Attempt:
    """Work that leaves a note of a `UserError`, because Beam carries only text."""

    def __init__(self, work: Callable[[Any], None], notes: str) -> None:
        self._work = work
        self._notes = notes

    def __call__(self, task: Any) -> None:
        """Does the work."""
        try:
            self._work(task)
        except UserError as error:
            note = {"error": type(error).__name__, "message": str(error)}
            with (
                contextlib.suppress(OSError),  # a full disk; the error itself goes on
                written_whole(place(self._notes) / f"{task.number:06d}.json") as file,
            ):
                file.write_text(json.dumps(note), encoding="utf-8")
            raise


def noted_error(notes: str) -> UserError | None:
    """What the first task in order complained about; forgets what others did."""
    found: list[UserError] = []
    for path in sorted(place(notes).glob("*.json")):
        note = json.loads(path.read_text(encoding="utf-8"))
        found.append(getattr(errors, note["error"])(note["message"]))
        path.unlink()
    return found[0] if found else None
