# SPDX-License-Identifier: Apache-2.0
"""Looks at a store before a machine is spent on it, and says what would go wrong.

    python -m data_pipeline.doctor --store=runs/store [--json=report.json] [--picture=report.svg]

Counts what the store holds, makes a few thousand training examples of it by the code that training
uses, and measures these: padding, masking, next-sentence labels. Says how often a recipe of
`--steps` and `--batch_size` goes over the text. Warnings come with their reason.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.batch import IS_RANDOM, Batch, max_predictions
from data_pipeline.diagnosis import find_warnings
from data_pipeline.doctor_picture import draw
from data_pipeline.doctor_tables import render
from data_pipeline.errors import OutputError, UsageError, run_command
from data_pipeline.source import ExampleOptions, ExampleStream
from data_pipeline.store import SPLITS, Split, Store, verify_store
from data_pipeline.store_statistics import (
    describe_lengths,
    document_hashes,
    entropy,
    near_copies,
    repeated_share,
    sample_ranks,
    sentence_hashes,
    token_counts,
)

LENGTHS = (128, 512)
SHARES = {128: 0.9, 512: 0.1}  # of the steps, as in the paper
SHOWN_EXAMPLES = 3
_MEASURED_TOKENS = 1 << 20  # at each length
_BATCH = 256  # rows made at once


def examine(store: Store, steps: int = 1_000_000, batch_size: int = 256) -> dict[str, Any]:
    """Everything the doctor measures, as JSON.

    Args:
        store: what to look at.
        steps: updates of the recipe, of which nine in ten are at length 128.
        batch_size: sequences of each.

    Returns:
        "store", "splits" (by name), "vocabulary", "examples" (by length), "shown" and "warnings".
    """
    splits = {name: store.split(name) for name in SPLITS}
    hashes = {name: sentence_hashes(s.tokens, s.sentence_offsets) for name, s in splits.items()}
    documents = {name: document_hashes(splits[name], hashes[name]) for name in SPLITS}
    counts = {name: token_counts(splits[name], store.vocab_size) for name in SPLITS}
    report: dict[str, Any] = {
        "store": {
            "path": str(store.path),
            "fingerprint": store.fingerprint,
            **{name: store.manifest.get(name, "") for name in ("name", "licence", "provenance")},
        },
        "splits": {
            name: _examine_split(splits[name])
            | {
                "unknown_share": _share(counts[name][store.special.unk], counts[name].sum()),
                "repeated_documents": repeated_share(documents[name]),
                "near_copies": near_copies(splits[name]),
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
            "frequencies": sample_ranks(counts["train"]),
        },
        "leaked_documents": _overlap(documents["validation"], documents["train"]),
        "leaked_sentences": _overlap(hashes["validation"], hashes["train"]),
        "recipe": {"steps": steps, "batch_size": batch_size},
        "examples": {
            str(length): examine_examples(store, length, steps, batch_size) for length in LENGTHS
        },
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


def examine_examples(store: Store, length: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Measures training examples of one length, about a million tokens of them."""
    stream = _make_stream(store, length)
    measured = min(stream.examples, _MEASURED_TOKENS // length)
    totals: dict[str, float] = {}
    for start in range(0, measured, _BATCH):
        batch = stream.batch(np.arange(start, min(start + _BATCH, measured)))
        for name, value in _measure(batch, store.special.mask).items():
            totals[name] = totals.get(name, 0) + value
    masked, tokens = totals["masked"], totals["tokens"]
    return {
        "examples": stream.examples,
        "steps_per_pass": stream.examples / batch_size,
        "passes": SHARES[length] * steps * batch_size / stream.examples,
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


def main(arguments: Sequence[str]) -> None:
    """The command."""
    del arguments
    if not flags.FLAGS.store:
        raise UsageError("--store is missing")
    values = flags.FLAGS
    report = examine(verify_store(values.store), values.steps, values.batch_size)
    print(render(report))
    for name in ("json", "picture"):
        path = values[name].value
        try:
            if path and name == "json":
                Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            elif path:
                draw(report, Path(path))
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    flags.DEFINE_string("store", None, "Directory of the store.")
    flags.DEFINE_string("json", None, "Also write the report to this file.")
    flags.DEFINE_string("picture", None, "Also draw it into this file (.svg, .png, .pdf).")
    flags.DEFINE_integer("steps", 1_000_000, "Updates of the recipe.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 256, "Sequences of an update.", lower_bound=1)
    run_command(main)
