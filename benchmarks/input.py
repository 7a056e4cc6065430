# SPDX-License-Identifier: Apache-2.0
r"""Benchmark: examples from the store on disk, in every mode, against peers in the same run.

    python benchmarks/input.py --tokens=1000000000          # on a store of random text, made first
    python benchmarks/input.py --store=runs/store           # on a real one

Measures what a training run asks of its input: tokens a second for a core, alone and on several
cores, by tf.data and by threads; the first batch after a resume at step 900,000; resident memory;
and the wait of a device that takes 2 ms a step. Peers make the same examples one at a time: a Grain
pipeline and the original's own algorithm. The floor is what any pipeline on NumPy would pay: one
gather from the memory-mapped tokens, and the masking. Prints tables, and as the last line JSON.

Each figure comes from a process of its own, bound to the cores it may use. Sides take turns in
rounds and medians are given. "A core" means a second of processor time, so that what else runs on
the machine does not count; wall-clock figures are given beside. Padding counts as tokens.
"""

import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from random_store import write_random_store

from data_pipeline.batch import Batch
from data_pipeline.errors import UsageError, run_command
from data_pipeline.masking import mask_tokens
from data_pipeline.mixture import Mixture, open_mixture
from data_pipeline.random_bits import bits
from data_pipeline.source import ExampleOptions, batches

MODES: dict[str, dict[str, Any]] = {
    "next_sentence": {},
    "sentence_order": {"pairs": "sentence_order"},
    "none": {"pairs": "none"},
    "whole_word": {"whole_word": True},
    "dupe_factor": {"dupe_factor": 10},
}
BATCH_SIZE = 256
RESUME_STEP = 900_000
DEVICE_SECONDS = 0.002
_ROUND_TOKENS = 1 << 22


def time_in_turns(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second of each side, by the clock and by processor time: medians over rounds.

    Args:
        sides: each call makes some tokens and returns their number.
        rounds: how often each side is called, after once to warm up.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, make in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            tokens = make()
            wall += _settle()
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            if turn:
                found[name].append((tokens / wall, tokens / processor))
    return {
        name: {
            "wall": statistics.median(pair[0] for pair in pairs),
            "core": statistics.median(pair[1] for pair in pairs),
        }
        for name, pairs in found.items()
    }


def _settle() -> float:
    """Waits until nothing is read ahead any more, or the next side would pay for it.

    Returns:
        the seconds of that in which nothing was done.
    """
    while True:
        processor, wall = time.process_time(), time.perf_counter()
        time.sleep(0.02)
        if time.process_time() - processor < 0.002:
            return time.perf_counter() - wall


def _draw(feed: Iterator[Batch], tokens: int) -> int:
    made = 0
    while made < tokens:
        made += next(feed)["input_ids"].size
    return made


def _feed(
    store: Mixture, length: int, reader: str = "threads", first_step: int = 0, **options: Any
) -> Iterator[Batch]:
    """The batches of a run on this machine alone."""
    return batches(
        store.stream("train", length=length, seed=0, options=ExampleOptions(**options)),
        batch_size=BATCH_SIZE,
        rows=range(BATCH_SIZE),
        first_step=first_step,
        last_step=1 << 40,
        reader=reader,
    )


def measure_floor(store: Mixture, length: int) -> Callable[[], int]:
    """One gather from the mapped tokens at random places, and the masking."""
    tokens = np.asarray(store.stores[0].split("train").tokens)
    random = np.random.default_rng(0)

    def make() -> int:
        rows = 1024
        for _ in range(_ROUND_TOKENS // (rows * length)):
            start = random.integers(0, len(tokens) - length, rows)
            ids = tokens[start[:, None] + np.arange(length)].astype(np.int32)
            batch = {"input_ids": ids, "input_mask": np.ones_like(ids)}
            mask_tokens(batch, store.special, store.vocab_size, bits(0, start))
        return _ROUND_TOKENS // (rows * length) * rows * length

    return make


def feeding(store: Mixture, length: int, reader: str, rounds: int) -> dict[str, Any]:
    """Every mode through `batches`, and the floor."""
    sides = {"floor": measure_floor(store, length)}
    for mode, options in MODES.items():
        sides[mode] = functools.partial(
            _draw, _feed(store, length, reader, **options), _ROUND_TOKENS
        )
    return time_in_turns(sides, rounds)


def one_side(store: Mixture, length: int, name: str, rounds: int) -> dict[str, Any]:
    """A peer, or our default mode, alone: the threads of one would take time from the other."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from grain_input import grain_batches, literal_examples

    if name == "literal":
        examples = literal_examples(store, length)

        def side() -> int:
            return len([next(examples) for _ in range(200)]) * length

    else:
        feed = _feed(store, length) if name == "bert_jax" else grain_batches(store, length, 256)
        side = functools.partial(_draw, feed, _ROUND_TOKENS if name == "bert_jax" else 1 << 19)
    return time_in_turns({name: side}, rounds)[name]


def resume(store: Mixture, length: int) -> dict[str, float]:
    """Seconds to the first batch at a far step, from opening the store on."""
    started = time.perf_counter()
    first = next(_feed(open_mixture(str(store.path)), length, first_step=RESUME_STEP))
    assert len(first["input_ids"]) == BATCH_SIZE
    return {"seconds": time.perf_counter() - started}


def waiting(store: Mixture, length: int, reader: str) -> dict[str, float]:
    """Share of the time that a device waits which is busy for `DEVICE_SECONDS` a step.

    Memory is looked at afterwards, when many different places of the store have been read.
    """
    feed = _feed(store, length, reader)
    for _ in range(50):
        next(feed)
    waited, started = 0.0, time.perf_counter()
    for _ in range(2000):
        asked = time.perf_counter()
        next(feed)
        waited += time.perf_counter() - asked
        time.sleep(DEVICE_SECONDS)
    return {
        "wait_share": waited / (time.perf_counter() - started),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (feeding, one_side, resume, waiting)
}


def run_task(store: str, cores: int, task: str, **arguments: Any) -> dict[str, Any]:
    """Does one part in a process of its own on that many cores."""
    command = [sys.executable, __file__, f"--store={store}"]
    usable = sorted(os.sched_getaffinity(0))[:cores]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, f"--task={json.dumps([task, arguments])}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process_seconds": time.perf_counter() - started}


def measure(store: str, lengths: Sequence[int], cores: Sequence[int]) -> dict[str, Any]:
    """All figures of one store."""
    figures: dict[str, Any] = {"feeding": {}, "peers": {}, "resume": {}, "waiting": {}}
    rounds = _ROUNDS.value
    for length in lengths:
        for name in ("first_time", "kept"):
            if name == "first_time":
                _forget(store)
            figures["resume"][f"{length}/{name}"] = run_task(store, 1, "resume", length=length)
        for count in cores:
            for reader in ("tf.data", "threads"):
                found = run_task(
                    store, count, "feeding", length=length, reader=reader, rounds=rounds
                )
                figures["feeding"][f"{length}/{reader}/{count}"] = found
                for mode in ("floor", *MODES):
                    speed = {name: value / 1e6 for name, value in found[mode].items()}
                    print(
                        f"{length:4} tokens  {reader:8} {count} core(s)  {mode:15}"
                        f"{speed['wall']:8.1f} M/s {speed['core']:8.1f} M/s a core",
                        flush=True,
                    )
        sides = {
            name: run_task(store, 1, "one_side", length=length, name=name, rounds=rounds)
            for name in ("bert_jax", *_PEERS.value)
        }
        figures["peers"][str(length)] = sides
        for name in _PEERS.value:
            ratio = sides["bert_jax"]["core"] / sides[name]["core"]
            figures["peers"][f"{length}/over_{name}"] = ratio
            speed = sides[name]["core"] / 1e6
            print(f"{length:4} tokens  {name} {speed:.3f} M/s a core, {ratio:,.0f} times less")
    for reader in ("tf.data", "threads"):
        found = run_task(store, max(cores), "waiting", length=128, reader=reader)
        figures["waiting"][reader] = found
        print(
            f"{reader:8} a device of {DEVICE_SECONDS * 1e3:.0f} ms a step waits "
            f"{found['wait_share']:.2%}; {found['peak_bytes'] / 2**20:,.0f} MiB resident"
        )
    for name, found in figures["resume"].items():
        print(f"first batch at step {RESUME_STEP:,}, {name}: {found['seconds']:.2f} s")
    return figures


def _forget(store: str) -> None:
    for file in (Path(store) / "kept").glob("*/*"):
        file.unlink()


def main(arguments: Sequence[str]) -> None:
    """Measures what the flags ask for."""
    if len(arguments) > 1:
        raise UsageError(f"cannot use {arguments[1:]}; try --help")
    if _TASK.value:
        name, parameters = json.loads(_TASK.value)
        print(json.dumps(TASKS[name](open_mixture(_STORE.value), **parameters)))
        return
    unknown = set(_PEERS.value) - {"grain", "literal"}
    if unknown:
        raise UsageError(f"--peers knows grain and literal, not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        store = _STORE.value
        if not store:
            store = str(Path(folder) / "store")
            write_random_store(Path(store), _TOKENS.value)
        split = open_mixture(store).stores[0].split("train")
        counts = {"documents": split.documents, "tokens": len(split.tokens)}
        print(" ".join(f"{name}={value:,}" for name, value in counts.items()), flush=True)
        figures = measure(
            store, [int(text) for text in _LENGTHS.value], [int(text) for text in _CORES.value]
        )
        setting = {"batch_size": BATCH_SIZE, "rounds": _ROUNDS.value, "numpy": np.__version__}
        print(json.dumps({**setting, **counts, **figures}))


if __name__ == "__main__":
    _STORE = flags.DEFINE_string("store", "", "Store to read; empty: one of random text is made.")
    _TOKENS = flags.DEFINE_integer(
        "tokens", 100_000_000, "Size of that store.", lower_bound=100_000
    )
    _FOLDER = flags.DEFINE_string("folder", None, "Where it is made, and deleted afterwards.")
    _LENGTHS = flags.DEFINE_list("lengths", ["128", "512"], "Tokens in an example.")
    _CORES = flags.DEFINE_list("cores", ["1", "2"], "Numbers of cores to measure on.")
    _ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that are timed.", lower_bound=1)
    _PEERS = flags.DEFINE_list("peers", ["grain", "literal"], "Peers to time as well.")
    _TASK = flags.DEFINE_string(
        "task", "", "For the benchmark itself: the part that a process does."
    )
    run_command(main)
