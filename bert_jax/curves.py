# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report on a run: curves over the steps, as SVG that fits into a web page.

The text of a picture stays text and takes font and colour of the page around it, so that one
picture serves light and dark pages. matplotlib is needed here and nowhere else.
"""

import dataclasses
import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import PhaseSpan
from data_pipeline.errors import UsageError

_POINTS = 400  # of a curve; where there are more, neighbours are averaged
_PAGE_COLOUR = "#010203"  # stands for the colour of the page's text until the SVG is written
_TRAINING = "#6f9fd8"
_HELD_OUT = "#e0682a"
_REFERENCE = "#8b919a"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _REFERENCE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": _PAGE_COLOUR,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.01,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.color": _REFERENCE,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": _PAGE_COLOUR,
    "xtick.color": _REFERENCE,
    "xtick.labelcolor": _PAGE_COLOUR,
    "ytick.color": _REFERENCE,
    "ytick.labelcolor": _PAGE_COLOUR,
}


@dataclasses.dataclass(frozen=True)
class History:
    """What a run has measured.

    Attributes:
        training: rows of metrics.jsonl of kind "train", by step; at least one.
        held_out: rows of kind "validation", by step.
        spans: the phases of the run.
        vocab_size: of the model.
    """

    training: Sequence[dict[str, Any]]
    held_out: Sequence[dict[str, Any]]
    spans: Sequence[PhaseSpan]
    vocab_size: int


class Picture(NamedTuple):
    """One picture; `svg` is an element to put into a web page."""

    title: str
    caption: str
    svg: str


class Chart(NamedTuple):
    """A picture to be drawn; `plot` draws it into axes of matplotlib."""

    title: str
    caption: str
    plot: Callable[[Any], None]


def draw(history: History) -> list[Picture]:
    """All the pictures of a report on pre-training.

    Raises:
        UsageError: matplotlib is not installed.
    """
    rows = [*history.training, *history.held_out]
    with_pairs = any("nsp_accuracy" in row for row in rows)
    charts = [
        Chart(title, caption, functools.partial(plot, history=history))
        for title, caption, plot in _CHARTS
        if with_pairs or plot is not _plot_nsp_accuracy
    ]
    return draw_charts(charts, max(row["step"] for row in rows), history.spans)


def draw_charts(
    charts: Sequence[Chart], last_step: int, spans: Sequence[PhaseSpan] = ()
) -> list[Picture]:
    """Pictures over the steps from 0 to `last_step`, with marks where phases begin.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "the pictures of the report need matplotlib: pip install 'bert-jax[report]'"
        ) from error
    pictures = []
    for number, (title, caption, plot) in enumerate(charts):
        with rc_context({**_STYLE, "svg.hashsalt": str(number)}):
            # The first one is as wide as two, so that its text is as large as theirs.
            figure = Figure(
                figsize=(11.5, 3.7) if number == 0 else (5.6, 2.9), layout="constrained"
            )
            axes = figure.add_subplot()
            plot(axes)
            _finish(axes, last_step, spans)
            pictures.append(Picture(title, caption, _svg(figure, title)))
    return pictures


def _plot_mlm_loss(axes: Any, history: History) -> None:
    _both_curves(axes, history, "mlm_loss")
    _held_out_level(axes, history, "unigram_entropy", "unigram entropy, the plateau")
    uniform = math.log(history.vocab_size)
    axes.axhline(uniform, color=_REFERENCE, lw=1, ls=":", label="ln(vocabulary), a blind guess")
    axes.set_ylim(top=uniform + 0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(0.5, 0.9))


def _plot_mlm_accuracy(axes: Any, history: History) -> None:
    _both_curves(axes, history, "mlm_accuracy")
    axes.legend(loc="upper left")
    _percentages(axes)


def _plot_nsp_accuracy(axes: Any, history: History) -> None:
    _both_curves(axes, history, "nsp_accuracy", error="nsp_standard_error")
    _held_out_level(axes, history, "nsp_chance", "chance, one answer for all")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.45), max(high, 0.7))
    axes.legend(loc="upper left")
    _percentages(axes)


def _plot_learning_rate(axes: Any, history: History) -> None:
    curve(axes, history.training, "learning_rate")
    axes.set_ylim(bottom=0)


def _plot_gradient_norm(axes: Any, history: History) -> None:
    curve(axes, history.training, "gradient_norm")
    logarithmic(axes)


def logarithmic(axes: Any) -> None:
    """A logarithmic scale with plain numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plot_throughput(axes: Any, history: History) -> None:
    from matplotlib.ticker import EngFormatter

    curve(axes, history.training, "tokens_per_second")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _plot_input_wait(axes: Any, history: History) -> None:
    curve(axes, history.training, "input_wait_share")
    axes.set_ylim(0, max(0.1, axes.get_ylim()[1]))
    _percentages(axes)


_CHARTS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("MLM loss", "Nats a masked token. Lower is better.", _plot_mlm_loss),
    ("MLM accuracy", "Share of masked tokens predicted exactly.", _plot_mlm_accuracy),
    (
        "NSP accuracy",
        "Share of sentence pairs told apart. The band is one standard error.",
        _plot_nsp_accuracy,
    ),
    ("Learning rate", "One schedule over all phases.", _plot_learning_rate),
    ("Gradient norm", "Before clipping; logarithmic.", _plot_gradient_norm),
    ("Tokens a second", "With padding; without evaluation and saving.", _plot_throughput),
    (
        "Waiting for input",
        "Share of the training time. Beyond a few percent the input is too slow.",
        _plot_input_wait,
    ),
)


def _both_curves(axes: Any, history: History, metric: str, error: str | None = None) -> None:
    """Training and held-out curve; the latter is broken where the sequence length changes."""
    curve(axes, history.training, metric, label="training")
    label = "held out"
    for rows in _by_length(history.held_out):
        held_out_curve(axes, rows, metric, label=label)
        label = ""
        if error:
            steps, values = _series(rows, metric)
            _, errors = _series(rows, error)
            axes.fill_between(
                steps, values - errors, values + errors, color=_HELD_OUT, alpha=0.2, lw=0
            )


def _held_out_level(axes: Any, history: History, metric: str, label: str) -> None:
    """A level that held-out figures are to be compared with, over the phase that it holds for."""
    for rows in _by_length(history.held_out):
        steps, values = _series(rows, metric)
        first = max(
            (span.first_step for span in history.spans if span.first_step < steps[0]), default=0
        )
        axes.hlines(values[-1], first, steps[-1], _HELD_OUT, "dashed", lw=1, label=label)
        label = ""


def held_out_curve(axes: Any, rows: Sequence[dict[str, Any]], metric: str, label: str = "") -> None:
    """Held-out figures over the steps."""
    steps, values = _series(rows, metric)
    axes.plot(steps, values, "o-", color=_HELD_OUT, lw=1.5, ms=3, label=label, zorder=3)


def curve(axes: Any, rows: Sequence[dict[str, Any]], metric: str, label: str = "") -> None:
    """A training figure over the steps; at least one row."""
    steps, values = _series(rows, metric)
    group = -(-len(steps) // _POINTS)
    starts = np.arange(0, len(steps), group)
    counts = np.diff(starts, append=len(steps))
    steps, values = (np.add.reduceat(array, starts) / counts for array in (steps, values))
    axes.plot(steps, values, color=_TRAINING, lw=1.5, label=label)


def _series(rows: Sequence[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, float64; not a number where a row has none."""
    steps = np.array([row["step"] for row in rows], np.float64)
    return steps, np.array([row.get(metric, math.nan) for row in rows], np.float64)


def _by_length(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Held-out rows by sequence length: each length has its own examples and its own levels."""
    lengths = sorted({row.get("length", 0) for row in rows})
    return [[row for row in rows if row.get("length", 0) == length] for length in lengths]


def _percentages(axes: Any) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")


def _finish(axes: Any, last: int, spans: Sequence[PhaseSpan]) -> None:
    """What all pictures share: the axis of steps and the phases."""
    from matplotlib.ticker import EngFormatter

    axes.set_xlim(0, max(1, last))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step")
    for span in spans:
        if 0 < span.first_step < last:
            axes.axvline(span.first_step, color=_REFERENCE, lw=0.8, zorder=0)
            axes.annotate(
                f"{span.length} tokens →",
                (span.first_step, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, 1),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8,
            )


def _svg(figure: Any, title: str) -> str:
    """The figure as an SVG element without ids that another picture has too."""
    file = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=empty)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(\w+_\d+|matplotlib\.axis_\d)"', "", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    size = r'width="[\d.]+pt" height="[\d.]+pt"'
    svg = re.sub(size, f'role="img" aria-label="{title}"', svg, count=1)
    return svg.replace(_PAGE_COLOUR, "currentColor")
