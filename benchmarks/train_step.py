# SPDX-License-Identifier: Apache-2.0
r"""Benchmark: the real training step, alone or against PyTorch in the same run.

    python benchmarks/train_step.py --size=base --length=128 --batch_size=16
    python benchmarks/train_step.py --size=mini --length=512 --compare=torch,torch_gathered

The step is the one that training runs: dropout, masked-position head, both losses, clipping and
optimiser, on batches with the lengths, masks and word frequencies of real text. Needs no store, no
TensorFlow and no ml_collections. Prints a table, and as the last line all figures as JSON.

Step times are medians over rounds; a round is a number of steps dispatched one after the other, as
training does it, and then awaited. With `--compare` the rounds of both sides take turns, so that
both see the same state of the machine; on a shared one compare the processor times as well.
"""

import importlib.metadata
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags, logging

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig, OptimizerConfig
from bert_jax.data_parallel import DataParallel
from bert_jax.flops import mfu, step_flops
from bert_jax.layers import compute_dtype
from bert_jax.optimizer import make_optimizer
from bert_jax.run_directory import versions
from bert_jax.train_step import init_state, jit_on, make_train_step
from data_pipeline.batch import IS_NEXT, IS_RANDOM, Batch, BatchSpec
from data_pipeline.errors import UsageError, run_command

ROUND_SECONDS = 0.2  # a round lasts at least so long, or the clock and the host would count too
PEERS = ("torch", "torch_gathered")

Step = Callable[[], Any]  # dispatches one training step
Wait = Callable[[], Any]  # returns when all that was dispatched is done


def synthetic_batch(spec: BatchSpec, vocab_size: int, seed: int) -> Batch:
    """A batch like those of `data_pipeline.source`, made from random numbers alone.

    One row in ten is short, as `short_seq_probability` makes it; words follow Zipf's law, because
    the time of an embedding's gradient depends on how often the same row is hit.
    """
    random = np.random.default_rng(seed)
    rows, length = spec.batch_size, spec.length
    weights = 1 / (np.arange(5, vocab_size) + 10)
    words = 5 + random.choice(vocab_size - 5, size=(rows, length), p=weights / weights.sum())
    lengths = np.where(random.random(rows) < 0.1, random.integers(5, length + 1, rows), length)
    places = np.arange(length)
    input_mask = (places < lengths[:, None]).astype(np.int32)
    second = random.integers(2, lengths - 1)
    segment_ids = ((places >= second[:, None]) & (input_mask == 1)).astype(np.int32)
    counts = np.clip(np.round(0.15 * lengths), 1, spec.predictions).astype(int)
    positions = np.zeros((rows, spec.predictions), np.int32)
    for row, count in enumerate(counts):
        chosen = random.choice(np.arange(1, lengths[row] - 1), count, replace=False)
        positions[row, :count] = np.sort(chosen)
    used = np.arange(spec.predictions) < counts[:, None]
    return {
        "input_ids": (words * input_mask).astype(np.int32),
        "input_mask": input_mask,
        "segment_ids": segment_ids,
        "masked_positions": positions,
        "masked_ids": (np.take_along_axis(words, positions, axis=1) * used).astype(np.int32),
        "masked_weights": used.astype(np.float32),
        "next_sentence_label": random.choice([IS_NEXT, IS_RANDOM], rows).astype(np.int32),
    }


class JaxStep:
    """Our training step, compiled for all devices that there are."""

    def __init__(self, config: BertConfig, batches: Sequence[Batch], accumulation: int) -> None:
        mesh = partitioning.make_mesh(MeshConfig())
        optimizer = make_optimizer(OptimizerConfig(), total_steps=1_000_000)

        def init() -> Any:
            return init_state(config, optimizer, seed=0)

        shardings = partitioning.state_shardings(mesh, jax.eval_shape(init))
        self._state = jax.jit(init, out_shardings=shardings)()
        self._batches = [partitioning.to_devices(mesh, batch) for batch in batches]
        self._taken = 0
        devices = DataParallel.over(mesh, self._state["params"], compute_dtype(config))
        step = make_train_step(config, optimizer, accumulation=accumulation, devices=devices)
        started = time.perf_counter()
        self._step = jit_on(mesh, step, self._state).lower(self._state, self._batches[0]).compile()
        self.compile_seconds = time.perf_counter() - started

    def dispatch(self) -> None:
        """Starts one step."""
        batch = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        self._state, self._terms = self._step(self._state, batch)

    def wait(self) -> None:
        """Waits for all steps."""
        jax.block_until_ready((self._state, self._terms))

    def loss(self) -> float:
        """Masked-LM loss of the last step."""
        total, weight = self._terms["mlm_loss"]
        return float(total) / float(weight)

    def peak_bytes(self) -> int | None:
        """Memory of one device at its fullest; where it does not tell, what XLA plans for."""
        told = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in told:
            return int(told["peak_bytes_in_use"])
        plan = self._step.memory_analysis()
        return plan and int(
            plan.argument_size_in_bytes
            + plan.output_size_in_bytes
            - plan.alias_size_in_bytes
            + plan.temp_size_in_bytes
        )


class Timing(NamedTuple):
    """Seconds of a step: by the clock, and of this process's processor time."""

    wall: float
    cpu: float


def time_in_turns(sides: dict[str, tuple[Step, Wait]], rounds: int) -> dict[str, list[Timing]]:
    """Seconds per step of each side in each round, warmed up, sides taking turns."""
    steps = {}
    for name, (dispatch, wait) in sides.items():
        _timed(dispatch, wait, 2)
        steps[name] = max(1, round(ROUND_SECONDS / _timed(dispatch, wait, 1).wall))
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (dispatch, wait) in sides.items():
            timings[name].append(_timed(dispatch, wait, steps[name]))
    return timings


def _timed(dispatch: Step, wait: Wait, steps: int) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        dispatch()
    wait()
    return Timing((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps)


def measure(
    config: BertConfig, spec: BatchSpec, *, accumulation: int, rounds: int, peers: Sequence[str]
) -> dict[str, Any]:
    """All figures of one configuration.

    Args:
        config: the model.
        spec: shape of the batch.
        accumulation: parts that a batch is worked off in.
        rounds: how many are timed.
        peers: of `PEERS`.
    """
    batches = [synthetic_batch(spec, config.vocab_size, seed) for seed in range(8)]
    ours = JaxStep(config, batches, accumulation)
    sides: dict[str, tuple[Step, Wait]] = {"bert_jax": (ours.dispatch, ours.wait)}
    for peer in peers:
        from torch_step import TorchStep

        theirs = TorchStep(config, batches, gathered=peer == "torch_gathered")
        sides[peer] = (theirs.dispatch, theirs.wait)
    timings = time_in_turns(sides, rounds)
    wall = {name: statistics.median(t.wall for t in found) for name, found in timings.items()}
    cpu = {name: statistics.median(t.cpu for t in found) for name, found in timings.items()}
    step_seconds, cpu_seconds = wall.pop("bert_jax"), cpu.pop("bert_jax")
    quartiles = np.quantile([timing.wall for timing in timings["bert_jax"]], [0.25, 0.75])
    flops = step_flops(config, spec.batch_size, spec.length)
    kind, devices = jax.devices()[0].device_kind, jax.device_count()
    tokens = spec.batch_size * spec.length
    real = sum(int(batch["input_mask"].sum()) for batch in batches) / (len(batches) * tokens)
    return {
        "device": kind,
        "devices": devices,
        "step_seconds": step_seconds,
        "step_seconds_quartiles": quartiles.tolist(),
        "cpu_seconds": cpu_seconds,
        "tokens_per_second": tokens / step_seconds,
        "real_token_share": real,
        "sequences_per_second": spec.batch_size / step_seconds,
        "model_flops_per_step": flops,
        "model_flops_per_second": flops / step_seconds,
        "mfu": mfu(flops, step_seconds, kind, devices),
        "compile_seconds": ours.compile_seconds,
        "peak_device_bytes": ours.peak_bytes(),
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "mlm_loss": ours.loss(),
        "peer_step_seconds": wall,
        "peer_cpu_seconds": cpu,
        "speed_over_peer": {name: value / step_seconds for name, value in wall.items()},
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    memory = figures["peak_device_bytes"]
    rows = {
        "step": f"{figures['step_seconds'] * 1e3:,.1f} ms",
        "tokens/s": f"{figures['tokens_per_second']:,.0f}",
        "model GFLOP/s": f"{figures['model_flops_per_second'] / 1e9:,.0f}",
        "MFU (bf16 peak)": "chip not known" if figures["mfu"] is None else f"{figures['mfu']:.1%}",
        "compile": f"{figures['compile_seconds']:.1f} s",
        "memory of a device": "not told" if memory is None else f"{memory / 2**20:,.0f} MiB",
    }
    for name, ratio in figures["speed_over_peer"].items():
        seconds = figures["peer_step_seconds"][name]
        processor = figures["peer_cpu_seconds"][name] / figures["cpu_seconds"]
        rows[name] = (
            f"{seconds * 1e3:,.1f} ms; we run at {ratio:.2f}x its speed "
            f"({processor:.2f}x by processor time)"
        )
    return "\n".join(f"{name:20} {value}" for name, value in rows.items())


def main(arguments: Sequence[str]) -> None:
    """Measures what the flags ask for."""
    unknown = set(_COMPARE.value) - set(PEERS)
    if len(arguments) > 1 or unknown:
        raise UsageError(f"cannot use {[*arguments[1:], *sorted(unknown)]}; try --help")
    if _COMPARE.value:
        # Both sides need room on one accelerator; read when the backend starts.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    logging.set_verbosity(logging.WARNING)
    dtype = _DTYPE.value
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config = BertConfig.preset(
        _SIZE.value, vocab_size=_VOCAB_SIZE.value, compute_dtype=dtype, remat=_REMAT.value
    )
    config = BertConfig(**vars(config) | {"unroll": _UNROLL.value or config.num_layers})
    spec = BatchSpec(_BATCH_SIZE.value, _LENGTH.value)
    setting = {
        "size": _SIZE.value,
        "length": spec.length,
        "batch_size": spec.batch_size,
        "dtype": dtype,
        "unroll": config.unroll,
        "remat": config.remat,
        "accumulation": _ACCUMULATION.value,
    }
    print(" ".join(f"{name}={value}" for name, value in setting.items()), flush=True)
    figures = measure(
        config,
        spec,
        accumulation=_ACCUMULATION.value,
        rounds=_ROUNDS.value,
        peers=_COMPARE.value,
    )
    print(table(figures))
    print(json.dumps(setting | figures | {"versions": versions() | _peer_versions()}))


def _peer_versions() -> dict[str, str]:
    packages = ("torch", "transformers") if _COMPARE.value else ()
    return {package: importlib.metadata.version(package) for package in packages}


if __name__ == "__main__":
    _SIZE = flags.DEFINE_string("size", "mini", "Model: tiny, mini, small, medium, base or large.")
    _LENGTH = flags.DEFINE_integer("length", 128, "Tokens in a sequence.", lower_bound=8)
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Sequences in a batch.", lower_bound=1)
    _DTYPE = flags.DEFINE_enum(
        "dtype",
        "auto",
        ("auto", "float32", "bfloat16"),
        "auto: float32 on a CPU, bfloat16 elsewhere.",
    )
    _VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 30522, "Entries of the vocabulary.")
    _UNROLL = flags.DEFINE_integer("unroll", 1, "Layers in an iteration; 0: all.", lower_bound=0)
    _REMAT = flags.DEFINE_bool("remat", False, "Recompute activations backwards.")
    _ACCUMULATION = flags.DEFINE_integer("accumulation", 1, "Parts of a batch.", lower_bound=1)
    _ROUNDS = flags.DEFINE_integer("rounds", 10, "Rounds that are timed.", lower_bound=1)
    _COMPARE = flags.DEFINE_list("compare", [], f"Peers to time as well: {', '.join(PEERS)}.")
    run_command(main)
