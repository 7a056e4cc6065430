# SPDX-License-Identifier: Apache-2.0
"""Chunks become pairs: [CLS] A [SEP] B [SEP], B the next sentences or those of elsewhere.

Follows `create_instances_from_document` and `truncate_seq_pair` of google-research/bert
(`create_pretraining_data.py`), over a whole batch at once. Kept as there: a chunk of one sentence
always gets a random B, so that more than half of all pairs are random; B is looked for in ten
documents at most and stays labelled random if all of them are the document of A.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import IS_NEXT, IS_RANDOM, Batch
from data_pipeline.errors import DataError
from data_pipeline.random_bits import Purpose, bits, uniform_integers
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Split
from data_pipeline.walk import Chunks, reach

_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Token ranges of A and B after truncation; all fields int64 [batch] but `label`, bool."""

    a_start: NDArray[np.int64]
    a_length: NDArray[np.int64]
    b_start: NDArray[np.int64]
    b_length: NDArray[np.int64]
    label: NDArray[np.bool_]  # B is random, or A and B have changed places


def make_pairs(split: Split, chunks: Chunks, length: int, keys: NDArray[np.uint64]) -> Pairs:
    """Finds B for each chunk and truncates the pair to `length` - 3 tokens.

    Args:
        split: the documents.
        chunks: one for each example.
        length: tokens of an example, [CLS] and two [SEP] included.
        keys: uint64 [batch], random bits that name the examples.

    Raises:
        DataError: the offsets of the store are damaged.
    """
    offsets = split.sentence_offsets
    a_start = offsets[chunks.first]
    a_length = offsets[chunks.a_stop] - a_start
    b_first, b_stop = chunks.a_stop.copy(), chunks.stop.copy()
    random = np.flatnonzero(chunks.is_random)
    wanted = chunks.target[random] - a_length[random]
    b_first[random], b_stop[random] = _elsewhere(split, chunks.first[random], wanted, keys[random])
    b_start = offsets[b_first]
    b_length = offsets[b_stop] - b_start
    if min(a_length.min(), b_length.min()) < 0:
        raise DataError("the offsets of the store are damaged; prepare it again")
    if chunks.is_swapped.any():
        swapped = chunks.is_swapped
        a_start, b_start = np.where(swapped, (b_start, a_start), (a_start, b_start))
        a_length, b_length = np.where(swapped, (b_length, a_length), (a_length, b_length))
    # The original takes single tokens off the longer side, off B where they are equal, until both
    # fit: A keeps half of the room, or what B leaves of it.
    room = length - 3
    a_kept = np.minimum(a_length, np.maximum(room - b_length, (room + 1) // 2))
    b_kept = np.minimum(b_length, room - a_kept)
    return Pairs(
        a_start + _heads(a_length - a_kept, keys, Purpose.CUT_A),
        a_kept,
        b_start + _heads(b_length - b_kept, keys, Purpose.CUT_B),
        b_kept,
        chunks.is_random | chunks.is_swapped,
    )


def _elsewhere(
    split: Split, first: NDArray[np.int64], wanted: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sentences [first, stop) of a random document, from a random one of its sentences on.

    Args:
        split: the documents.
        first: int64 [batch], a sentence of the document to avoid.
        wanted: int64 [batch], tokens to reach if the document lasts; one sentence is always taken.
        keys: uint64 [batch], random bits that name the examples.
    """
    offsets = split.document_offsets
    own = np.searchsorted(offsets, first, side="right") - 1
    document = uniform_integers(split.documents, keys, Purpose.DOCUMENT, 0)
    for attempt in range(1, _TRIES):
        same = document == own
        if not same.any():
            break
        again = uniform_integers(split.documents, keys, Purpose.DOCUMENT, attempt)
        document = np.where(same, again, document)
    begin, end = offsets[document], offsets[document + 1]
    start = begin + uniform_integers(end - begin, keys, Purpose.SENTENCE)
    return start, reach(split.sentence_offsets, start, end, np.maximum(wanted, 1))


def _heads(
    flips: NDArray[np.int64], keys: NDArray[np.uint64], purpose: Purpose
) -> NDArray[np.int64]:
    """How many of `flips` fair coins show heads: the ones among that many random bits."""
    words = flips // 64 + 1
    starts = np.cumsum(words) - words
    row = np.repeat(np.arange(flips.size), words)
    number = np.arange(row.size) - starts[row]
    used = np.clip(flips[row] - 64 * number, 0, 64)
    drawn = bits(keys[row], purpose, number) >> np.minimum(64 - used, 63).astype(np.uint64)
    heads = np.where(used > 0, np.bitwise_count(drawn), 0)
    return np.add.reduceat(heads, starts, dtype=np.int64)


def assemble(tokens: np.ndarray, pairs: Pairs, special: SpecialTokens, length: int) -> Batch:
    """Gathers the tokens of the pairs, which are ranges of `tokens`, into rows, before masking.

    Returns:
        the features of `BatchSpec` that do not concern masking.
    """
    rows = np.arange(pairs.a_length.size)
    position = np.arange(length, dtype=np.int64)
    first_separator = pairs.a_length + 1
    last_separator = first_separator + pairs.b_length + 1
    in_b = position > first_separator[:, None]
    is_token = position <= last_separator[:, None]
    shift = np.where(
        in_b, (pairs.b_start - first_separator - 1)[:, None], (pairs.a_start - 1)[:, None]
    )
    # Positions of special tokens and padding read a neighbour, or past the end, and are set below.
    input_ids = np.take(tokens, shift + position, mode="clip").astype(np.int32)
    np.copyto(input_ids, special.pad, where=~is_token)
    input_ids[:, 0] = special.cls
    input_ids[rows, first_separator] = special.sep
    input_ids[rows, last_separator] = special.sep
    return {
        "input_ids": input_ids,
        "input_mask": is_token.astype(np.int32),
        "segment_ids": (in_b & is_token).astype(np.int32),
        "next_sentence_label": np.where(pairs.label, IS_RANDOM, IS_NEXT).astype(np.int32),
    }
