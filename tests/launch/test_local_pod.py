# SPDX-License-Identifier: Apache-2.0
"""The simulated pod around hosts that are small scripts (real trainers: tests/bert_jax)."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch import local_pod

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from launch import local_pod
local_pod._GRACE_SECONDS = 1
sys.exit(local_pod.run([sys.executable, "-c", sys.argv[1]], 3, 2, peer_seconds=1))
"""


def pod(host: str) -> "subprocess.Popen[str]":
    """A pod of three hosts, each of which runs the Python code `host`."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, host],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((0, 0), 0),
        ((75, 75), 75),
        ((0, 75), 75),
        ((76, -9), 76),
        ((-9, 76, 76), 76),
        ((75, -15), 76),
        ((78, 78), 78),
        ((76, 65, -9), 65),
        ((0, 1), 70),
        ((76, 1), 70),
    ],
)
def test_verdict(codes: Sequence[int], expected: int) -> None:
    assert local_pod.verdict(codes) == expected


def test_every_host_knows_its_place_and_its_lines_are_told_apart() -> None:
    host = "import os, sys; print(sys.argv[1:], os.environ['JAX_NUM_CPU_DEVICES'])"
    with pod(host) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    for number in range(3):
        lines = [line for line in printed.splitlines() if line.startswith(f"[host {number}] ")]
        assert len(lines) == 1
        assert "'--platform=cpu', '--coordinator=127.0.0.1:" in lines[0]
        assert f"'--processes=3', '--process={number}', '--peer_seconds=1'] 2" in lines[0]


def test_hosts_that_outlive_a_failed_one_are_ended() -> None:
    host = "import sys, time; '--process=1' in sys.argv and sys.exit(76); time.sleep(60)"
    started = time.monotonic()
    with pod(host) as process:
        printed, _ = process.communicate()
    assert process.returncode == 76
    assert "the hosts left with -9, 76, -9" in printed
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_host_once(number: signal.Signals) -> None:
    host = (
        "import signal, sys, time\n"
        "def stop(number, frame): print('got', number, flush=True); time.sleep(0.5); sys.exit(75)\n"
        f"signal.signal({int(number)}, stop); print('ready', flush=True); time.sleep(600)"
    )
    with pod(host) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if sum("ready" in line for line in lines) == 3 and "ready" in line:
                process.send_signal(number)
    assert process.returncode == 75
    assert sum(f"got {int(number)}" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes=0", "--", "--config=x"], "--processes and --devices must be positive"),
        (["--processes=2"], "the flags of bert_jax.pretrain are missing: give them after --"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(arguments: list[str], message: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "launch.local_pod", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 64
    assert found.stderr == f"error: {message}\n"
