# SPDX-License-Identifier: Apache-2.0
"""Looks at a store before a machine is spent on it, and says what would go wrong.

    python -m data_pipeline.doctor --store=runs/store [--json=report.json]

Counts what the store holds, makes a few thousand training examples of it by the code that training
uses, and measures these: padding, masking, next-sentence labels. Warnings come with their reason.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.batch import IS_RANDOM, Batch, max_predictions
from data_pipeline.diagnosis import find_warnings
from data_pipeline.errors import OutputError, UsageError, run_command
from data_pipeline.source import ExampleOptions, ExampleStream
from data_pipeline.store import SPLITS, Split, Store, verify_store
from data_pipeline.store_statistics import (
    describe_lengths,
    document_hashes,
    entropy,
    repeated_share,
    sentence_hashes,
    token_counts,
)

LENGTHS = (128, 512)
BATCH_SIZE = 256  # of the paper; for the steps in a pass over the corpus
SHOWN_EXAMPLES = 3
_MEASURED_TOKENS = 1 << 20  # at each length
_BAR = 24


def examine(store: Store) -> dict[str, Any]:
    """Everything the doctor measures, as JSON.

    Returns:
        "store", "splits" (by name), "vocabulary", "examples" (by length), "shown" and "warnings".
    """
    splits = {name: store.split(name) for name in SPLITS}
    hashes = {name: sentence_hashes(s.tokens, s.sentence_offsets) for name, s in splits.items()}
    documents = {name: document_hashes(store.split(name), hashes[name]) for name in SPLITS}
    counts = {name: token_counts(store.split(name), store.vocab_size) for name in SPLITS}
    report: dict[str, Any] = {
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint,
            **{name: store.manifest.get(name, "") for name in ("name", "licence", "provenance")},
        },
        "splits": {
            name: _examine_split(store.split(name))
            | {
                "unknown_share": _share(counts[name][store.special.unk], counts[name].sum()),
                "repeated_documents": repeated_share(documents[name]),
                "repeated_sentences": repeated_share(hashes[name]),
            }
            for name in SPLITS
        },
        "vocabulary": {
            "kind": store.tokenizer.kind,
            "settings": store.tokenizer.settings,
            "size": store.vocab_size,
            "used": int(np.count_nonzero(counts["train"])),
            "unigram_entropy": entropy(counts["train"]),
        },
        "leaked_documents": _overlap(documents["validation"], documents["train"]),
        "leaked_sentences": _overlap(hashes["validation"], hashes["train"]),
        "examples": {str(length): examine_examples(store, length) for length in LENGTHS},
        "shown": show_examples(store, LENGTHS[0], SHOWN_EXAMPLES),
    }
    report["warnings"] = find_warnings(report)
    return report


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0


def _overlap(these: np.ndarray, those: np.ndarray) -> float:
    """Share of `these` that are among `those`."""
    return _share(np.isin(these, those).sum(), len(these))


def _examine_split(split: Split) -> dict[str, Any]:
    sentences = np.diff(split.sentence_offsets)
    documents = np.diff(split.sentence_offsets[split.document_offsets])
    return {
        "documents": split.documents,
        "sentences": split.sentences,
        "tokens": len(split.tokens),
        "one_sentence_documents": _share(
            (np.diff(split.document_offsets) == 1).sum(), len(documents)
        ),
        "sentence_length": describe_lengths(sentences),
        "document_length": describe_lengths(documents),
    }


def _make_stream(store: Store, length: int) -> ExampleStream:
    return ExampleStream(
        store.split("train"),
        store.special,
        store.vocab_size,
        length=length,
        seed=0,
        options=ExampleOptions(),
    )


def examine_examples(store: Store, length: int) -> dict[str, Any]:
    """Measures training examples of one length, about a million tokens of them."""
    stream = _make_stream(store, length)
    measured = min(stream.examples, _MEASURED_TOKENS // length)
    totals: dict[str, float] = {}
    for start in range(0, measured, BATCH_SIZE):
        batch = stream.batch(np.arange(start, min(start + BATCH_SIZE, measured)))
        for name, value in _measure(batch, store.special.mask).items():
            totals[name] = totals.get(name, 0) + value
    masked, tokens = totals["masked"], totals["tokens"]
    return {
        "examples": stream.examples,
        "steps_per_pass": stream.examples / BATCH_SIZE,
        "measured": measured,
        "padding_share": 1 - tokens / (measured * length),
        "not_full_share": totals["not_full"] / measured,
        "random_share": totals["random_pairs"] / measured,
        "masked_share": masked / tokens,
        "shown_as_mask": totals["shown_as_mask"] / masked,
        "shown_unchanged": totals["shown_unchanged"] / masked,
        "shown_as_other": 1 - (totals["shown_as_mask"] + totals["shown_unchanged"]) / masked,
        "slots": max_predictions(length),
        "slots_used": masked / measured,
    }


def _measure(batch: Batch, mask: int) -> dict[str, float]:
    """Sums over the rows of a batch."""
    shown = np.take_along_axis(batch["input_ids"], batch["masked_positions"], axis=1)
    used = batch["masked_weights"] > 0
    lengths = batch["input_mask"].sum(axis=1)
    return {
        "tokens": lengths.sum(),
        "not_full": np.sum(lengths < batch["input_mask"].shape[1]),
        "random_pairs": np.sum(batch["next_sentence_label"] == IS_RANDOM),
        "masked": used.sum(),
        "shown_as_mask": np.sum(used & (shown == mask)),
        "shown_unchanged": np.sum(used & (shown == batch["masked_ids"]) & (shown != mask)),
    }


def show_examples(store: Store, length: int, count: int) -> list[str]:
    """Examples as text; a masked token stands as "shown(original)"."""
    batch = _make_stream(store, length).batch(np.arange(count))
    lines = []
    for row in range(count):
        pieces = [store.tokenizer.tokens[number] for number in batch["input_ids"][row]]
        for slot in np.flatnonzero(batch["masked_weights"][row]):
            original = store.tokenizer.tokens[batch["masked_ids"][row, slot]]
            pieces[batch["masked_positions"][row, slot]] += f"({original})"
        text = " ".join(pieces[: batch["input_mask"][row].sum()]).replace(" ##", "")
        label = "random" if batch["next_sentence_label"][row] == IS_RANDOM else "next"
        lines.append(f"B is {label}: {text}")
    return lines


def render(report: dict[str, Any]) -> str:
    """The report as tables."""
    parts = [_render_splits(report), _render_histograms(report["splits"]["train"])]
    parts.append(_render_examples(report["examples"]))
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


def _render_examples(examples: dict[str, dict[str, Any]]) -> str:
    columns = list(examples.values())

    def row(name: str, key: str, form: str) -> tuple[str, ...]:
        return (name, *(format(column[key], form) for column in columns))

    table = [
        ("examples of length", *examples),
        row("in one pass over the text", "examples", ","),
        row(f"steps a pass at batch {BATCH_SIZE}", "steps_per_pass", ",.1f"),
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


def main(arguments: Sequence[str]) -> None:
    """The command."""
    del arguments
    if not flags.FLAGS.store:
        raise UsageError("--store is missing")
    report = examine(verify_store(flags.FLAGS.store))
    print(render(report))
    if flags.FLAGS.json:
        try:
            Path(flags.FLAGS.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {flags.FLAGS.json}: {error.strerror}") from error


if __name__ == "__main__":
    flags.DEFINE_string("store", None, "Directory of the store.")
    flags.DEFINE_string("json", None, "Also write the report to this file.")
    run_command(main)
