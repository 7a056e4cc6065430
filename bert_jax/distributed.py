# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: they find each other, agree, and none outlives the others.

One process a host, all started with the same command. What they tell each other besides gradients
goes through JAX's coordination service, which process 0 hosts: a small table of strings. With one
process nothing is started and every function here is trivial.

`joined` starts and ends it all. Inside, a thread looks every second whether the others are there.
A process that fails says why before it leaves, and one that is lost is missed within the time-out;
either way all the others leave with that reason.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed as jax_distributed  # the table of strings has no public name

from data_pipeline import errors
from data_pipeline.errors import ConfigError, PeerLost, Preempted, UsageError, UserError

_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 3 * _POLL_SECONDS  # process 0 stays so long for the others to read why
_ANSWER_SECONDS = 600  # for the slowest process to come to the same place
_PLATFORMS = ("", "cpu", "gpu", "tpu")

_numbers = itertools.count()  # of exchanges; all processes make the same ones in the same order
_hosts: list[str] = []
_peer_seconds = [60]  # of the cluster that was joined


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Which processes make up the run.

    Attributes:
        coordinator: HOST:PORT of process 0; "auto" asks the environment (TPU VM, GKE, Slurm, Open
            MPI); empty for a run of one process, on `platform` "tpu" for "auto".
        processes: how many there are; 0 with "auto".
        process: the number of this one, from 0; -1 with "auto".
        platform: "tpu", "gpu" or "cpu" that the run must be on; empty for what JAX finds.
        start_seconds: how long to wait for all processes at the start.
        peer_seconds: after so many seconds without a sign of life a process counts as lost.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1
    platform: str = ""
    start_seconds: int = 300
    peer_seconds: int = 60

    def __post_init__(self) -> None:
        if self.platform not in _PLATFORMS:
            raise UsageError(f"--platform={self.platform} is not known: use tpu, gpu or cpu")
        if self.coordinator in ("", "auto"):
            if self.processes or self.process >= 0:
                raise UsageError("--processes and --process need --coordinator=HOST:PORT")
        elif not self.coordinator.rpartition(":")[2].isdigit():
            raise UsageError(f"--coordinator={self.coordinator} is not of the form HOST:PORT")
        elif not 0 <= self.process < self.processes:
            raise UsageError(
                f"--coordinator needs --processes=N and --process from 0 to N - 1, not "
                f"--processes={self.processes} --process={self.process}"
            )


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Starts as a part of `cluster`, and ends when all its processes do.

    Raises:
        PeerLost: the others did not come in time.
        ConfigError: JAX does not run on the platform that was asked for.
    """
    if cluster.platform:
        # Without, JAX takes the CPU with a warning where an accelerator does not start.
        jax.config.update("jax_platforms", cluster.platform.replace("gpu", "cuda"))
    if cluster.coordinator or cluster.platform == "tpu":
        _start(cluster)
    _peer_seconds[0] = cluster.peer_seconds
    with leave_together():
        _check_platform(cluster.platform)
        if jax.process_count() == 1:
            yield
            return
        _hosts[:] = gather(socket.gethostname())
        done = threading.Event()
        threading.Thread(target=_watch, args=(done,), daemon=True).start()
        try:
            yield
        finally:
            done.set()
            _end()


def primary() -> bool:
    """Whether this is process 0, which alone writes what is written once."""
    return jax.process_index() == 0


def host_name(process: int) -> str:
    """How messages call a process."""
    return f"process {process} on {_hosts[process]}" if _hosts else f"process {process}"


def gather(value: str) -> list[str]:
    """The values that all processes pass in this call, by process.

    Raises:
        PeerLost: a process did not come to this call.
    """
    if jax.process_count() == 1:
        return [value]
    name = f"gather/{next(_numbers)}"
    _client().key_value_set(f"{name}/{jax.process_index()}", value)
    return [_wait_for(f"{name}/{process}", process) for process in range(jax.process_count())]


def from_primary(action: Callable[[], Any]) -> Any:
    """Calls `action` in process 0 alone and returns its result (JSON) in every process.

    Raises:
        UserError: `action` raised it; in every process alike.
    """
    if jax.process_count() == 1:
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
        _client().key_value_set(
            name, json.dumps({"error": type(error).__name__, "message": str(error)})
        )
        raise
    _client().key_value_set(name, json.dumps({"result": result}))
    return result


def offer(key: str, value: str) -> None:
    """Puts `value` under `key` for all processes, unless one of them has done so already."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(key, value)


def look_up(key: str) -> str | None:
    """What a process has put under `key`, without waiting."""
    try:
        return _client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


@contextlib.contextmanager
def leave_together() -> Iterator[None]:
    """An error inside ends all processes of the run, at once and with the reason.

    Unwinding the stack could wait for ever: for a save, which needs the others, for example. Being
    asked to stop is no error: all have agreed to it.
    """
    try:
        yield
    except Preempted:
        raise
    except BaseException as error:
        if jax_distributed.global_state.client is None or jax.process_count() == 1:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(_peer_seconds[0] + 5)  # if a lost process is the cause, `_watch` will say so
        if isinstance(error, UserError):
            message, code = str(error), error.exit_code
        else:
            traceback.print_exc()
            message, code = f"{type(error).__name__}: {error}", 70
        offer(f"failed/{jax.process_index()}", json.dumps({"message": message, "code": code}))
        _leave(message, code)


def _start(cluster: Cluster) -> None:
    jax.config.update("jax_enable_recoverability", True)  # else JAX aborts before we say why
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM; see preemption
    known = (
        {}
        if cluster.coordinator in ("", "auto")
        else {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
            "cluster_detection_method": "deactivate",
        }
    )
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=cluster.start_seconds,
            heartbeat_timeout_seconds=cluster.peer_seconds,
        )
    except (RuntimeError, ValueError) as error:
        if not known:
            raise ConfigError(
                f"the processes of this run cannot be found in the environment ({error}); on one "
                "TPU VM, GKE or Slurm that should work, elsewhere give --coordinator=HOST:PORT, "
                "--processes=N and --process=I"
            ) from error
        raise PeerLost(
            f"process {cluster.process} of {cluster.processes} did not find the others within "
            f"{cluster.start_seconds} s through {cluster.coordinator} ({_first_line(error)}); is "
            "process 0 running there, is the port open and free, and is --processes the same, and "
            "--process another one, everywhere?"
        ) from error


def _check_platform(platform: str) -> None:
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise ConfigError(
            f"JAX finds no {platform or 'device'} ({_first_line(error)}); is another process using "
            "it, and is JAX installed for it?"
        ) from error
    if platform and found != platform:
        raise ConfigError(f"--platform={platform} was asked for, and JAX runs on {found}")


def _end() -> None:
    """Process 0 hosts the service, so it goes last."""
    client = _client()
    client.wait_at_barrier("end", _ANSWER_SECONDS * 1000)
    if primary():
        client.get_live_nodes(list(range(jax.process_count())))  # returns when the others are gone
    jax.distributed.shutdown()


def _watch(done: threading.Event) -> None:
    processes = range(jax.process_count())
    while not done.wait(_POLL_SECONDS):
        try:
            failures = _client().key_value_dir_get("failed/")
            missing = set(processes) - set(_client().get_live_nodes(list(processes)))
        except jax.errors.JaxRuntimeError as error:
            reason = f"{host_name(0)}, the coordinator, cannot be reached ({_first_line(error)})"
            failures, missing = [], {0}
        else:
            names = " and ".join(host_name(process) for process in sorted(missing))
            reason = f"{names} gave no sign of life for {_peer_seconds[0]} s"
        if done.is_set():
            return
        for key, value in failures:
            failure = json.loads(value)
            name = host_name(int(key.rpartition("/")[2]))
            _leave(f"{name} has stopped: {failure['message']}", failure["code"])
        if missing:
            _leave(
                f"{reason}; what was saved is intact, and the same command on all hosts resumes",
                errors.EXIT_PEER_LOST,
            )


def _leave(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if primary():
        time.sleep(_FAREWELL_SECONDS)
    os._exit(code)


def _wait_for(key: str, process: int) -> str:
    try:
        return _client().blocking_key_value_get(key, _ANSWER_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise PeerLost(
            f"{host_name(process)} did not answer ({_first_line(error)}); what was saved is "
            "intact, and the same command on all hosts resumes"
        ) from error


def _client() -> Any:
    return jax_distributed.global_state.client


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
