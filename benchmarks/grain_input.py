# SPDX-License-Identifier: Apache-2.0
"""Peers of the input benchmark: the same examples, made one record at a time.

`grain_batches` is a Grain pipeline as its documentation builds one: a map over shuffled record
numbers, batched, read by threads. `literal_examples` is the original's own algorithm in Python
(tests/data_pipeline/original_examples.py), which writes its examples to files first.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline.batch import IS_NEXT, IS_RANDOM, Batch, max_predictions
from data_pipeline.mixture import Mixture
from data_pipeline.store import Split

_READ = {"num_threads": 16, "prefetch_buffer_size": 16}  # threads: its default; batches ahead


class _MakeExample:
    """Record number -> example: sentences from a document up to the length, a partner, masks."""

    def __init__(self, split: Split, store: Mixture, length: int) -> None:
        self._split, self._special, self._length = split, store.special, length
        self._vocab_size, self._slots = store.vocab_size, max_predictions(length)

    def _sentences(self, sentence: int, end: int, wanted: int) -> np.ndarray:
        offsets = self._split.sentence_offsets
        stop = int(np.searchsorted(offsets[sentence : end + 1], offsets[sentence] + wanted))
        return self._split.tokens[offsets[sentence] : offsets[min(sentence + max(stop, 1), end)]]

    def __call__(self, number: int, draw: np.random.Generator) -> dict[str, Any]:
        split, special, room = self._split, self._special, self._length - 3
        document = number % split.documents
        begin, end = split.document_offsets[document : document + 2]
        start = int(draw.integers(begin, end))
        a_room = int(draw.integers(1, room))
        a = self._sentences(start, end, a_room)[:a_room]
        label = IS_NEXT if draw.random() < 0.5 else IS_RANDOM
        if label == IS_RANDOM:
            document = int(draw.integers(split.documents))
            begin, end = split.document_offsets[document : document + 2]
            start = int(draw.integers(begin, end))
        b = self._sentences(start, end, room - len(a))[: room - len(a)]
        tokens = np.concatenate([[special.cls], a, [special.sep], b, [special.sep]])
        count = min(self._slots, max(1, round(0.15 * len(tokens))))
        candidates = np.flatnonzero((tokens != special.cls) & (tokens != special.sep))
        positions = np.sort(draw.choice(candidates, min(count, len(candidates)), replace=False))
        labels = tokens[positions]
        share = draw.random(len(positions))
        words = draw.integers(0, self._vocab_size, len(positions))
        tokens[positions] = np.where(
            share < 0.8, special.mask, np.where(share < 0.9, labels, words)
        )
        return {
            "input_ids": self._padded(tokens, self._length),
            "input_mask": self._padded(np.ones_like(tokens), self._length),
            "segment_ids": self._padded(np.arange(len(tokens)) > len(a) + 1, self._length),
            "masked_positions": self._padded(positions, self._slots),
            "masked_ids": self._padded(labels, self._slots),
            "masked_weights": self._padded(np.ones(len(labels)), self._slots).astype(np.float32),
            "next_sentence_label": np.int32(label),
        }

    @staticmethod
    def _padded(values: np.ndarray, length: int) -> np.ndarray:
        padded = np.zeros(length, np.int32)
        padded[: len(values)] = values
        return padded


def grain_batches(store: Mixture, length: int, batch_size: int) -> Iterator[Batch]:
    """Endless batches of a record-at-a-time Grain pipeline."""
    import grain

    split = store.stores[0].split("train")
    plain = Split(
        np.asarray(split.tokens),
        np.asarray(split.sentence_offsets),
        np.asarray(split.document_offsets),
    )
    make = _MakeExample(plain, store, length)
    return iter(
        grain.MapDataset.range(1 << 31)
        .shuffle(seed=0)
        .random_map(make, seed=0)
        .batch(batch_size)
        .to_iter_dataset(grain.ReadOptions(**_READ))
    )


def literal_examples(store: Mixture, length: int) -> Iterator[Any]:
    """Endless examples of the original's algorithm, over the first documents of the store."""
    from tests.data_pipeline.original_examples import Recipe, document_examples

    split, special = store.stores[0].split("train"), store.special
    documents = []
    for number in range(min(split.documents, 2000)):
        begin, end = split.document_offsets[number : number + 2]
        bounds = split.sentence_offsets[begin : end + 1]
        documents.append(
            [split.tokens[i:j].tolist() for i, j in zip(bounds[:-1], bounds[1:], strict=True)]
        )
    recipe = Recipe(
        length, max_predictions(length), store.vocab_size, special.cls, special.sep, special.mask
    )
    draw = random.Random(0)
    while True:
        for index in range(len(documents)):
            yield from document_examples(documents, index, recipe, draw)
