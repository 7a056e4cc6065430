# SPDX-License-Identifier: Apache-2.0
r"""Our training step against the peer's on a slice of TPUs, as the TPU compiler estimates both.

    make pod-peer       # once: transformers 4.57 and libtpu, in .venv-peer
    .venv-peer/bin/python benchmarks/pod_peer.py --size=base --slice=v4-32 \
        --length=128 --batch_size=256

Ours is `configs/pretrain.py:SIZE,pod`: all layers unrolled, optimiser sharded. The peer is
`run_mlm_flax.py` (`flax_step.py`) on the same model, batch and slice. Both are estimated by
`bert_jax.plan` from their compiled programs, which cost minutes each at first and seconds from its
cache; `--layers=1,3` draws both out from two shorter models instead, which is cheaper and a little
off. Prints where the time goes, with `--top` the costliest operations too, and as the last line all
figures as JSON.
"""

import collections
import dataclasses
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

from bert_jax.config import RunConfig
from bert_jax.plan.compiler import (
    DEFAULT_CACHE,
    Compiled,
    OutOfMemoryError,
    compile_lowered,
    compile_step,
    devices,
    libtpu_version,
)
from bert_jax.plan.estimate import Estimate, extrapolate, measure, with_layers
from bert_jax.plan.kinds import KINDS, split
from bert_jax.plan.program import Instruction, Program, parse
from bert_jax.plan.recipe import load
from bert_jax.plan.report import GIB, MEMORY_PARTS, estimate_json
from bert_jax.slices import Slice, find_slice
from configs import pretrain
from data_pipeline.batch import BatchSpec
from data_pipeline.errors import UsageError, UserError, run_command

VOCAB_SIZE = 30522
PEER_TRANSFORMERS = "4.57."
# Parts of their model -> the names by which `bert_jax.plan.kinds` knows the same parts of ours.
_NAMES = (
    (re.compile(r"/LayerNorm/"), "/layer_norm/"),
    (re.compile(r"/(intermediate|transform)/(?!dense/|layer_norm/)"), r"/\1/gelu/"),
    (re.compile(r"/attention/(output|self/(?:query|key|value))/"), r"/attention_\1/"),
    (re.compile(r"/jit\(_bernoulli\)/"), "/dropout/"),
    (re.compile(r"/cls/predictions/(?!transform/|decoder/)"), "/cls/predictions/loss/"),
)


class NoPeerError(UserError):
    """transformers is not installed, or is one without Flax."""

    exit_code = 69


def check_peer() -> str:
    """Version of transformers.

    Raises:
        NoPeerError: there is none with Flax; says how to get it.
    """
    try:
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if not found.startswith(PEER_TRANSFORMERS):
        raise NoPeerError(
            f"the peer needs transformers {PEER_TRANSFORMERS}x, the last with Flax, and here is "
            f"{found}: make pod-peer builds .venv-peer with it; then run "
            ".venv-peer/bin/python benchmarks/pod_peer.py"
        )
    return found


def recipe(size: str, length: int, batch_size: int) -> RunConfig:
    """Ours for a slice, with one phase."""
    mapping = pretrain.get_config(f"{size},pod").to_dict()
    mapping["phases"] = {"only": {"length": length, "batch_size": batch_size, "share": 1.0}}
    return load(mapping, VOCAB_SIZE)


def compilers(
    config: RunConfig, where: Slice, cache: Path | None
) -> dict[str, Callable[[int], Compiled]]:
    """Of both programs: the step of the model with so many layers, compiled."""
    span = config.spans()[0]

    def ours(layers: int) -> Compiled:
        return compile_step(with_layers(config, layers), span, where, cache, _say)

    def peer(layers: int) -> Compiled:
        from flax_step import FlaxStep

        model = with_layers(config, layers).model
        step = FlaxStep(model, config.optimizer, config.steps, devices(where))
        lowered, state = step.lower(BatchSpec(span.batch_size, span.length))
        what = f"{layers} layers of the peer, {span.batch_size} x {span.length}"
        found = compile_lowered(lowered, state, where, cache, _say, what, {})
        return dataclasses.replace(found, text=with_our_names(found.text))

    return {"ours": ours, "peer": peer}


def with_our_names(text: str) -> str:
    """Their compiled program with the parts of the model named as in ours."""

    def rename(found: re.Match[str]) -> str:
        name = found.group(0)
        for theirs, ours in _NAMES:
            name = theirs.sub(ours, name)
        return name

    return re.sub(r'op_name="[^"]*"', rename, text)


def table(estimates: dict[str, Estimate]) -> str:
    """Both programs side by side."""
    columns: list[dict[str, str]] = []
    for estimate in estimates.values():
        cells = {"step, ms": f"{estimate.time.total * 1e3:.2f}"}
        for kind in KINDS:
            cells[f"  {kind}"] = f"{estimate.time.seconds[kind] * 1e3:.2f}"
        for name, each in sorted(estimate.time.exchanges.items()):
            if each.bytes > 1e5:
                cells[f"{name}, MB (exposed ms)"] = (
                    f"{each.bytes / 1e6:.1f} ({each.exposed * 1e3:.2f})"
                )
        cells["HBM a device, GiB"] = f"{estimate.memory.total / GIB:.2f}"
        for part in MEMORY_PARTS:
            cells[f"  {part}, GiB"] = f"{getattr(estimate.memory, part) / GIB:.2f}"
        columns.append(cells)
    labels = list(dict.fromkeys(label for column in columns for label in column))
    lines = [f"{'':40}" + "".join(f"{name:>16}" for name in estimates)]
    for label in labels:
        lines.append(f"{label:40}" + "".join(f"{c.get(label, '-'):>16}" for c in columns))
    return "\n".join(lines)


def costliest(program: Program, where: Slice, number: int) -> str:
    """The operations that take longest by the compiler's cycles, those of all layers together."""
    groups: dict[str, list[Instruction]] = collections.defaultdict(list)
    for each in program.computations[program.entry]:
        if each.cycles:
            arrays = " ".join(f"{a.dtype}{[*a.dims]}".replace(" ", "") for a in each.arrays[:3])
            scope = re.sub(r"jit\(\w+\)/shard_map/|FlaxBertForPreTrainingModule", "", each.scope)
            groups[re.sub(r"(?<=/)\d+(?=/)", "*", scope) + f"  {arrays}"].append(each)

    def seconds(group: list[Instruction]) -> float:
        return sum(each.cycles or 0 for each in group) / where.chip.clock_hz

    lines = []
    for name, group in sorted(groups.items(), key=lambda item: -seconds(item[1]))[:number]:
        parts = split(program, group[0], seconds(group[:1]), where)
        kinds = "+".join(sorted(parts, key=lambda kind: -parts[kind]))
        lines.append(f"{seconds(group) * 1e3:7.3f} ms {len(group):3} x  {kinds:20} {name}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Compiles both programs and compares them."""
    if len(arguments) > 1 or not _SLICE.value:
        raise UsageError(f"cannot use {arguments[1:]}; --slice=NAME is needed; try --help")
    if _LAYERS.value and not re.fullmatch(r"[1-9]\d*,[1-9]\d*", ",".join(_LAYERS.value)):
        raise UsageError("--layers takes two numbers, for example 1,3")
    jax.config.update("jax_platforms", "cpu")  # JAX would take libtpu for a TPU
    setting = {
        "size": _SIZE.value,
        "slice": find_slice(_SLICE.value).name,
        "length": _LENGTH.value,
        "batch_size": _BATCH_SIZE.value,
        "libtpu": libtpu_version(),
        "transformers": check_peer(),
    }
    print(" ".join(f"{name}={value}" for name, value in setting.items()), flush=True)
    where = find_slice(_SLICE.value)
    config = recipe(_SIZE.value, _LENGTH.value, _BATCH_SIZE.value)
    whole = config.model.num_layers
    layers = [int(number) for number in _LAYERS.value] or [whole]
    estimates, tops = {}, {}
    for name, compiler in compilers(config, where, Path(_CACHE.value).expanduser()).items():
        try:
            found = [compiler(number) for number in layers]
        except OutOfMemoryError as error:
            raise UserError(f"{name} does not fit into {where.name}: {error}") from error
        each = [measure(f, where, n) for f, n in zip(found, layers, strict=True)]
        estimates[name] = each[0]
        if len(each) > 1:
            few, more = each
            estimates[name] = extrapolate(few, more, whole, where.fast_bytes_per_device)
        tops[f"{name}, {layers[-1]} layers"] = costliest(parse(found[-1].text), where, _TOP.value)
    print("Estimates of the TPU compiler and of a model of the links; nothing was measured.\n")
    print(table(estimates))
    for name, lines in tops.items():
        if lines:
            print(f"\n{name}, costliest operations:\n{lines}")
    ratio = estimates["ours"].time.total / estimates["peer"].time.total
    print(f"\nours takes {ratio:.3f} of the peer's step")
    parts = {name: estimate_json(estimate) for name, estimate in estimates.items()}
    print(json.dumps(setting | parts | {"ratio": ratio}))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _SIZE = flags.DEFINE_string("size", "base", "Model: tiny, mini, small, medium, base or large.")
    _SLICE = flags.DEFINE_string("slice", None, "Accelerator type, for example v4-32.")
    _LENGTH = flags.DEFINE_integer("length", 128, "Tokens in a sequence.", lower_bound=8)
    _BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Sequences in a batch.", lower_bound=1)
    _LAYERS = flags.DEFINE_list("layers", [], "Two numbers to draw out from; default: all.")
    _TOP = flags.DEFINE_integer("top", 0, "Operations to list for each program.", lower_bound=0)
    _CACHE = flags.DEFINE_string("cache", str(DEFAULT_CACHE), "Results are kept here.")
    run_command(main)
