# SPDX-License-Identifier: Apache-2.0
"""Masked language modelling: which tokens of a batch are hidden, and what stands there instead.

Follows `create_masked_lm_predictions` of google-research/bert (`create_pretraining_data.py`): 15%
of the tokens, special tokens counted but never chosen, become targets; of those 80% turn into
[MASK], 10% stay and 10% turn into a word drawn from the whole vocabulary (the same one and special
tokens included). With whole words, the pieces of a word are chosen together, a word that would
exceed the number is passed over, and the draw of 80/10/10 is still made for each piece.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import Batch, max_predictions
from data_pipeline.random_bits import Purpose, bits, uniform, uniform_integers
from data_pipeline.special_tokens import SpecialTokens

PREDICTED_SHARE = 0.15
MASK_SHARE = 0.8
KEEP_SHARE = 0.1


def mask_tokens(
    batch: Batch,
    special: SpecialTokens,
    vocab_size: int,
    keys: NDArray[np.uint64],
    continuation: NDArray[np.bool_] | None = None,
) -> None:
    """Masks `batch["input_ids"]` in place and adds the masked_ features.

    Args:
        batch: holds input_ids and input_mask, int32 [batch, length].
        special: ids of the special tokens.
        vocab_size: random words are drawn from [0, vocab_size).
        keys: uint64 [batch], random bits that name the examples.
        continuation: bool [vocab], pieces that continue a word; given, whole words are chosen.
    """
    ids, mask = batch["input_ids"], batch["input_mask"]
    slots = max_predictions(ids.shape[1])
    # np.rint rounds halves to even, as Python's round does.
    share = np.rint(mask.sum(axis=1) * PREDICTED_SHARE).astype(np.int64)
    number = np.clip(share, 1, slots)
    candidates = (mask != 0) & (ids != special.cls) & (ids != special.sep)
    if continuation is None:
        positions = _choose_tokens(candidates, number, slots, keys)
    else:
        positions = _choose_words(candidates, continuation[ids], number, slots, keys)
    used = positions < ids.shape[1]
    positions = np.where(used, positions, 0)
    original = np.take_along_axis(ids, positions, axis=1)
    name = keys[:, None]
    word = uniform_integers(vocab_size, name, Purpose.WORD, positions)
    draw = uniform(name, Purpose.REPLACE, positions)
    shown = np.where(
        draw < MASK_SHARE, special.mask, np.where(draw < MASK_SHARE + KEEP_SHARE, original, word)
    )
    # Unused slots write the [CLS] at position 0 over itself.
    np.put_along_axis(ids, positions, np.where(used, shown, original).astype(np.int32), axis=1)
    batch["masked_positions"] = positions.astype(np.int32)
    batch["masked_ids"] = np.where(used, original, 0).astype(np.int32)
    batch["masked_weights"] = used.astype(np.float32)


def _shuffle(
    candidates: NDArray[np.bool_], draws: NDArray[np.uint64], keep: int
) -> NDArray[np.int64]:
    """Positions of each row in the order of its draws; other than candidates come last.

    One sort of 32-bit numbers that hold a draw above and the position below: several times faster
    than an argsort, and the 20 or more bits of the draw tie once in a thousand rows at most.

    Returns:
        int64 [batch, keep], the row length in place of what is not a candidate.
    """
    length = candidates.shape[1]
    width = (length - 1).bit_length()
    order = (draws >> np.uint64(32)).astype(np.uint32)
    order &= np.uint32((1 << 32) - (1 << width))
    order |= np.arange(length, dtype=np.uint32)
    # The largest number stands for "no": a candidate that draws it is lost, 1 in 2**32.
    order[~candidates] = np.iinfo(np.uint32).max
    if keep < length:
        order = np.partition(order, keep - 1, axis=1)[:, :keep]
    order.sort(axis=1)
    positions = (order & np.uint32((1 << width) - 1)).astype(np.int64)
    return np.where(order == np.iinfo(np.uint32).max, length, positions)


def _choose_tokens(
    candidates: NDArray[np.bool_], number: NDArray[np.int64], slots: int, keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Draws `number` candidates of each row: int64 [batch, slots], ascending, unused = length."""
    length = candidates.shape[1]
    draws = bits(keys[:, None], Purpose.SELECT, np.arange(length))
    shuffled = _shuffle(candidates, draws, slots)
    return np.sort(np.where(np.arange(slots) < number[:, None], shuffled, length), axis=1)


def _choose_words(
    candidates: NDArray[np.bool_],
    continues: NDArray[np.bool_],
    number: NDArray[np.int64],
    slots: int,
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Draws whole words until `number` is reached or no word is left that fits.

    As in the original, a piece that continues a word belongs to the candidate before it, even
    across the [SEP] between A and B.
    """
    rows, length = candidates.shape
    word = np.cumsum(candidates & ~continues, axis=1, dtype=np.int64)
    cell = word + np.arange(rows)[:, None] * length
    pieces = np.bincount(cell[candidates], minlength=rows * length).reshape(rows, length)
    draws = bits(keys[:, None], Purpose.SELECT, np.arange(length))
    # Twice the slots are enough words but for a few rows, whose many long words do not fit.
    taken = _fill(pieces, draws, number, min(2 * slots, length))
    unsure = np.flatnonzero((pieces * taken).sum(axis=1) < number)
    if unsure.size:
        taken[unsure] = _fill(pieces[unsure], draws[unsure], number[unsure], length)
    row, position = np.nonzero(np.take_along_axis(taken, word, axis=1) & candidates)
    chosen = np.bincount(row, minlength=rows)
    slot = np.arange(row.size) - np.repeat(np.cumsum(chosen) - chosen, chosen)
    positions = np.full((rows, slots), length, np.int64)
    positions[row, slot] = position
    return positions


def _fill(
    pieces: NDArray[np.int64], draws: NDArray[np.uint64], number: NDArray[np.int64], keep: int
) -> NDArray[np.bool_]:
    """Takes words of `pieces` tokens, in the order of their draws, while they fit into `number`.

    Args:
        pieces: int64 [batch, words], 0 where there is no such word.
        draws: uint64 [batch, words].
        number: int64 [batch], tokens to take.
        keep: only so many words of each row are tried.

    Returns:
        bool [batch, words].
    """
    rows, words = pieces.shape
    order = _shuffle(pieces > 0, draws, keep)
    sizes = np.take_along_axis(pieces, np.minimum(order, words - 1), axis=1)
    sizes = np.ascontiguousarray(np.where(order < words, sizes, words).T)
    room, fits = number.copy(), np.zeros((keep, rows), np.bool_)
    for tried, size in enumerate(sizes):
        np.less_equal(size, room, out=fits[tried])
        room -= size * fits[tried]
        if not room.any():
            break
    taken = np.zeros((rows, words), np.bool_)
    column, row = np.nonzero(fits)
    taken[row, order[row, column]] = True
    return taken
