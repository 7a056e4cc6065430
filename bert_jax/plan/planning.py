# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: every phase on the slice, and what would make it fit where it does not."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from bert_jax.config import PhaseSpan, RunConfig
from bert_jax.flops import step_flops
from bert_jax.plan.compiler import OutOfMemoryError, Say, libtpu_version, state_bytes
from bert_jax.plan.estimate import Estimate, estimate_step
from bert_jax.plan.timeline import BETWEEN
from bert_jax.slices import Slice

# A run that was measured: BERT-large, 512 tokens, batch 448, LAMB, on v3-32
# (mlcommons/training_results_v0.7, Google/results/tpu-v3-32-TF2.0/bert: 1117 steps in 514.4 s), and
# what the estimate makes of our program for it as it should be run on a slice: all layers unrolled,
# the optimiser sharded. The two programs differ, so the ratio holds their difference as well.
# tests/bert_jax/test_plan_on_tpu.py compiles it again (soak).
MEASURED_SECONDS = 0.460
ESTIMATED_SECONDS = 0.465
# A change is not tried, which takes minutes, if what it leaves of the activations and the state
# would exceed a device's memory by this factor.
HOPELESS = 1.1


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase on the slice.

    `change` names the settings that were changed to make it fit ("" if it fits as it is, None if
    nothing tried does); `needed` are the bytes of a device that it takes unchanged.
    """

    span: PhaseSpan
    change: str | None
    needed: int
    flops: int  # of all devices, a step
    estimate: Estimate | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on a slice; `price` in dollars a chip and hour, 0 if not given."""

    config: RunConfig
    where: Slice
    libtpu: str
    price: float
    phases: tuple[PhasePlan, ...]

    @property
    def fits(self) -> bool:
        """Whether every phase fits as it is configured."""
        return all(phase.change == "" for phase in self.phases)

    def seconds(self, phase: PhasePlan) -> float:
        """Of all steps of a phase, 0 if it fits in no way."""
        steps = phase.span.last_step - phase.span.first_step
        return steps * phase.estimate.time.total if phase.estimate else 0.0

    @property
    def hours(self) -> float | None:
        """Of the whole run: its steps alone, without compiling, evaluating and saving.

        None if one of its phases fits in no way.
        """
        if any(phase.estimate is None for phase in self.phases):
            return None
        return sum(self.seconds(phase) for phase in self.phases) / 3600

    @property
    def cost(self) -> float | None:
        """Dollars for the chips of the whole run, None if its hours are not known."""
        return None if self.hours is None else self.hours * self.where.chips * self.price

    def mfu(self, phase: PhasePlan) -> float:
        """Share of the chips' bfloat16 peak that the phase's matrix products amount to."""
        if phase.estimate is None:
            return 0.0
        peak = self.where.chips * self.where.chip.peak_flops
        return phase.flops / (phase.estimate.time.total * peak)

    def floors(self, phase: PhasePlan) -> dict[str, float]:
        """Least seconds of a step by resource, if all else were free or hidden beneath."""
        if phase.estimate is None:
            return {}
        memory, chip = phase.estimate.memory, self.where.chip
        # Parameters and slots are read and written once, whatever else happens.
        state = 2 * (memory.parameters + memory.optimizer) * chip.devices
        exchanges = phase.estimate.time.exchanges
        carried = {"links": 0.0} | ({"network": 0.0} if self.where.count > 1 else {})
        for name, exchange in exchanges.items():  # links and network are busy side by side
            carried["network" if BETWEEN in name else "links"] += exchange.seconds
        return {
            "matrix units": phase.flops / (self.where.chips * chip.peak_flops),
            "memory": state / chip.hbm_bandwidth,
            **carried,
        }


def make_plan(config: RunConfig, where: Slice, price: float, cache: Path | None, say: Say) -> Plan:
    """Compiles every phase of a run for a slice.

    Raises:
        ConfigError: the configuration does not divide over the slice.
        NoCompilerError: libtpu is missing or does not know the slice.
    """
    phases = tuple(plan_phase(config, span, where, cache, say) for span in config.spans())
    return Plan(config, where, libtpu_version(), price, phases)


def plan_phase(
    config: RunConfig, span: PhaseSpan, where: Slice, cache: Path | None, say: Say
) -> PhasePlan:
    """Compiles one phase; if it does not fit, also with one change after the other until one does.

    Raises:
        ConfigError: the configuration does not divide over the slice.
        NoCompilerError: libtpu is missing or does not know the slice.
    """
    flops = step_flops(config.model, span.batch_size, span.length)
    try:
        estimate = estimate_step(config, span, where, cache, say)
        return PhasePlan(span, "", estimate.memory.total, flops, estimate)
    except OutOfMemoryError as error:
        needed = error.used
    say(f"{span.batch_size} x {span.length} does not fit: looking for the smallest change")
    activations = needed - state_bytes(config, where)
    for change, changed, smaller in changes(config, span, where):
        rows = smaller.batch_size * config.accumulation / (span.batch_size * changed.accumulation)
        least = state_bytes(changed, where) + activations * rows
        if not changed.model.remat and least > HOPELESS * where.usable_bytes_per_device:
            say(f"  {change}: would need {least / 2**30:.1f} GiB or more")
            continue
        try:
            estimate = estimate_step(changed, smaller, where, cache, say)
        except OutOfMemoryError:
            say(f"  {change}: does not fit")
            continue
        say(f"  {change}: fits")
        flops = step_flops(config.model, smaller.batch_size, smaller.length)
        return PhasePlan(smaller, change, needed, flops, estimate)
    return PhasePlan(span, None, needed, flops, None)


def changes(
    config: RunConfig, span: PhaseSpan, where: Slice
) -> Iterator[tuple[str, RunConfig, PhaseSpan]]:
    """Settings that save memory, the least costly first, that apply to this run.

    The update stays the same under all but the last, which cuts the batch.
    """
    rows = where.devices // max(1, config.mesh.tensor)
    sharded = dataclasses.replace(config.mesh, shard_optimizer=True)
    spread = dataclasses.replace(config.mesh, data=1, fsdp=-1, shard_optimizer=False)
    remat = dataclasses.replace(config.model, remat=True)
    parts = [n for n in (2, 4, 8, 16) if span.batch_size % (rows * n * config.accumulation) == 0]
    steps: list[tuple[str, RunConfig]] = []
    if config.mesh.fsdp == 1 and not config.mesh.shard_optimizer:
        config = dataclasses.replace(config, mesh=sharded)
        steps.append(("mesh.shard_optimizer=True", config))
    before = steps[-1][0] + " " if steps else ""
    if parts:
        halved = dataclasses.replace(config, accumulation=2 * config.accumulation)
        steps.append((f"{before}accumulation={halved.accumulation}", halved))
    if not config.model.remat:
        steps.append((f"{before}model.remat=True", dataclasses.replace(config, model=remat)))
    for number in parts[1:]:
        total = number * config.accumulation
        steps.append(
            (f"{before}accumulation={total}", dataclasses.replace(config, accumulation=total))
        )
    if config.mesh.fsdp == 1:
        both = dataclasses.replace(config, mesh=spread, model=remat)
        steps.append(("mesh.data=1 mesh.fsdp=-1 model.remat=True", both))
        if parts:
            most = parts[-1] * config.accumulation
            steps.append(
                (
                    f"mesh.data=1 mesh.fsdp=-1 model.remat=True accumulation={most}",
                    dataclasses.replace(both, accumulation=most),
                )
            )
    for change, changed in steps:
        yield change, changed, span
    least = rows * config.accumulation
    size = span.batch_size // 2
    while size >= least and size % least == 0:
        smaller = dataclasses.replace(span, batch_size=size)
        yield f"{before}batch_size={size} (another run)", _with_batch(config, span, size), smaller
        size //= 2


def _with_batch(config: RunConfig, span: PhaseSpan, size: int) -> RunConfig:
    phases = {
        name: dataclasses.replace(phase, batch_size=size) if phase.length == span.length else phase
        for name, phase in config.phases.items()
    }
    return dataclasses.replace(config, phases=phases)
