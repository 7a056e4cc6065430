# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: they find each other, and none outlives the others.

One process a host, all started with the same command. Inside `joined` threads look every second
whether the others are there. A process that fails says why before it leaves, and one that is lost
is missed within the time-out; either way all the others leave with that reason. With one process
nothing is started.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from bert_jax import agreement
from bert_jax.agreement import client, first_line, host_name
from bert_jax.cluster import Cluster
from data_pipeline.errors import (
    EXIT_PEER_LOST,
    ConfigError,
    PeerLost,
    Preempted,
    UserError,
)

_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 3 * _POLL_SECONDS  # process 0 stays so long for the others to read why
_SETTLE_SECONDS = 60.0  # for a save under way, before a failure ends the processes

_peer_seconds = [60]  # of the cluster that was joined
_last_step = [0.0]  # when the newest step was made, by time.monotonic
_leaving = threading.Lock()
_settle: list[Callable[[float], None]] = []  # of the innermost `leave_together`
_abort_handler: list[Any] = []  # kept alive
_abort_reason = [""]
_RESUME = "what was saved is intact, and the same command on all hosts resumes"


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Starts as a part of `cluster`, and ends when all its processes do.

    Raises:
        PeerLost: the others did not come in time.
        ConfigError: JAX does not run on the platform that was asked for.
    """
    if cluster.platform in ("cpu", "tpu"):  # a GPU is CUDA's or ROCm's, as JAX finds it
        jax.config.update("jax_platforms", "cpu" if cluster.platform == "cpu" else "tpu,cpu")
    if cluster.coordinator or cluster.platform == "tpu":
        _start(cluster)
    _peer_seconds[0] = cluster.peer_seconds
    done = threading.Event()
    try:
        with leave_together():
            if agreement.processes() > 1:  # before anything that may fail on one host alone
                step_made()
                for watch in (_watch_hosts, _watch_run):
                    threading.Thread(target=watch, args=(done, cluster), daemon=True).start()
            _check_platform(cluster.platform)
            if agreement.processes() > 1:
                agreement.introduce(socket.gethostname())
            yield
    finally:
        if client() is not None:
            _end(done)


def step_made() -> None:
    """Tells that the run gets on; called after every step."""
    _last_step[0] = time.monotonic()


@contextlib.contextmanager
def leave_together(settle: Callable[[float], None] | None = None) -> Iterator[None]:
    """An error inside ends all processes of the run, at once and with the reason.

    Unwinding the stack could wait for ever: for a save, which needs the others, for example. Being
    asked to stop is no error: all have agreed to it.

    Args:
        settle: waits for what is being saved, at most so many seconds. A process that fails calls
            it before it tells the others, whose part in the save goes on until then.
    """
    if settle is not None:
        _settle.append(settle)
    try:
        yield
    except Preempted:
        raise
    except BaseException as error:
        if agreement.processes() == 1:
            raise
        if isinstance(error, Exception):
            _finish_saving()
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(_peer_seconds[0] + 5)  # `_watch_hosts` will say if one is lost
        if isinstance(error, UserError):
            message, code = str(error), error.exit_code
        elif isinstance(error, KeyboardInterrupt):  # the second one; the first asks to save
            message, code = f"interrupted; {_RESUME}", 130
        else:
            traceback.print_exc()
            message, code = f"{type(error).__name__}: {error}", 70
        leave(message, code)
    finally:
        if settle is not None:
            _settle.remove(settle)


def _finish_saving() -> None:
    if _settle:
        _settle[-1](_SETTLE_SECONDS)


def _start(cluster: Cluster) -> None:
    known: dict[str, Any] = {}
    if cluster.coordinator not in ("", "auto"):
        known = {
            "coordinator_address": cluster.coordinator,
            "num_processes": cluster.processes,
            "process_id": cluster.process,
            "cluster_detection_method": "deactivate",
        }
    which = f"process {cluster.process} of {cluster.processes}" if known else "this process"
    missed = (
        f"{which} did not find the others within {cluster.start_seconds} s"
        + f" through {cluster.coordinator}" * bool(known)
        + "; is process 0 running there, is its port open and free, and is --processes the same, "
        "and --process another one, everywhere?"
    )
    _abort_reason[0] = missed
    _translate_abort()
    jax.config.update("jax_enable_recoverability", True)  # else JAX aborts before we say why
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM; see preemption
    try:
        jax.distributed.initialize(
            **known,
            initialization_timeout=cluster.start_seconds,
            heartbeat_timeout_seconds=cluster.peer_seconds,
        )
    except ValueError as error:
        raise ConfigError(
            f"the processes of this run cannot be found in the environment ({error}): "
            "give --coordinator=HOST:PORT, --processes=N and --process=I"
        ) from error
    except RuntimeError as error:
        raise PeerLost(f"{missed} ({first_line(error)})") from error
    _abort_reason[0] = (
        f"JAX has ended this process: process 0, the coordinator, is gone, or see above; {_RESUME}"
    )


def _check_platform(platform: str) -> None:
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        raise ConfigError(
            f"JAX finds no {platform or 'device'} ({first_line(error)}): is JAX installed for it, "
            "and does no other process use it?"
        ) from error
    if platform and found != platform:  # JAX takes the CPU with no more than a warning
        raise ConfigError(
            f"--platform={platform} was asked for, and JAX runs on {found}: is JAX installed for "
            f"{platform}, and is JAX_PLATFORMS unset?"
        )


def _end(done: threading.Event) -> None:
    """Waits for all processes; process 0 hosts the service, so it goes last."""
    timeout = agreement.ANSWER_SECONDS * 1000
    try:
        client().wait_at_barrier("ended", timeout)
        done.set()
        client().wait_at_barrier("nobody watches", timeout)
    except jax.errors.JaxRuntimeError as error:
        message = f"the processes did not end together ({first_line(error)}); {_RESUME}"
        _leave(message, EXIT_PEER_LOST)
    if agreement.primary():
        client().get_live_nodes(list(range(agreement.processes())))  # waits for the others to go
    jax.distributed.shutdown()


def _watch_hosts(done: threading.Event, cluster: Cluster) -> None:
    """Leaves when a process is lost; the question waits for the answers of all that live."""
    processes = list(range(agreement.processes()))
    starts: dict[int, int] = {}  # process -> what tells its start from another one
    while not done.wait(_POLL_SECONDS):
        reason = f"no sign of life for {cluster.peer_seconds} s"
        try:
            alive = client().get_live_nodes(processes)
        except jax.errors.JaxRuntimeError as error:
            missing, reason = {0}, f"the coordinator cannot be reached ({first_line(error)})"
        else:
            missing = set(processes) - set(alive)
            # JAX lets it join again, but it knows nothing of the steps that the others make.
            anew = {
                number
                for number in alive
                if alive[number] != starts.setdefault(number, alive[number])
            }
            if anew:
                missing, reason = anew, "it was started again, and the others were not"
        if missing and not done.is_set():
            names = " and ".join(host_name(process) for process in sorted(missing))
            _leave(f"lost {names}: {reason}; {_RESUME}", EXIT_PEER_LOST)


def _watch_run(done: threading.Event, cluster: Cluster) -> None:
    """Leaves when another process has failed, or when no steps are made."""
    while not done.wait(_POLL_SECONDS):
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # that is for `_watch_hosts`
            for key, value in client().key_value_dir_get("failed/"):
                failure = json.loads(value)
                name = host_name(int(key.rpartition("/")[2]))
                _finish_saving()
                _leave(f"{name} has stopped: {failure['message']}", failure["code"])
        if time.monotonic() - max(_last_step[0], agreement.progressed()) > cluster.stall_seconds:
            faulthandler.dump_traceback(all_threads=True)
            message = f"no step was made for {cluster.stall_seconds} s (stacks above); {_RESUME}"
            leave(message, EXIT_PEER_LOST)


def leave(message: str, code: int) -> NoReturn:
    """Ends this process, and all others of the run, with a message and an exit code."""
    if agreement.processes() > 1:
        _announce(message, code)
    _leave(message, code)


def _announce(message: str, code: int) -> None:
    failure = json.dumps({"message": message, "code": code})
    agreement.offer(f"failed/{agreement.process()}", failure)


def _leave(message: str, code: int) -> NoReturn:
    """Ends this process without unwinding; process 0 stays until the others know."""
    if not _leaving.acquire(blocking=False):
        time.sleep(3600)  # another thread is about to end the process
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if agreement.primary() and agreement.processes() > 1:
        time.sleep(_FAREWELL_SECONDS)
    os._exit(code)


def _translate_abort() -> None:
    """Gives the exit code of a lost host, and a reason, where JAX's runtime aborts the process.

    It does so when the others do not come at the start, and at once when process 0 is gone. A
    handler made by `signal.signal` would never run: it waits for the interpreter's main thread.
    """

    def handle(number: int) -> None:
        os.write(2, f"error: {_abort_reason[0]}\n".encode())
        os._exit(EXIT_PEER_LOST)

    _abort_handler.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler[-1])
