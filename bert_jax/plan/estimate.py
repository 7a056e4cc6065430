# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a step, from the compiled program of the whole model or of two shorter ones.

A model is compiled as it is: layers in a loop take the compiler a minute, 12 unrolled ones 2 to 4
and 24 of BERT-large 7 (of one core), with half a gigabyte of memory for every unrolled layer. Only
a deeper model whose layers are all unrolled is compiled with fewer layers, twice, and its figures
are a straight line through the two. Shorter models than these would not do: what stays in fast
memory, and how exchanges are put together, changes with the number of layers.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bert_jax.config import PhaseSpan, RunConfig
from bert_jax.plan.compiler import Compiled, OutOfMemoryError, Say, compile_step
from bert_jax.plan.program import parse
from bert_jax.plan.timeline import Exchange, Figures, Timeline, timeline
from bert_jax.slices import Slice

MOST_LAYERS = 24
FEW_LAYERS = (12, 24)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device, by what they are for."""

    parameters: int
    optimizer: int
    batch: int
    temporary: int
    program: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A step on a slice; `layers`: of the models that were compiled for it."""

    memory: Memory
    time: Timeline
    layers: tuple[int, ...]


def estimate_step(
    config: RunConfig, span: PhaseSpan, where: Slice, cache: Path | None, say: Say
) -> Estimate:
    """What one step of a phase takes.

    Raises:
        OutOfMemoryError: more memory than a device has.
        ConfigError: the configuration does not divide over the slice.
    """
    layers = config.model.num_layers
    if config.model.unroll < layers or layers <= MOST_LAYERS:
        return measure(compile_step(config, span, where, cache, say), where, layers)
    few, more = (
        measure(compile_step(with_layers(config, number), span, where, cache, say), where, number)
        for number in FEW_LAYERS
    )
    result = extrapolate(few, more, layers, where.fast_bytes_per_device)
    available = where.usable_bytes_per_device
    if result.memory.total > available:
        raise OutOfMemoryError(result.memory.total, available)
    return result


def with_layers(config: RunConfig, layers: int) -> RunConfig:
    """The same model with another number of layers, all unrolled."""
    model = dataclasses.replace(config.model, num_layers=layers, unroll=layers)
    return dataclasses.replace(config, model=model)


def measure(compiled: Compiled, where: Slice, layers: int) -> Estimate:
    """The estimate of a program as it is, that of a model of so many layers."""
    memory = Memory(**{f.name: getattr(compiled, f.name) for f in dataclasses.fields(Memory)})
    return Estimate(memory, timeline(parse(compiled.text), where), (layers,))


def extrapolate(few: Estimate, more: Estimate, layers: int, fast_bytes: int) -> Estimate:
    """The straight line through two estimates, at `layers` layers.

    Temporaries do not follow a line. They are taken to be at least the longer model's in proportion
    and `fast_bytes` more, a device's fast memory: what the two kept there, others keep in HBM.
    """
    (low,), (high,) = few.layers, more.layers

    def line(at_low: float, at_high: float) -> float:
        return max(0.0, at_low + (at_high - at_low) * (layers - low) / (high - low))

    sizes = zip(dataclasses.astuple(few.memory), dataclasses.astuple(more.memory), strict=True)
    exchanges = {
        name: Exchange(
            *map(
                line,
                dataclasses.astuple(few.time.exchanges.get(name, Exchange())),
                dataclasses.astuple(more.time.exchanges.get(name, Exchange())),
            )
        )
        for name in few.time.exchanges | more.time.exchanges
    }
    time = Timeline(
        _figures(line, few.time.seconds, more.time.seconds),
        exchanges,
        _figures(line, few.time.uncosted, more.time.uncosted),
    )
    memory = Memory(*(round(line(*size)) for size in sizes))
    temporary = max(memory.temporary, more.memory.temporary * layers // high) + fast_bytes
    return Estimate(dataclasses.replace(memory, temporary=temporary), time, (low, high))


def _figures(line: Callable[[float, float], float], few: Figures, more: Figures) -> Figures:
    return Figures({name: line(few[name], more[name]) for name in {*few, *more}})
