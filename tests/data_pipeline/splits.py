# SPDX-License-Identifier: Apache-2.0
"""Small splits for tests, and examples traced back to the tokens of the split they came from."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Split

SPECIAL = SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4)
FIRST_WORD = 5


def split_of(documents: Sequence[Sequence[int]]) -> Split:
    """A split of documents given as the lengths of their sentences; each token has its own id.

    Token number n has the id n + FIRST_WORD, so that an example tells where its tokens come from.
    """
    lengths = np.array([length for document in documents for length in document])
    sentences = np.array([len(document) for document in documents])
    return Split(
        np.arange(lengths.sum(), dtype=np.uint32) + FIRST_WORD,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum(sentences)]),
    )


def random_split(seed: int, documents: int, sentences: float, tokens: float) -> Split:
    """A split with that mean number of sentences in a document and of tokens in a sentence."""
    rng = np.random.default_rng(seed)
    counts = rng.geometric(1 / sentences, documents)
    return split_of([1 + rng.negative_binomial(2, 2 / (1 + tokens), n) for n in counts])


def vocab_size_of(split: Split) -> int:
    """Ids that the tokens of such a split need."""
    return len(split.tokens) + FIRST_WORD


def documents_of(split: Split) -> list[list[list[int]]]:
    """The split as documents of sentences of token ids."""
    sentences = np.split(split.tokens, split.sentence_offsets[1:-1])
    bounds = split.document_offsets
    return [
        [sentence.tolist() for sentence in sentences[bounds[i] : bounds[i + 1]]]
        for i in range(split.documents)
    ]


@dataclasses.dataclass(frozen=True)
class Traced:
    """Where the examples of a batch come from; all fields int64 [batch].

    a_start and b_start are numbers of tokens in the split.
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    label: np.ndarray


def unmasked(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The input_ids of a batch before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_weights"])
    ids[rows, batch["masked_positions"][rows, slots]] = batch["masked_ids"][rows, slots]
    return ids


def trace(batch: dict[str, np.ndarray]) -> Traced:
    """Traces a batch made of a `split_of`, and checks that A and B are unbroken ranges of it."""
    ids = unmasked(batch).astype(np.int64)
    rows = np.arange(len(ids))
    a_length = np.argmax(ids == SPECIAL.sep, axis=1) - 1
    b_length = batch["input_mask"].sum(axis=1) - a_length - 3
    a_start, b_start = ids[:, 1] - FIRST_WORD, ids[rows, a_length + 2] - FIRST_WORD
    position = np.arange(ids.shape[1])
    expected = np.full_like(ids, SPECIAL.pad)
    for start, length, first in ((a_start, a_length, 1), (b_start, b_length, a_length + 2)):
        offset = position - np.reshape(first, (-1, 1))
        inside = (offset >= 0) & (offset < length[:, None])
        expected = np.where(inside, start[:, None] + offset + FIRST_WORD, expected)
    expected[:, 0] = SPECIAL.cls
    expected[rows, a_length + 1] = expected[rows, a_length + b_length + 2] = SPECIAL.sep
    np.testing.assert_array_equal(ids, expected)
    in_b = (position > (a_length + 1)[:, None]) & (batch["input_mask"] == 1)
    np.testing.assert_array_equal(batch["segment_ids"], in_b)
    return Traced(a_start, a_length, b_start, b_length, batch["next_sentence_label"].astype(int))
