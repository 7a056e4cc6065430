# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run tell each other, and what process 0 decides for all of them.

It goes through JAX's coordination service, which process 0 hosts: a small table of strings. All
processes make the same calls in the same order. With one process every call is trivial.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # the table of strings has no public name

from data_pipeline import errors
from data_pipeline.errors import PeerLost, UserError

ANSWER_SECONDS = 600  # for the slowest process to come to the same call, or to show progress
_LOOK_SECONDS = 5.0  # between two looks at the progress of another process

_numbers = itertools.count()  # of the calls
_hosts: list[str] = []
_progressed = [0.0]  # when this process or one that it waits for got on, by time.monotonic


def introduce(host: str) -> None:
    """Tells all processes, which call this once, on what host this one is."""
    _hosts[:] = gather(host)


def processes() -> int:
    """How many there are; in contrast to `jax.process_count` known without any device."""
    return jax_distributed.global_state.num_processes


def process() -> int:
    """The number of this one."""
    return jax_distributed.global_state.process_id


def primary() -> bool:
    """Whether this is process 0, which alone writes what is written once."""
    return process() == 0


def host_name(number: int) -> str:
    """How messages call a process."""
    return f"process {number} on {_hosts[number]}" if _hosts else f"process {number}"


def gather(value: str) -> list[str]:
    """The values that all processes pass in this call, by process.

    Raises:
        PeerLost: a process did not come to this call.
    """
    if processes() == 1:
        return [value]
    name = f"gather/{next(_numbers)}"
    client().key_value_set(f"{name}/{process()}", value)
    return [_wait_for(f"{name}/{number}", number) for number in range(processes())]


def from_primary(action: Callable[[], Any]) -> Any:
    """Calls `action` in process 0 alone and returns its result (JSON) in every process.

    Raises:
        UserError: `action` raised it; in every process alike.
    """
    if processes() == 1:
        return action()
    name = f"primary/{next(_numbers)}"
    if not primary():
        answer = json.loads(_wait_for(name, 0))
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer["result"]
    try:
        result = action()
    except UserError as error:
        client().key_value_set(
            name, json.dumps({"error": type(error).__name__, "message": str(error)})
        )
        raise
    client().key_value_set(name, json.dumps({"result": result}))
    return result


def progress() -> None:
    """Tells the others, who may be waiting, that this process gets on; cheap enough for loops."""
    now = time.monotonic()
    if processes() > 1 and now - _progressed[0] > _LOOK_SECONDS:
        _progressed[0] = now
        client().key_value_set(f"progress/{process()}", str(now), allow_overwrite=True)


def progressed() -> float:
    """When this process, or one that it waits for, last told of progress, by time.monotonic."""
    return _progressed[0]


def offer(key: str, value: str) -> None:
    """Puts `value` under `key` for all processes, unless one of them has done so already."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client().key_value_set(key, value)


def look_up(key: str) -> str | None:
    """What a process has put under `key`, without waiting."""
    try:
        return client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def _wait_for(key: str, number: int) -> str:
    """What process `number` puts under `key`; its reading a large checkpoint may take long."""
    seen, since = look_up(f"progress/{number}"), time.monotonic()
    while True:
        try:
            return client().blocking_key_value_get(key, int(_LOOK_SECONDS * 1000))
        except jax.errors.JaxRuntimeError as error:
            now, late = time.monotonic(), "DEADLINE_EXCEEDED" in str(error)
            if late and now - since < ANSWER_SECONDS:
                if (told := look_up(f"progress/{number}")) != seen:
                    seen, since, _progressed[0] = told, now, now
                continue
            why = f"nothing for {ANSWER_SECONDS} s" if late else first_line(error)
            raise PeerLost(
                f"{host_name(number)} did not answer ({why}); what was saved is intact, and the "
                "same command on all hosts resumes"
            ) from error


def client() -> Any:
    """JAX's handle of the coordination service; None in a run of one process."""
    return jax_distributed.global_state.client


def first_line(error: Exception) -> str:
    """What an error of JAX says, without its account of how it came to be."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
