# SPDX-License-Identifier: Apache-2.0
r"""Command: a pod on this machine: several processes as its hosts, simulated devices as its chips.

    python -m launch.local_pod --processes=4 --devices=4 -- \
        --config=configs/pretrain.py:tiny --workdir=runs/pod --config.data.store=stores/mine

What follows `--` is the command line of `bert_jax.pretrain` (or, with `--module`, of
`bert_jax.finetune`), which runs in every process as it does on the hosts of a real pod, over
loopback. The lines that the hosts print begin with their number.
SIGTERM and Ctrl-C are passed on; where one host dies the others end, or are ended, too. Leaves with
0 if all did, 75 if they stopped and saved, 76 if a host was lost, else with the error of a host.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import TextIO

from absl import flags

from data_pipeline.errors import EXIT_PEER_LOST, EXIT_PREEMPTED, UsageError, run_command

_GRACE_SECONDS = 15  # to end by itself, beyond the time after which a host misses another
_FIX_FIRST = (64, 65, 70, 73, 74, 78)  # exit codes that no relaunch can help


def start_hosts(
    command: Sequence[str], processes: int, devices: int, peer_seconds: int
) -> list[subprocess.Popen[str]]:
    """Starts the command once for each host, joined over a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    return [
        subprocess.Popen(
            [
                *command,
                "--platform=cpu",
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process={process}",
                f"--peer_seconds={peer_seconds}",
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that Ctrl-C reaches them once, through us
        )
        for process in range(processes)
    ]


def wait(hosts: Sequence[subprocess.Popen[str]], grace_seconds: float) -> list[int]:
    """Exit codes of all hosts; those that outlive a failed one by `grace_seconds` are killed."""
    deadline = None
    while None in (codes := [host.poll() for host in hosts]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            for host in hosts:
                host.kill()
        time.sleep(0.1)
    return [host.returncode for host in hosts]


def verdict(codes: Sequence[int]) -> int:
    """The exit code of the whole, from those of the hosts (negative: ended by a signal)."""
    for code in codes:
        if code in _FIX_FIRST:
            return code
    if set(codes) <= {0, EXIT_PREEMPTED}:
        return max(codes)
    return EXIT_PEER_LOST if all(code < 0 or code in (0, 75, 76) for code in codes) else 70


def _pass_on_lines(number: int, lines: TextIO) -> None:
    for line in lines:
        print(f"[host {number}] {line}", end="", flush=True)


def run(command: Sequence[str], processes: int, devices: int, peer_seconds: int) -> int:
    """Runs the command on the hosts of a simulated pod; returns the exit code of the whole."""
    hosts = start_hosts(command, processes, devices, peer_seconds)

    def pass_on(number: int, frame: FrameType | None) -> None:
        for host in hosts:
            if host.poll() is None:
                host.send_signal(number)

    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, pass_on)
    readers = []
    for number, host in enumerate(hosts):
        print(f"host {number} is process {host.pid}", flush=True)
        assert host.stdout is not None
        readers.append(threading.Thread(target=_pass_on_lines, args=(number, host.stdout)))
        readers[-1].start()
    codes = wait(hosts, peer_seconds + _GRACE_SECONDS)
    for reader in readers:
        reader.join()
    if any(codes):
        print(f"the hosts left with {', '.join(map(str, codes))}", file=sys.stderr, flush=True)
    return verdict(codes)


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and runs the pod."""
    values = flags.FLAGS
    if values.processes < 1 or values.devices < 1:
        raise UsageError("--processes and --devices must be positive")
    if not arguments[1:]:
        raise UsageError(f"the flags of {values.module} are missing: give them after --")
    command = [sys.executable, "-m", values.module, *arguments[1:]]
    sys.exit(run(command, values.processes, values.devices, values.peer_seconds))


if __name__ == "__main__":
    modules = ["bert_jax.pretrain", "bert_jax.finetune"]
    flags.DEFINE_enum("module", modules[0], modules, "What every host runs.")
    flags.DEFINE_integer("processes", 4, "Simulated hosts.")
    flags.DEFINE_integer("devices", 4, "Simulated devices of each host.")
    flags.DEFINE_integer("peer_seconds", 30, "A host silent for so long is lost.")
    run_command(main)
