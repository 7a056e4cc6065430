# SPDX-License-Identifier: Apache-2.0
"""What the figures of a store mean for training: warnings, each with its reason."""

import math
from collections.abc import Iterator
from typing import Any

MANY_PASSES = 200


def find_warnings(report: dict[str, Any]) -> list[str]:
    """Judges the figures of `doctor.examine`; an empty list is a clean bill of health."""
    found = [*_judge_text(report), *_judge_vocabulary(report), *_judge_held_out(report)]
    for length, examples in report["examples"].items():
        found += _judge_examples(int(length), examples, report["vocabulary"]["size"])
    return found


def _judge_text(report: dict[str, Any]) -> Iterator[str]:
    train = report["splits"]["train"]
    if train["documents"] < 10:
        yield (
            f"only {train['documents']} documents to train on: a random next sentence comes from "
            "another document, so there is little choice; is the text in the right --format?"
        )
    if train["repeated_documents"] > 0.05:
        yield (
            f"{train['repeated_documents']:.1%} of the documents are exact copies: the model sees "
            "them several times a pass; prepare the store with --duplicates=exact"
        )
    elif train["near_copies"] > 0.05:
        yield (
            f"{train['near_copies']:.1%} of the documents are nearly equal to another one: prepare "
            "the store with --duplicates=near"
        )
    if train["repeated_sentences"] > 0.1:
        yield (
            f"{train['repeated_sentences']:.1%} of the sentences are exact copies: boilerplate is "
            "easy to learn by heart and hides that the loss of other text stays high; prepare the "
            "store with --repeated_sentences=10, say"
        )
    if train["one_sentence_documents"] > 0.3:
        yield (
            f"{train['one_sentence_documents']:.1%} of the documents have one sentence: they have "
            "no next one, so their pairs are always random; is the text in the right --format?"
        )
    if train["sentence_length"]["p95"] > 256:
        yield (
            f"one sentence in twenty is longer than {train['sentence_length']['p95']} tokens: they "
            "hardly look like sentences; is the text in the right --format and --language?"
        )


def _judge_vocabulary(report: dict[str, Any]) -> Iterator[str]:
    train, vocabulary = report["splits"]["train"], report["vocabulary"]
    if train["unknown_share"] > 0.01:
        yield (
            f"{train['unknown_share']:.1%} of the tokens are [UNK]: the vocabulary does not belong "
            "to this text; train one on it with data_pipeline.vocab"
        )
    if vocabulary["used"] < 0.5 * vocabulary["size"]:
        yield (
            f"only {vocabulary['used']:,} of {vocabulary['size']:,} entries of the vocabulary "
            "occur: the rest costs memory and time in every step and learns nothing"
        )
    if train["tokens"] < 100 * vocabulary["size"]:
        yield (
            f"{train['tokens']:,} tokens are fewer than 100 for each of the {vocabulary['size']:,} "
            "entries of the vocabulary: most will be learnt badly; use a smaller one or more text"
        )


def _judge_held_out(report: dict[str, Any]) -> Iterator[str]:
    held_out = report["splits"]["validation"]
    if held_out["documents"] < 20 or held_out["tokens"] < 20_000:
        yield (
            f"only {held_out['documents']} documents with {held_out['tokens']:,} tokens are held "
            "out: the figures of evaluation will be noisy; raise --validation_fraction"
        )
    if report["leaked_documents"] > 0:
        yield (
            f"{report['leaked_documents']:.1%} of the held-out documents are in the training "
            "split too: evaluation does not measure what is new; prepare the store again"
        )
    if report["leaked_sentences"] > 0.1:
        yield (
            f"{report['leaked_sentences']:.1%} of the held-out sentences occur in training too: "
            "documents share boilerplate, and evaluation looks better than it is"
        )


def _judge_examples(length: int, examples: dict[str, Any], vocab_size: int) -> Iterator[str]:
    if examples["passes"] > MANY_PASSES:
        yield (
            f"at length {length}, this recipe goes over the text {examples['passes']:,.0f} times "
            "(the paper: 40): more text or fewer steps would serve better"
        )
    if examples["padding_share"] > 0.25:
        yield (
            f"at length {length}, {examples['padding_share']:.0%} of each batch is padding, since "
            "most documents are shorter: that share of the computation is lost"
        )
    if examples["random_share"] > 0.6:
        yield (
            f"at length {length}, {examples['random_share']:.0%} of the pairs are random instead "
            "of half: documents are too short to be split into two"
        )
    masked = examples["slots_used"] * examples["measured"]
    one_word = 0.1 / vocab_size  # a random word may be the one it replaces, or [MASK]
    expected = {
        "shown_as_mask": 0.8 + one_word,
        "shown_unchanged": 0.1 + one_word,
        "shown_as_other": 0.1 - 2 * one_word,
    }
    for name, share in expected.items():
        tolerance = 5 * math.sqrt(share * (1 - share) / masked)
        if abs(examples[name] - share) > tolerance:
            yield (
                f"at length {length}, {examples[name]:.2%} of the masked tokens are "
                f"{name.replace('_', ' ')}, expected is {share:.0%}: a bug; please report it"
            )
