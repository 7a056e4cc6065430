# SPDX-License-Identifier: Apache-2.0
"""The table of plans in the documentation, and how a line is put into it."""

import re
import sys
from pathlib import Path

import pytest

from bert_jax.plan.estimate import Estimate, Memory
from bert_jax.plan.planning import PhasePlan, Plan
from bert_jax.plan.timeline import Figures, Timeline
from bert_jax.slices import SLICES_OF_16, find_slice
from data_pipeline.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from pod_plans import NOT_MADE, PAGE, lines_of, recipe, with_line  # noqa: E402

GIB = 2**30


def planned(size: str, slice_name: str, change: str | None = "") -> tuple[str, Plan, PhasePlan]:
    config = recipe(size)
    time = Timeline(Figures({"matmul": 0.012, "collectives": 0.004}))
    estimate = Estimate(Memory(GIB, GIB, 0, GIB // 2, 0), time, (12,))
    span = config.spans()[0]
    phase = PhasePlan(span, change, 5 * GIB // 2, 10**12, estimate if change is not None else None)
    return size, Plan(config, find_slice(slice_name), "0", 0.0, (phase,)), phase


def test_the_recipe_is_what_the_page_says_to_run() -> None:
    config = recipe("large")
    assert (config.model.unroll, config.model.num_layers) == (24, 24)
    assert config.mesh.shard_optimizer
    assert [(span.batch_size, span.length) for span in config.spans()] == [(256, 128), (256, 512)]


def test_lines_are_put_in_and_the_others_stay() -> None:
    page = "before\n<!-- plans -->\n<!-- /plans -->\nafter\n"
    page = with_line(page, *planned("base", "v4-32"))
    page = with_line(page, *planned("large", "v2-32", change="mesh.shard_optimizer=True"))
    page = with_line(page, *planned("large", "v3-32", change=None))
    assert page.startswith("before\n<!-- plans -->\n| model |")
    assert page.endswith("<!-- /plans -->\nafter\n")
    assert "| base | `v4-32` | 128 | 2.5 of 30.8 | 16.0 | 4.0 | 1% | 4.0 |  |\n" in page
    assert "2.5 of 7.5 | 16.0 | 4.0 | 8% | 4.0 | `mesh.shard_optimizer=True` |\n" in page
    assert "| large | `v3-32` | 128 | 2.5 of 15.5 | - | - | - | - | nothing tried fits |" in page
    assert page.count(NOT_MADE) == 2 * 2 * len(SLICES_OF_16) - 3
    again = with_line(page, *planned("base", "v4-32", change="model.remat=True"))
    assert [a for a, b in zip(again.split("\n"), page.split("\n"), strict=True) if a != b] == [
        "| base | `v4-32` | 128 | 2.5 of 30.8 | 16.0 | 4.0 | 1% | 4.0 | `model.remat=True` |"
    ]


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(UsageError, match="<!-- plans -->"):
        with_line("no table", *planned("base", "v4-32"))


def test_the_page_has_a_line_for_every_slice() -> None:
    found = re.search(r"<!-- plans -->\n(.*)<!-- /plans -->", Path(PAGE).read_text(), re.S)
    assert found is not None
    assert found[1].count("\n") == 2 + 2 * 2 * len(SLICES_OF_16)
    assert lines_of(found[1])
