# SPDX-License-Identifier: Apache-2.0
"""The doctor's report as tables of text."""

import itertools
from collections.abc import Sequence
from typing import Any

from data_pipeline.store import SPLITS

_BAR = 24


def render(report: dict[str, Any]) -> str:
    """The report as tables."""
    parts = [_render_splits(report), _render_histograms(report["splits"]["train"])]
    parts.append(_render_examples(report["examples"], report["recipe"]))
    parts.append("Examples, masked tokens as shown(original):")
    parts += [f"  {line}" for line in report["shown"]]
    warnings = report["warnings"]
    parts.append(f"\n{len(warnings)} warnings" if warnings else "\nNo warnings")
    parts += [f"  ! {warning}" for warning in warnings]
    return "\n".join(parts)


def _rows(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"{name:<36}" + "".join(f"{value:>22}" for value in values) for name, *values in rows]


def _render_splits(report: dict[str, Any]) -> str:
    splits = [report["splits"][name] for name in SPLITS]
    vocabulary = report["vocabulary"]

    def lengths(split: dict[str, Any], name: str) -> str:
        return f"{split[name]['median']:,} / {split[name]['p95']:,} / {split[name]['max']:,}"

    table = [
        (report["store"]["path"], *SPLITS),
        *(
            (name, *(f"{split[name]:,}" for split in splits))
            for name in ("documents", "sentences", "tokens")
        ),
        (
            "tokens a sentence: median/95%/max",
            *(lengths(split, "sentence_length") for split in splits),
        ),
        (
            "tokens a document: median/95%/max",
            *(lengths(split, "document_length") for split in splits),
        ),
        ("[UNK]", *(f"{split['unknown_share']:.3%}" for split in splits)),
        ("copies among documents", *(f"{split['repeated_documents']:.2%}" for split in splits)),
        ("  nearly equal ones, too", *(f"{split['near_copies']:.2%}" for split in splits)),
        ("copies among sentences", *(f"{split['repeated_sentences']:.2%}" for split in splits)),
        (
            "documents, sentences also in train",
            "",
            f"{report['leaked_documents']:.2%}, {report['leaked_sentences']:.2%}",
        ),
        (
            "vocabulary, used",
            vocabulary["kind"],
            f"{vocabulary['used']:,} of {vocabulary['size']:,}",
        ),
        ("unigram entropy, the plateau", f"{vocabulary['unigram_entropy']:.3f} nats"),
    ]
    return "\n".join([*_rows(table), ""])


def _render_histograms(split: dict[str, Any]) -> str:
    lines = [f"{'tokens a sentence':<48}tokens a document"]
    columns = [_bars(split[name]["histogram"]) for name in ("sentence_length", "document_length")]
    for left, right in itertools.zip_longest(*columns, fillvalue=""):
        lines.append(f"{left:<48}{right}".rstrip())
    return "\n".join([*lines, ""])


def _bars(histogram: list[list[int]]) -> list[str]:
    most = max((count for _, count in histogram), default=1)
    return [
        f"{bound:>9,}+ {count:>11,} {'#' * round(_BAR * count / most)}"
        for bound, count in histogram
    ]


def _render_examples(examples: dict[str, dict[str, Any]], recipe: dict[str, int]) -> str:
    columns = list(examples.values())
    batch_size = recipe["batch_size"]

    def row(name: str, key: str, form: str) -> tuple[str, ...]:
        return (name, *(format(column[key], form) for column in columns))

    table = [
        ("examples of length", *examples),
        row("in one pass over the text", "examples", ","),
        row(f"steps a pass at batch {batch_size:,}", "steps_per_pass", ",.1f"),
        row(f"passes in {recipe['steps']:,} steps", "passes", ",.1f"),
        row("measured", "measured", ","),
        row("padding", "padding_share", ".1%"),
        row("shorter than the length", "not_full_share", ".1%"),
        row("random B", "random_share", ".1%"),
        row("masked", "masked_share", ".2%"),
        row("  of these shown as [MASK]", "shown_as_mask", ".2%"),
        row("  of these unchanged", "shown_unchanged", ".2%"),
        row("  of these another token", "shown_as_other", ".2%"),
        row("prediction slots", "slots", ""),
        row("prediction slots used", "slots_used", ".2f"),
    ]
    return "\n".join([*_rows(table), ""])
