# SPDX-License-Identifier: Apache-2.0
"""The doctor's report as one picture: lengths, frequencies, padding, masking, passes."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError, UsageError

_BLUE, _ORANGE, _GREY = "#4c7fb8", "#e0682a", "#8b919a"
_FORMATS = (".svg", ".png", ".pdf")
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 8,
    "legend.frameon": False,
    "svg.hashsalt": "doctor",  # the same picture is the same file
}


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the report of `doctor.examine` into a file; its ending chooses the format.

    Raises:
        UsageError: no format of this ending.
        DataError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--picture={path}: choose a name that ends in {', '.join(_FORMATS)}")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            "--picture needs matplotlib; install the extra: pip install 'bert-jax[report]'"
        ) from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots(2, 3)
        train, validation = report["splits"]["train"], report["splits"]["validation"]
        figure.suptitle(
            f"{report['store']['path']}: {train['documents']:,} documents, "
            f"{train['tokens']:,} tokens; held out {validation['documents']:,} and "
            f"{validation['tokens']:,}"
        )
        _draw_lengths(axes[0, 0], "tokens a sentence", train["sentence_length"]["histogram"])
        _draw_lengths(axes[0, 1], "tokens a document", train["document_length"]["histogram"])
        _draw_frequencies(axes[0, 2], report["vocabulary"])
        _draw_examples(axes[1, 0], report["examples"])
        _draw_masking(axes[1, 1], report["examples"])
        _draw_copies(axes[1, 2], report)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_lengths(axes: Any, title: str, histogram: list[list[int]]) -> None:
    axes.set_title(title)
    bounds = [bound for bound, _ in histogram]
    places = range(len(bounds))
    axes.bar(places, [count for _, count in histogram], width=0.9, color=_BLUE)
    axes.set_xticks([n - 0.5 for n in places], [f"{b:,}" for b in bounds], rotation=60)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    for length in (128, 512):
        if length in bounds:
            axes.axvline(bounds.index(length) - 0.5, color=_ORANGE, linestyle=":")


def _draw_frequencies(axes: Any, vocabulary: dict[str, Any]) -> None:
    plateau = f"unigram entropy, the plateau: {vocabulary['unigram_entropy']:.3f} nats"
    axes.set_title(f"how often tokens occur, by rank\n{plateau}")
    ranks = vocabulary["frequencies"]
    axes.loglog([rank for rank, _ in ranks], [count for _, count in ranks], color=_BLUE)
    axes.set_xlabel(f"{vocabulary['used']:,} of {vocabulary['size']:,} entries occur")


def _draw_examples(axes: Any, examples: dict[str, dict[str, Any]]) -> None:
    axes.set_title("examples")
    names = {"padding_share": "padding", "not_full_share": "not full", "random_share": "random B"}
    width = 0.8 / len(examples)
    for number, (length, figures) in enumerate(examples.items()):
        places = [place + (number - 0.5) * width for place in range(len(names))]
        label = f"{length}: {figures['examples']:,} a pass, {figures['passes']:,.1f} passes"
        colour = (_BLUE, _ORANGE)[number % 2]
        bars = axes.bar(places, [figures[n] for n in names], width, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.0%}", fontsize=7)
    axes.set_xticks(range(len(names)), names.values())
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7)


def _draw_masking(axes: Any, examples: dict[str, dict[str, Any]]) -> None:
    axes.set_title("masking: measured, and as it should be")
    expected = {"masked_share": 0.15, "shown_as_mask": 0.8, "shown_unchanged": 0.1}
    expected["shown_as_other"] = 0.1
    for number, (name, share) in enumerate(expected.items()):
        axes.plot([number - 0.3, number + 0.3], [share, share], color=_GREY, zorder=1)
        for place, figures in enumerate(examples.values()):
            colour = (_BLUE, _ORANGE)[place % 2]
            axes.plot(number - 0.1 + 0.2 * place, figures[name], "o", color=colour, markersize=4)
    labels = ("masked", "[MASK]", "unchanged", "another")
    axes.set_xticks(range(len(expected)), labels)
    axes.set_ylim(0, 1)


def _draw_copies(axes: Any, report: dict[str, Any]) -> None:
    train = report["splits"]["train"]
    shares = {
        "[UNK] tokens": train["unknown_share"],
        "documents: copies": train["repeated_documents"],
        "documents: nearly equal": train["near_copies"],
        "documents: one sentence": train["one_sentence_documents"],
        "sentences: copies": train["repeated_sentences"],
        "held-out sentences in train": report["leaked_sentences"],
    }
    axes.set_title(f"what to look at ({len(report['warnings'])} warnings)")
    bars = axes.barh(list(shares), list(shares.values()), color=_BLUE)
    axes.bar_label(bars, fmt="{:.2%}", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.set_xlim(0, max(0.1, 1.3 * max(shares.values())))
