# SPDX-License-Identifier: Apache-2.0
"""Saves checkpoints in child processes, kills them at random moments, and keeps the score.

    python tests/bert_jax/killed_while_saving.py DIRECTORY TRIALS

Each child opens the directory that the one before was killed in, restores, compares every array
with a function of the step, and saves until it is killed. It tells the parent a step once
`Checkpoints.poll` has called it safe; the next child must not find anything older. Children are
forked from a process that has imported JAX but started no backend, which saves seconds each.
The last line of the output is the score as JSON.
"""

import collections
import json
import os
import pathlib
import random
import select
import signal
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.checkpoint import Checkpoints

SIZE = 50_000


def state_at(step: int) -> dict[str, jax.Array]:
    return {"values": jnp.arange(SIZE, dtype=jnp.float32) * (step + 1), "step": jnp.int32(step)}


def train(directory: pathlib.Path, keep_last: int, report: int) -> None:
    """Restores, compares, then saves step after step without end; tells `report` what is safe."""
    checkpoints = Checkpoints(directory, keep_last)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state_at(0)
    )
    restored = checkpoints.restore(abstract)
    step = 0
    if restored is not None:
        step, state, meta = restored
        expected = state_at(step)
        same = all(np.array_equal(state[name], expected[name]) for name in expected)
        if not same or meta != {"step": step}:
            os.write(report, f"wrong {step}\n".encode())
    os.write(report, f"restored {step}\n".encode())
    while True:
        step += 1
        checkpoints.save(step, state_at(step), {"step": step})
        while (safe := checkpoints.poll()) is None:
            time.sleep(0.001)
        os.write(report, f"safe {safe}\n".encode())


def run_child(directory: pathlib.Path, keep_last: int, delay: float, at_start: bool) -> list[str]:
    """Forks a child, kills it `delay` seconds after its start or its restore; what it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            train(directory, keep_last, writer)
        except BaseException:  # whatever it is, it is a failure of the trial
            traceback.print_exc()
            os.write(writer, b"failed 0\n")
        os._exit(1)
    os.close(writer)
    output = b""
    deadline = time.monotonic() + (delay if at_start else 60)
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            break
        chunk = os.read(reader, 4096)
        if not chunk:
            break
        if not at_start and b"restored" in chunk:
            deadline = time.monotonic() + delay
        output += chunk
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while chunk := os.read(reader, 4096):
        output += chunk
    os.close(reader)
    return output.decode().splitlines()


def main(directory: pathlib.Path, trials: int) -> None:
    generator = random.Random(trials)
    score: collections.Counter[str] = collections.Counter(trials=trials)
    promised = 0
    for trial in range(trials):
        at_start = trial % 4 == 3
        lines = run_child(directory, 1 + trial % 2, generator.uniform(0, 0.6), at_start)
        for kind, number in (line.split() for line in lines):
            score[kind] += 1
            if kind == "restored" and int(number) < promised:
                score["lost"] += 1
            if kind == "safe":
                promised = int(number)
        left = [path.name for path in directory.iterdir()] if directory.exists() else []
        score["kills during a save"] += any(name.endswith("-tmp") for name in left)
        score["kills before the manifest"] += any(
            name.isdigit() and not (directory / name / "manifest.json").exists() for name in left
        )
        score["kills during a deletion"] += any(name.startswith("deleted-") for name in left)
    print(json.dumps(score))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
