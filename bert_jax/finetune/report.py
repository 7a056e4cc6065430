# SPDX-License-Identifier: Apache-2.0
"""The page about a fine-tuning run, of one seed or of several together (`bert_jax.report`)."""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import curves, report_page
from bert_jax.convert.files import read_json
from bert_jax.curves import Chart
from bert_jax.finetune.config import words
from bert_jax.run_directory import read_config, read_rows


class SeedRun(NamedTuple):
    """What one seed has left behind.

    Attributes:
        described: content of config.json.
        rows: of metrics.jsonl by their kind; those of the first validation split are "validation".
        summary: content of summary.json; empty while the run has not ended.
    """

    described: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    summary: dict[str, Any]


def find_runs(workdir: Path) -> list[SeedRun]:
    """The runs of fine-tuning in a work directory, by seed; none if it holds something else.

    Raises:
        DataError: a file is damaged.
    """
    if (workdir / "config.json").exists():
        places = [workdir]
    else:
        places = [path.parent for path in workdir.glob("seed-*/config.json")]
    runs = [
        (place, described) for place in places if "finetune" in (described := read_config(place))
    ]
    found = []
    for place, described in runs:
        path = place / "summary.json"
        summary = read_json(path) if path.exists() else {}
        found.append(SeedRun(described, read_rows(place), summary))
    return sorted(found, key=lambda run: run.described["finetune"]["seed"])


def finetuning_page(runs: Sequence[SeedRun]) -> str:
    """The whole page; `runs` have the same recipe but for the seed.

    Raises:
        UsageError: matplotlib is not installed.
    """
    recipe = runs[0].described["finetune"]
    parts = [
        _head(runs),
        report_page.tiles(_tiles(runs)),
        report_page.curves(_pictures(runs)),
        _figures(runs),
        "<h2>Run</h2>\n",
        report_page.table(
            [(name, [value]) for name, value in runs[0].described["versions"].items()],
            numbers=False,
        ),
        report_page.configuration(recipe),
    ]
    return report_page.document(f"{recipe['name']}: fine-tuning report", parts)


def _head(runs: Sequence[SeedRun]) -> str:
    recipe = runs[0].described["finetune"]
    unfinished = [run for run in runs if not run.summary]
    done = "finished" if not unfinished else f"{len(runs) - len(unfinished)} of {len(runs)} ended"
    seeds = ", ".join(str(run.described["finetune"]["seed"]) for run in runs)
    start = "random weights" if recipe["random_weights"] else recipe["init_from"]
    task = recipe["task"].replace("_", " ")
    line = f"Fine-tuning for {task} from {start}, seed {seeds}; {done}."
    return (
        f"<h1>{report_page.text(recipe['name'])}</h1>\n"
        f'<p class="soft">{report_page.text(line)}</p>\n'
    )


def _tiles(runs: Sequence[SeedRun]) -> list[tuple[str, str, str]]:
    """The figures of the first validation split at the best steps, medians over the seeds."""
    ended = [run.summary for run in runs if run.summary]
    if not ended:
        return []
    split = next(iter(ended[0]["validation"]))
    tiles = []
    for name in words(runs[0].described["finetune"]["evaluation"]["metrics"]):
        values = [summary["validation"][split][name] for summary in ended]
        spread = f"median of {len(values)} seeds, {min(values):.4f} to {max(values):.4f}"
        note = spread if len(values) > 1 else f"on {Path(split).name}"
        tiles.append((name, f"{statistics.median(values):.4f}", note))
    seconds = sum(summary["wall_seconds"] for summary in ended)
    examples = f"{ended[0]['training_examples']:,} training examples"
    return [*tiles, ("Time", report_page.duration(seconds), examples)]


def _pictures(runs: Sequence[SeedRun]) -> list[curves.Picture]:
    started = [run for run in runs if run.rows["train"]]
    if not started:
        return []
    charts = [
        Chart("Loss", "Every curve is one seed.", functools.partial(_plot_loss, runs=started)),
        *(
            Chart(
                name,
                "On the first validation split.",
                functools.partial(_plot_figure, runs=started, name=name),
            )
            for name in words(runs[0].described["finetune"]["evaluation"]["metrics"])
        ),
        Chart(
            "Learning rate", "The same for all seeds.", functools.partial(_plot_rate, runs=started)
        ),
        Chart(
            "Gradient norm",
            "Before clipping; logarithmic.",
            functools.partial(_plot_norm, runs=started),
        ),
    ]
    return curves.draw_charts(charts, max(run.rows["train"][-1]["step"] for run in started))


def _plot_loss(axes: Any, runs: Sequence[SeedRun]) -> None:
    for number, run in enumerate(runs):
        first = number == 0
        curves.curve(axes, run.rows["train"], "loss", label="training" if first else "")
        held_out = run.rows["validation"]
        curves.held_out_curve(axes, held_out, "loss", label="held out" if first else "")
    axes.legend(loc="upper right")


def _plot_figure(axes: Any, runs: Sequence[SeedRun], name: str) -> None:
    for run in runs:
        curves.held_out_curve(axes, run.rows["validation"], name)


def _plot_rate(axes: Any, runs: Sequence[SeedRun]) -> None:
    curves.curve(axes, runs[0].rows["train"], "learning_rate")
    axes.set_ylim(bottom=0)


def _plot_norm(axes: Any, runs: Sequence[SeedRun]) -> None:
    for run in runs:
        curves.curve(axes, run.rows["train"], "gradient_norm")
    curves.logarithmic(axes)


def _figures(runs: Sequence[SeedRun]) -> str:
    """Figures of every split at the best step of each seed that has ended."""
    ended = [run.summary for run in runs if run.summary]
    if not ended:
        return ""
    rows = [
        ("seed", [str(summary["seed"]) for summary in ended]),
        ("best step", [f"{summary['best_step']:,} of {summary['steps']:,}" for summary in ended]),
    ]
    for split, figures in ended[0]["validation"].items():
        for name in figures:
            values = [summary["validation"][split][name] for summary in ended]
            shown = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
            rows.append((f"{split}, {name}", shown))
    return "<h2>Held-out figures</h2>\n" + report_page.table(rows)
