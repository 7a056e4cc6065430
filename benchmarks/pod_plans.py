# SPDX-License-Identifier: Apache-2.0
r"""Plans of BERT-base and BERT-large for every slice of 16 chips: the table in docs/tpu.md.

    python benchmarks/pod_plans.py          # make plan-all: hours of the compiler's time at first
    python benchmarks/pod_plans.py --sizes=base --slices=v4-32,v5litepod-16

Each line is one phase of the recipe `configs/pretrain.py:SIZE,pod`, compiled as
`python -m bert_jax.plan` does it. The page is written anew after every line; a line that is not
asked for stays as it is.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from bert_jax.config import RunConfig
from bert_jax.plan.compiler import DEFAULT_CACHE, libtpu_version
from bert_jax.plan.planning import PhasePlan, Plan, plan_phase
from bert_jax.plan.recipe import load
from bert_jax.plan.report import GIB
from bert_jax.slices import SLICES_OF_16, find_slice
from configs import pretrain
from data_pipeline.errors import UsageError, run_command

VOCAB_SIZE = 30522
PAGE = Path(__file__).parents[1] / "docs" / "tpu.md"
SIZES, LENGTHS = ("base", "large"), (128, 512)
HEADER = (
    "| model | `--slice` | tokens | HBM a device, GiB | step, ms | exchange, ms | MFU | hours "
    "| to change |"
)
_TABLE = re.compile(r"(?<=<!-- plans -->\n).*?(?=<!-- /plans -->)", re.S)
NOT_MADE = "not compiled yet"

Key = tuple[str, str, str]  # size, slice, tokens


def main(arguments: Sequence[str]) -> None:
    """Plans one size and slice after the other."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    jax.config.update("jax_platforms", "cpu")
    cache, page = Path(_CACHE.value).expanduser(), Path(_PAGE.value)
    for size in _SIZES.value:
        config = recipe(size)
        for name in _SLICES.value:
            where = find_slice(name)
            for span in (each for each in config.spans() if str(each.length) in _LENGTHS.value):
                phase = plan_phase(config, span, where, cache, _say)
                plan = Plan(config, where, libtpu_version(), 0.0, (phase,))
                page.write_text(with_line(page.read_text(), size, plan, phase))


def recipe(size: str) -> RunConfig:
    """The recipe as docs/tpu.md runs it on a slice."""
    return load(pretrain.get_config(f"{size},pod").to_dict(), VOCAB_SIZE)


def with_line(page: str, size: str, plan: Plan, phase: PhasePlan) -> str:
    """The page with the line of a phase put into its table, and all other lines as they were.

    Raises:
        UsageError: the page has no place for the table.
    """
    found = _TABLE.search(page)
    if found is None:
        raise UsageError("the page has no lines <!-- plans --> and <!-- /plans -->")
    lines = lines_of(found[0])
    lines[size, plan.where.name, str(phase.span.length)] = _cells(plan, phase)
    rows = [HEADER, "|--" * HEADER.count(" | ") + "|--|"]
    for key in _keys():
        cells = [key[0], f"`{key[1]}`", key[2], *lines.get(key, ["-"] * 5 + [NOT_MADE])]
        rows.append("| " + " | ".join(cells) + " |")
    return page[: found.start()] + "\n".join(rows) + "\n" + page[found.end() :]


def lines_of(table: str) -> dict[Key, list[str]]:
    """The cells of each line that was made, without those that name it."""
    lines = {}
    for row in table.splitlines()[2:]:
        size, where, length, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        if cells[-1] != NOT_MADE:
            lines[size, where.strip("`"), length] = cells
    return lines


def _keys() -> list[Key]:
    return [(size, name, str(n)) for size in SIZES for name in SLICES_OF_16 for n in LENGTHS]


def _cells(plan: Plan, phase: PhasePlan) -> list[str]:
    memory = f"{phase.needed / GIB:.1f} of {plan.where.usable_bytes_per_device / GIB:.1f}"
    if phase.estimate is None:
        return [memory, "-", "-", "-", "-", "nothing tried fits"]
    time = phase.estimate.time
    return [
        memory,
        f"{time.total * 1e3:.1f}",
        f"{time.seconds['collectives'] * 1e3:.1f}",
        f"{plan.mfu(phase):.0%}",
        f"{plan.seconds(phase) / 3600:.1f}",
        f"`{phase.change}`" if phase.change else "",
    ]


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _SIZES = flags.DEFINE_list("sizes", list(SIZES), "Sizes of the recipe.")
    _LENGTHS = flags.DEFINE_list("lengths", [str(n) for n in LENGTHS], "Tokens a sequence.")
    _SLICES = flags.DEFINE_list("slices", list(SLICES_OF_16), "Accelerator types.")
    _PAGE = flags.DEFINE_string("page", str(PAGE), "Where the table stands.")
    _CACHE = flags.DEFINE_string("cache", str(DEFAULT_CACHE), "Results are kept here.")
    run_command(main)
