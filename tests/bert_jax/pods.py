# SPDX-License-Identifier: Apache-2.0
"""Runs of seconds on simulated pods: real processes over loopback, each with its own devices."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "jax"
RECIPE = {
    "steps": 12,
    "phases.short.length": 32,
    "phases.short.batch_size": 16,
    "phases.short.share": 0.75,
    "phases.long.length": 64,
    "phases.long.batch_size": 16,
    "phases.long.share": 0.25,
    "model.hidden_size": 32,
    "model.num_layers": 1,
    "model.num_heads": 4,
    "model.mlp_size": 64,
    "model.max_positions": 64,
    "model.compute_dtype": "float32",
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 3,
    "data.reader": "threads",
    "evaluation.every": 6,
    "evaluation.examples": 20,
    "evaluation.batch_size": 16,
    "checkpoint.every": 3,
    "log_every": 1,
}


def training_flags(workdir, store, **changes):
    """Flags of `bert_jax.pretrain`."""
    keys = RECIPE | {"data.store": str(store)} | changes
    return [
        "--config=configs/pretrain.py:tiny",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
    ]


def start(arguments, **environment):
    """Starts a command of this repository, on the CPU and with the tests' compilation cache."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_pod(hosts, devices, flags, *, module="bert_jax.pretrain", signal_at=None):
    """Runs `launch.local_pod` to its end; returns its exit code and what it printed.

    Args:
        hosts: simulated hosts.
        devices: of each host.
        flags: of `module`.
        module: the command that every host runs.
        signal_at: (step, signal, host): after its line about that step, one host gets a signal.
    """
    options = [f"--processes={hosts}", f"--devices={devices}", f"--module={module}"]
    options.append("--peer_seconds=10")
    pod = start(["-m", "launch.local_pod", *options, "--", *flags])
    lines, processes = [], {}
    with pod:
        for line in pod.stdout:
            lines.append(line)
            if found := re.match(r"host (\d+) is process (\d+)", line):
                processes[int(found[1])] = int(found[2])
            if signal_at and re.match(rf"\[host 0\] +{signal_at[0]}/", line):
                os.kill(processes[signal_at[2]], signal_at[1])
                signal_at = None
    return pod.returncode, "".join(lines)


KILL, STOP, TERMINATE = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM
