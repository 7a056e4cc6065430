# SPDX-License-Identifier: Apache-2.0
"""A plan as a table for people, as JSON for programs, and as a picture."""

import dataclasses
from pathlib import Path
from typing import Any

from bert_jax.config import RunConfig
from bert_jax.plan.estimate import Estimate, Memory
from bert_jax.plan.kinds import KINDS
from bert_jax.plan.planning import (
    ESTIMATED_SECONDS,
    MEASURED_SECONDS,
    PhasePlan,
    Plan,
)

GIB = 2**30
MEMORY_PARTS = tuple(field.name for field in dataclasses.fields(Memory))


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything in a plan, in bytes and seconds; no hours and cost if a phase fits in no way."""
    return {
        "note": "the compiler's estimate, not a measurement",
        "name": plan.config.name,
        "slice": dataclasses.asdict(plan.where) | {"chips": plan.where.chips},
        "libtpu": plan.libtpu,
        "fits": plan.fits,
        "hours": plan.hours,
        "price_per_chip_hour": plan.price,
        "cost": plan.cost,
        "calibration": {"measured": MEASURED_SECONDS, "estimated": ESTIMATED_SECONDS},
        "phases": [_phase_json(plan, phase) for phase in plan.phases],
        "config": dataclasses.asdict(plan.config),
    }


def _phase_json(plan: Plan, phase: PhasePlan) -> dict[str, Any]:
    steps = phase.span.last_step - phase.span.first_step
    content: dict[str, Any] = {
        "length": phase.span.length,
        "batch_size": phase.span.batch_size,
        "steps": steps,
        "change": phase.change,
        "hbm_bytes": {"needed": phase.needed, "available": plan.where.usable_bytes_per_device},
        "flops": phase.flops,
    }
    if phase.estimate:
        content |= estimate_json(phase.estimate)
        content |= {
            "floors": plan.floors(phase),
            "mfu": plan.mfu(phase),
            "hours": plan.seconds(phase) / 3600,
        }
    return content


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """What is estimated of a step, in bytes and seconds."""
    time = estimate.time
    return {
        "compiled_layers": estimate.layers,
        "memory": dataclasses.asdict(estimate.memory),
        "step_seconds": time.total,
        "seconds": dict(time.seconds),
        "collectives": {n: dataclasses.asdict(e) for n, e in time.exchanges.items()},
        "uncosted": dict(time.uncosted),
    }


def file_name(plan: Plan) -> str:
    """What the files of a plan are called, without their endings."""
    count = f"{plan.where.count}x" if plan.where.count > 1 else ""
    return f"{plan.config.name}-{count}{plan.where.name}"


def _title(plan: Plan) -> str:
    count = f"{plan.where.count} x " if plan.where.count > 1 else ""
    return f"{plan.config.name} on {count}{plan.where.name}"


def as_text(plan: Plan) -> str:
    """The plan on a terminal, one column a phase."""
    where = plan.where
    shape = "x".join(map(str, where.shape))
    lines = [
        f"{_title(plan)}: {where.chips} chips ({shape}), "
        f"{where.hosts} hosts, {where.devices} devices of "
        f"{where.hbm_bytes_per_device / GIB:.0f} GiB",
        f"Estimates of the TPU compiler (libtpu {plan.libtpu}) and of a model of the links; "
        "nothing was measured.",
        "",
    ]
    rows = [["", *(f"{p.span.batch_size} x {p.span.length}" for p in plan.phases)]]
    rows.append(["fits", *(_verdict(phase) for phase in plan.phases)])
    columns = [_column(plan, phase) for phase in plan.phases]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows += [[label, *(column.get(label, "") for column in columns)] for label in labels]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines += ["", _whole_run(plan), calibration()]
    if plan.fits and (faster := _faster(plan.config)):
        lines.append(f"likely faster: {faster} (as `,pod` after the recipe's size sets)")
    lines += [f"{phase.span.length}: {phase.change}" for phase in plan.phases if phase.change]
    return "\n".join(lines)


def _whole_run(plan: Plan) -> str:
    if plan.hours is None or plan.cost is None:
        missing = [f"{p.span.batch_size} x {p.span.length}" for p in plan.phases if not p.estimate]
        return f"whole run: no total: nothing that was tried fits for {' and '.join(missing)}"
    hours = f"whole run: {plan.hours:.1f} hours of steps"
    if not plan.price:
        return f"{hours} (--price=DOLLARS a chip and hour gives the cost)"
    return f"{hours}, ${plan.cost:,.0f} at ${plan.price:g} a chip and hour"


def calibration() -> str:
    """One line: what the same estimate makes of a run that somebody measured."""
    run = "calibration: large, 448 x 512, on v3-32"
    measured = f"Google measured {MEASURED_SECONDS * 1e3:.0f} ms a step (MLPerf v0.7)"
    ratio = MEASURED_SECONDS / ESTIMATED_SECONDS
    return f"{run}: {measured}, ours is estimated at {ESTIMATED_SECONDS * 1e3:.0f}: {ratio:.2f}"


def _faster(config: RunConfig) -> str:
    """Settings of `,pod` recipes that a run lacks; they change speed, memory and only rounding.

    None for a run that recomputes or shards everything: it gives time for memory.
    """
    if config.model.remat or config.mesh.fsdp != 1:
        return ""
    settings = {
        f"model.unroll={config.model.num_layers}": config.model.unroll >= config.model.num_layers,
        "mesh.shard_optimizer=True": config.mesh.shard_optimizer,
    }
    return " ".join(f"--config.{name}" for name, is_set in settings.items() if not is_set)


def _verdict(phase: PhasePlan) -> str:
    if phase.change == "":
        return "yes"
    return "no" if phase.change is None else "changed (below)"


def _column(plan: Plan, phase: PhasePlan) -> dict[str, str]:
    available = plan.where.usable_bytes_per_device
    cells = {
        "HBM a device, GiB": f"{phase.needed / GIB:.2f} of {available / GIB:.2f}",
    }
    if phase.estimate is None:
        return cells
    memory, time = phase.estimate.memory, phase.estimate.time
    for name in MEMORY_PARTS:
        cells[f"  {name}, GiB"] = f"{getattr(memory, name) / GIB:.2f}"
    cells["TFLOP a step"] = f"{phase.flops / 1e12:.1f}"
    cells["step, ms"] = f"{time.total * 1e3:.2f}"
    for kind in KINDS:
        if time.seconds[kind] > 5e-6:
            cells[f"  {kind}"] = f"{time.seconds[kind] * 1e3:.2f}"
    for name, floor in plan.floors(phase).items():
        cells[f"floor of {name}, ms"] = f"{floor * 1e3:.2f}"
    for name, each in sorted(time.exchanges.items(), key=lambda item: -item[1].bytes):
        if each.bytes > 1e5:
            cells[f"{name}, MB (ms, exposed ms)"] = (
                f"{each.bytes / 1e6:.1f} ({each.seconds * 1e3:.2f}, {each.exposed * 1e3:.2f})"
            )
    cells["MFU"] = f"{plan.mfu(phase):.1%}"
    cells["steps"] = f"{phase.span.last_step - phase.span.first_step:,}"
    cells["hours"] = f"{plan.seconds(phase) / 3600:.2f}"
    return cells


def draw(plan: Plan, path: Path) -> None:
    """Writes a picture: where a step's time goes, and a device's memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    estimates = {
        f"{phase.span.batch_size} x {phase.span.length}": phase.estimate
        for phase in plan.phases
        if phase.estimate
    }
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    shades = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    below = [0.0] * len(estimates)
    for kind, shade in zip(KINDS, shades, strict=False):
        part = [estimate.time.seconds[kind] * 1e3 for estimate in estimates.values()]
        time_axes.bar(list(estimates), part, bottom=below, label=kind, color=shade)
        below = [low + high for low, high in zip(below, part, strict=True)]
    time_axes.set_ylabel("ms a step (compiler's estimate)")
    time_axes.legend(fontsize=7)
    below = [0.0] * len(estimates)
    for name in MEMORY_PARTS:
        part = [getattr(estimate.memory, name) / GIB for estimate in estimates.values()]
        memory_axes.bar(list(estimates), part, bottom=below, label=name)
        below = [low + high for low, high in zip(below, part, strict=True)]
    memory_axes.axhline(
        plan.where.usable_bytes_per_device / GIB, color="black", linestyle="--", linewidth=1
    )
    memory_axes.set_ylabel("GiB of a device")
    memory_axes.legend(fontsize=7)
    figure.suptitle(_title(plan))
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
