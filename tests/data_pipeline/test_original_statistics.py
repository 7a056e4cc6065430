# SPDX-License-Identifier: Apache-2.0
"""Examples have the statistics of the original's: everything that can be counted, on two corpora.

Our ten epochs over 1,500 made-up documents, and over three real texts of the demo's corpus, are
compared with ten passes of the oracle, which is the original's algorithm to the letter. The
documents are the independent units (see `paired_p`); p below SMALLEST_P rejects; over eight seeds
of ours, or of a second oracle, the p-values were spread as chance wants, none below 0.001.

Power: each way to be wrong in WRONG is rejected by the count that it should change, among them
[MASK] in 78 instead of 80% of the cases, 16 instead of 15% predicted, and one chunk in fifty lost.
"""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import masking, pairs, walk
from data_pipeline.batch import Batch, BatchSpec
from data_pipeline.random_bits import uniform, uniform_integers
from data_pipeline.source import ExampleOptions, ExampleStream
from data_pipeline.store import Split
from data_pipeline.walk import PASSES, Chunks, Walk, section_offsets
from tests.data_pipeline.original_examples import Example, Recipe, document_examples
from tests.data_pipeline.significance import SMALLEST_P, paired_p
from tests.data_pipeline.splits import (
    SPECIAL,
    documents_of,
    random_split,
    split_of,
    trace,
    unmasked,
    vocab_size_of,
)

LENGTH = 64
CORPUS = Path(__file__).parents[2] / "demo" / "corpus"
Counts = dict[str, np.ndarray]


def original_batch(split: Split, seed: int) -> Batch:
    """All examples that the oracle makes in PASSES passes, as one batch."""
    spec = BatchSpec(1, LENGTH)
    recipe = Recipe(
        LENGTH, spec.predictions, vocab_size_of(split), SPECIAL.cls, SPECIAL.sep, SPECIAL.mask
    )
    documents, rng = documents_of(split), random.Random(seed)
    examples = [
        example
        for index in range(len(documents))
        for _ in range(PASSES)
        for example in document_examples(documents, index, recipe, rng)
    ]
    return batch_of(examples, BatchSpec(len(examples), LENGTH))


def batch_of(examples: list[Example], spec: BatchSpec) -> Batch:
    batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in spec.features().items()}
    for row, example in enumerate(examples):
        tokens, slots = len(example.tokens), len(example.positions)
        batch["input_ids"][row, :tokens] = example.tokens
        batch["input_mask"][row, :tokens] = 1
        batch["segment_ids"][row, example.a_end : tokens] = 1
        batch["masked_positions"][row, :slots] = example.positions
        batch["masked_ids"][row, :slots] = example.labels
        batch["masked_weights"][row, :slots] = 1
        batch["next_sentence_label"][row] = example.is_random
    return batch


def our_batch(split: Split, seed: int = 0, options: ExampleOptions | None = None) -> Batch:
    """All examples of our first PASSES epochs, as one batch."""
    options = options or ExampleOptions()
    walked = Walk(
        split.sentence_offsets,
        section_offsets(split),
        LENGTH,
        options.short_sequence_probability,
    )
    examples = sum(walked.pass_starts(number)[1] for number in range(PASSES))
    stream = ExampleStream(
        split, SPECIAL, vocab_size_of(split), length=LENGTH, seed=seed, options=options
    )
    return stream.batch(np.arange(examples))


def counts_of(split: Split, batch: Batch) -> Counts:
    """What there is to count, each [documents, bins]: the document is that of A."""
    traced = trace(batch)
    sentence_starts = split.sentence_offsets
    document_starts = sentence_starts[split.document_offsets]
    cluster = np.searchsorted(document_starts, traced.a_start, side="right") - 1
    is_random = traced.label == 1

    def count(values: np.ndarray, edges: list[int], rows: np.ndarray | None = None) -> np.ndarray:
        """Histogram for each document; `edges` are the lower ends of all bins but the first."""
        rows = np.arange(cluster.size) if rows is None else rows
        keys = cluster[rows] * (len(edges) + 1) + np.searchsorted(edges, values, side="right")
        size = split.documents * (len(edges) + 1)
        return np.bincount(keys, minlength=size).reshape(split.documents, -1)

    def within_sentence(tokens: np.ndarray) -> np.ndarray:
        return tokens - sentence_starts[np.searchsorted(sentence_starts, tokens, side="right") - 1]

    def to_sentence_end(tokens: np.ndarray) -> np.ndarray:
        return sentence_starts[np.searchsorted(sentence_starts, tokens)] - tokens

    def repeated_visits() -> np.ndarray:
        """How many tokens are visited how often, as A or as a next B, in all passes."""
        seen = np.zeros(len(split.tokens) + 1, np.int64)
        for starts, lengths, chosen in (
            (traced.a_start, traced.a_length, everywhere),
            (traced.b_start, traced.b_length, ~is_random),
        ):
            np.add.at(seen, starts[chosen], 1)
            np.add.at(seen, (starts + lengths)[chosen], -1)
        times = np.searchsorted([2, 4, 6, 7, 8, 9, 10, 11, 12], np.cumsum(seen)[:-1], "right")
        owner = np.searchsorted(document_starts, np.arange(len(times)), "right") - 1
        size = split.documents * 10
        return np.bincount(owner * 10 + times, minlength=size).reshape(split.documents, 10)

    def visits(starts: np.ndarray, lengths: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """How often tokens are visited, by their distance from the start of their document."""
        rows = np.repeat(np.flatnonzero(chosen), lengths[chosen])
        first = np.repeat(np.cumsum(lengths[chosen]) - lengths[chosen], lengths[chosen])
        tokens = np.repeat(starts[chosen], lengths[chosen]) + np.arange(rows.size) - first
        distance = tokens - document_starts[np.searchsorted(document_starts, tokens, "right") - 1]
        return count(distance, [4, 16, 32, 64, 96, 128, 192, 256, 384], rows)

    lengths, everywhere = [2, 5, 9, 14, 19, 25, 32, 38, 45, 52], np.ones_like(is_random)
    used_rows, used_slots = np.nonzero(batch["masked_weights"])
    positions = batch["masked_positions"][used_rows, used_slots]
    shown = batch["input_ids"][used_rows, positions]
    kept = shown == unmasked(batch)[used_rows, positions]
    a_end, b_end = traced.a_start + traced.a_length, traced.b_start + traced.b_length
    return {
        "random next": count(is_random, [1]),
        "length of A": count(traced.a_length, lengths),
        "length of a next B": count(
            traced.b_length[~is_random], lengths, np.flatnonzero(~is_random)
        ),
        "length of a random B": count(
            traced.b_length[is_random], lengths, np.flatnonzero(is_random)
        ),
        "length": count(traced.a_length + traced.b_length, [*lengths, 57, 60, 61]),
        "tokens cut at the front of A": count(within_sentence(traced.a_start), [1, 2, 3, 5, 9]),
        "tokens cut at the back of A": count(to_sentence_end(a_end), [1, 2, 3, 5, 9]),
        "tokens cut at the front of B": count(within_sentence(traced.b_start), [1, 2, 3, 5, 9]),
        "tokens cut at the back of B": count(to_sentence_end(b_end), [1, 2, 3, 5, 9]),
        "repeated visits": repeated_visits(),
        "visits as A": visits(traced.a_start, traced.a_length, everywhere),
        "visits as a next B": visits(traced.b_start, traced.b_length, ~is_random),
        "visits as a random B": visits(traced.b_start, traced.b_length, is_random),
        "masked tokens": count(batch["masked_weights"].sum(axis=1), list(range(2, 11))),
        "masked positions": count(positions, list(range(4, 64, 6)), used_rows),
        "what masked tokens show": count(
            np.where(shown == SPECIAL.mask, 0, np.where(kept, 1, 2)), [1, 2], used_rows
        ),
    }


@pytest.fixture(scope="module")
def split() -> Split:
    return random_split(0, documents=1500, sentences=16, tokens=10)


@pytest.fixture(scope="module")
def original(split: Split) -> Counts:
    return counts_of(split, original_batch(split, seed=12345))


def p_values(first: Counts, second: Counts) -> dict[str, float]:
    return {name: paired_p(first[name], second[name]) for name in first}


def test_everything_is_as_often_as_in_the_original(split: Split, original: Counts) -> None:
    ours = p_values(original, counts_of(split, our_batch(split)))
    assert min(ours.values()) > SMALLEST_P, ours
    assert original["length of A"].sum() > 50_000


def real_split() -> Split:
    """Three texts of the demo's corpus; a word is a token."""
    documents = []
    for name in ("devils-dictionary", "king-james-bible", "world-factbook"):
        text = (CORPUS / f"{name}.txt").read_text(encoding="utf-8")
        lines = [block.splitlines() for block in text.strip().split("\n\n")]
        documents += [[len(line.split()) for line in block if line.split()] for block in lines]
    return split_of([document for document in documents if document])


def test_everything_is_as_often_as_in_the_original_on_real_text() -> None:
    split = real_split()
    assert split.documents > 800 and len(split.tokens) > 200_000
    theirs = counts_of(split, original_batch(split, seed=12345))
    ours = p_values(theirs, counts_of(split, our_batch(split)))
    assert min(ours.values()) > SMALLEST_P, ours


def draw_target_of_each_chunk(chunks: Callable[..., Chunks]) -> Callable[..., Chunks]:
    def chunks_of_drawn_targets(
        self: Walk, passes: np.ndarray, first: np.ndarray, stop: np.ndarray, target: np.ndarray
    ) -> Chunks:
        short = uniform(passes, 100, first) < self.short_probability
        drawn = 2 + uniform_integers(self.length - 4, passes, 101, first)
        return chunks(self, passes, first, stop, np.where(short, drawn, self.length - 3))

    return chunks_of_drawn_targets


def let_single_sentences_be_next(chunks: Callable[..., Chunks]) -> Callable[..., Chunks]:
    def chunks_by_coin(self: Walk, passes: np.ndarray, first: np.ndarray, *rest: object) -> Chunks:
        made = chunks(self, passes, first, *rest)
        coin = uniform(passes, 102, first) < 0.5
        single = made.stop - made.first == 1
        return dataclasses.replace(made, is_random=made.is_random & (coin | ~single))

    return chunks_by_coin


def lose_one_in_fifty(batch: Callable[..., Batch]) -> Callable[..., Batch]:
    def batch_without(self: ExampleStream, numbers: np.ndarray) -> Batch:
        return batch(self, np.where(numbers % 50 == 0, 1, numbers))

    return batch_without


# name -> where it is seen, and how to go wrong: patch something, or return options
WRONG: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], object]]] = {
    "short probability 0.2": (
        "length",
        lambda patch: ExampleOptions(short_sequence_probability=0.2),
    ),
    "a chunk in fifty lost": (
        "repeated visits",
        lambda patch: patch.setattr(ExampleStream, "batch", lose_one_in_fifty(ExampleStream.batch)),
    ),
    "no sentences put back": (
        "visits as A",
        lambda patch: patch.setattr(Chunks, "following", property(lambda self: self.stop)),
    ),
    "single sentences not always random": (
        "random next",
        lambda patch: patch.setattr(Walk, "chunks", let_single_sentences_be_next(Walk.chunks)),
    ),
    "target drawn for each example": (
        "length",
        lambda patch: patch.setattr(Walk, "chunks", draw_target_of_each_chunk(Walk.chunks)),
    ),
    "cut at the back only": (
        "tokens cut at the front of A",
        lambda patch: patch.setattr(pairs, "_heads", lambda *arguments: 0),
    ),
    "documents cut every 4 lengths": (
        "length",
        lambda patch: patch.setattr(walk, "SECTION_TOKENS", 4 * LENGTH),
    ),
    "0.78 masked, 0.11 kept": (
        "what masked tokens show",
        lambda patch: (
            patch.setattr(masking, "MASK_SHARE", 0.78),
            patch.setattr(masking, "KEEP_SHARE", 0.11),
        ),
    ),
    "16% predicted": (
        "masked tokens",
        lambda patch: patch.setattr(masking, "PREDICTED_SHARE", 0.16),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_would_be_seen(
    name: str, split: Split, original: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_in, go_wrong = WRONG[name]
    options = go_wrong(monkeypatch)
    made = our_batch(split, options=options if isinstance(options, ExampleOptions) else None)
    assert paired_p(original[seen_in], counts_of(split, made)[seen_in]) < SMALLEST_P
