# SPDX-License-Identifier: Apache-2.0
r"""Plans of BERT-base and BERT-large for every slice of 16 chips, as one table (`make plan-all`).

    python benchmarks/pod_plans.py --output=docs/tpu-plans.md
    python benchmarks/pod_plans.py --sizes=base --slices=v4-32,v5litepod-16

Each line is the recipe `configs/pretrain.py` (256 sequences of 128, then of 512 tokens) compiled
for the slice, as `python -m bert_jax.plan` does it. Hours of the compiler's time at first, seconds
from its cache afterwards; the table is written anew after every line, so nothing is lost.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from bert_jax.plan.planning import Plan, hbm_bytes, make_plan
from bert_jax.plan.recipe import load
from bert_jax.plan.report import GIB, calibration
from bert_jax.slices import SLICES_OF_16, find_slice
from configs import pretrain
from data_pipeline.errors import UsageError, run_command

VOCAB_SIZE = 30522
TITLE = """# Plans for 16-chip slices

Estimates of the TPU compiler and of a model of the links; nothing here was measured on a TPU. How
they are made: `python -m bert_jax.plan --help`; how to run on a slice: [tpu.md](tpu.md). The recipe
is `configs/pretrain.py` as it stands, {steps:,} steps of 256 sequences; hours are those of the
steps alone; exchange is what no computation hides. `make plan-all` makes this table.

{calibration}

| model | slice | tokens | HBM a device, GiB | step, ms | exchange, ms | MFU | hours | change |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main(arguments: Sequence[str]) -> None:
    """Plans one size and slice after the other."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    jax.config.update("jax_platforms", "cpu")
    cache = Path(_CACHE.value).expanduser()
    rows: list[str] = []
    for size in _SIZES.value:
        config = load(pretrain.get_config(size).to_dict(), VOCAB_SIZE)
        for name in _SLICES.value:
            plan = make_plan(config, find_slice(name), 0.0, cache, _say)
            rows += table_rows(size, plan)
            title = TITLE.format(steps=config.steps, calibration=calibration().capitalize() + ".")
            Path(_OUTPUT.value).write_text(title + "\n".join(rows) + "\n")


def table_rows(size: str, plan: Plan) -> list[str]:
    """One line of Markdown a phase."""
    rows = []
    for phase in plan.phases:
        cells = [size, plan.where.name, str(phase.span.length)]
        cells.append(f"{phase.needed / GIB:.1f} of {hbm_bytes(plan.where) / GIB:.1f}")
        if phase.estimate is None:
            cells += ["-", "-", "-", "-", "nothing tried fits"]
        else:
            time = phase.estimate.time
            cells += [
                f"{time.total * 1e3:.1f}",
                f"{time.seconds['collectives'] * 1e3:.1f}",
                f"{plan.mfu(phase):.0%}",
                f"{plan.seconds(phase) / 3600:.1f}",
                phase.change or "",
            ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _SIZES = flags.DEFINE_list("sizes", ["base", "large"], "Sizes of the recipe.")
    _SLICES = flags.DEFINE_list("slices", list(SLICES_OF_16), "Accelerator types.")
    _OUTPUT = flags.DEFINE_string("output", "docs/tpu-plans.md", "The table.")
    _CACHE = flags.DEFINE_string("cache", "~/.cache/bert_jax/plan", "Results are kept here.")
    run_command(main)
