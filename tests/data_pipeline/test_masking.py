# SPDX-License-Identifier: Apache-2.0
"""Masking is the original's: how many tokens, which ones, and what stands in their place."""

import random

import numpy as np
import pytest

from data_pipeline import masking
from data_pipeline.batch import max_predictions
from data_pipeline.masking import mask_tokens
from data_pipeline.random_bits import bits
from tests.data_pipeline.original_examples import Recipe, mask
from tests.data_pipeline.significance import SMALLEST_P, fit_p, two_sample_p
from tests.data_pipeline.splits import SPECIAL, unmasked

VOCAB = 64


def batch_of(rows: list[list[int]], length: int) -> dict[str, np.ndarray]:
    ids = np.full((len(rows), length), SPECIAL.pad, np.int32)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    input_mask = (np.arange(length) < [[len(tokens)] for tokens in rows]).astype(np.int32)
    return {"input_ids": ids, "input_mask": input_mask}


def random_row(rng: np.random.Generator, length: int) -> list[int]:
    """[CLS] A [SEP] B [SEP] of `length` tokens."""
    row = rng.integers(5, VOCAB, length)
    row[0], row[-1], row[rng.integers(2, length - 2)] = SPECIAL.cls, SPECIAL.sep, SPECIAL.sep
    return row.tolist()


def masked(
    rows: list[list[int]], length: int, seed: int = 0, words: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    batch = batch_of(rows, length)
    mask_tokens(batch, SPECIAL, VOCAB, bits(seed, np.arange(len(rows))), words)
    return batch


@pytest.mark.parametrize("length", [16, 128, 512])
@pytest.mark.parametrize("whole_word", [False, True])
def test_slots_hold_the_masked_tokens_of_every_row(length: int, whole_word: bool) -> None:
    rng = np.random.default_rng(0)
    rows = [random_row(rng, n) for n in range(5, length + 1)]
    words = np.arange(VOCAB) >= 40 if whole_word else None
    before, after = batch_of(rows, length), masked(rows, length, words=words)
    np.testing.assert_array_equal(unmasked(after), before["input_ids"])
    weights, positions = after["masked_weights"], after["masked_positions"]
    assert weights.shape == (len(rows), max_predictions(length))
    expected = [min(max_predictions(length), max(1, round(0.15 * len(row)))) for row in rows]
    if whole_word:
        assert np.all(weights.sum(axis=1) <= expected) and np.all(weights.sum(axis=1) >= 0)
    else:
        assert weights.sum(axis=1).tolist() == expected
    for row, slots, used in zip(rows, positions.tolist(), weights.astype(bool), strict=True):
        chosen = np.array(slots)[used]
        assert np.all(np.diff(chosen) > 0) and used.tolist() == sorted(used, reverse=True)
        assert not {row[position] for position in chosen} & {SPECIAL.cls, SPECIAL.sep}
    assert np.all(positions[weights == 0] == 0) and np.all(after["masked_ids"][weights == 0] == 0)
    # Nothing but the chosen positions has changed.
    changed = np.argwhere(after["input_ids"] != before["input_ids"])
    chosen = {(row, int(p)) for row, slot in np.argwhere(weights) for p in [positions[row, slot]]}
    assert {tuple(place) for place in changed.tolist()} <= chosen


def test_unknown_words_are_chosen_too() -> None:
    row = [SPECIAL.cls, *[SPECIAL.unk] * 10, SPECIAL.sep, SPECIAL.unk, SPECIAL.sep]
    assert masked([row], 16)["masked_ids"][0].tolist() == [SPECIAL.unk] * 2 + [0]


@pytest.mark.parametrize("length", [12, 40])
def test_every_candidate_and_every_pair_of_them_is_equally_likely(length: int) -> None:
    row = random_row(np.random.default_rng(0), length)
    copies = 60_000
    after = masked([row] * copies, 48)
    candidates = [i for i, token in enumerate(row) if token > SPECIAL.sep]
    slots = int(after["masked_weights"][0].sum())
    chosen = np.searchsorted(candidates, after["masked_positions"][:, :slots])
    # Positions of a row exclude each other, so a single slot drawn at random is counted.
    drawn = chosen[np.arange(copies), np.random.default_rng(0).integers(slots, size=copies)]
    assert fit_p(np.bincount(drawn, minlength=len(candidates))) > SMALLEST_P
    pairs = np.bincount(chosen[:, 0] * len(candidates) + chosen[:, 1])
    pairs = pairs[pairs > 0]
    if slots == 2:
        assert pairs.size == len(candidates) * (len(candidates) - 1) // 2
        assert fit_p(pairs) > SMALLEST_P


def outcome_counts(after: dict[str, np.ndarray]) -> np.ndarray:
    """How many chosen tokens show [MASK], themselves, another token."""
    used = after["masked_weights"] == 1
    shown = np.take_along_axis(after["input_ids"], after["masked_positions"], axis=1)[used]
    kept = shown == after["masked_ids"][used]
    is_mask = shown == SPECIAL.mask
    return np.array([np.sum(is_mask), np.sum(kept), np.sum(~is_mask & ~kept)])


# A random word is [MASK] or the same word in one of VOCAB cases each.
SHARES = np.array([0.8 + 0.1 / VOCAB, 0.1 + 0.1 / VOCAB, 0.1 * (1 - 2 / VOCAB)])


@pytest.mark.parametrize("seed", range(10))
def test_eight_of_ten_are_masked_one_kept_one_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, 128) for _ in range(1100)]
    after = masked(rows, 128, seed)
    counts = outcome_counts(after)
    assert counts.sum() > 20_000
    assert fit_p(counts, SHARES) > SMALLEST_P
    used = after["masked_weights"] == 1
    shown = np.take_along_axis(after["input_ids"], after["masked_positions"], axis=1)[used]
    random_words = shown[(shown != SPECIAL.mask) & (shown != after["masked_ids"][used])]
    tally = np.delete(np.bincount(random_words, minlength=VOCAB), SPECIAL.mask)
    # From the whole vocabulary: [PAD], [CLS] and the like occur as often as any ordinary word,
    # which is replaced by itself now and then.
    assert tally.size == VOCAB - 1 and tally[:4].min() > 0
    assert fit_p(tally[:4]) > SMALLEST_P and fit_p(tally[4:]) > SMALLEST_P


def test_shares_off_by_two_percent_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "MASK_SHARE", 0.78)
    monkeypatch.setattr(masking, "KEEP_SHARE", 0.11)
    rng = np.random.default_rng(0)
    rows = [random_row(rng, 128) for _ in range(1100)]
    assert fit_p(outcome_counts(masked(rows, 128)), SHARES) < SMALLEST_P


def test_masks_are_named_by_the_keys_alone() -> None:
    rng = np.random.default_rng(1)
    rows = [random_row(rng, 60) for _ in range(8)]
    together = masked(rows, 64)
    alone = batch_of(rows[5:6], 64)
    mask_tokens(alone, SPECIAL, VOCAB, bits(0, np.array([5])))
    for name, feature in alone.items():
        np.testing.assert_array_equal(feature[0], together[name][5])
    other = masked(rows, 64, seed=1)
    assert not np.array_equal(other["masked_positions"], together["masked_positions"])


WORDS = np.arange(VOCAB) >= 40  # ids from 40 on continue a word


def words_of(row: list[int]) -> list[list[int]]:
    words: list[list[int]] = []
    for position, token in enumerate(row):
        if token in (SPECIAL.cls, SPECIAL.sep):
            continue
        if words and WORDS[token]:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def test_words_are_chosen_whole_and_reach_over_the_separator() -> None:
    rng = np.random.default_rng(2)
    rows = [random_row(rng, 60) for _ in range(500)]
    after = masked(rows, 64, words=WORDS)
    for row, slots, weights in zip(
        rows, after["masked_positions"].tolist(), after["masked_weights"], strict=True
    ):
        chosen = set(np.array(slots)[weights == 1].tolist())
        assert chosen
        for word in words_of(row):
            assert set(word) <= chosen or not set(word) & chosen


def test_whole_words_are_chosen_as_often_as_in_the_original() -> None:
    # Words of one to five pieces and room for four pieces: some are passed over.
    row = [SPECIAL.cls, 41, 42, *[5, 50] * 3, 6, SPECIAL.sep, 43, 7, 50, 51, 52, 53, 8, 9]
    row += [10, 11, 50, 50, 50, 12, SPECIAL.sep]
    copies, length = 40_000, 32
    after = masked([row] * copies, length, words=WORDS)
    recipe = Recipe(
        length, max_predictions(length), VOCAB, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask,
        continuations=set(np.flatnonzero(WORDS).tolist()),
    )  # fmt: skip
    rng = random.Random(0)
    theirs = [frozenset(mask(row, recipe, rng)) for _ in range(copies)]
    used = after["masked_weights"].astype(bool)
    ours = [
        frozenset(slots[weights].tolist())
        for slots, weights in zip(after["masked_positions"], used, strict=True)
    ]
    chosen = sorted({*theirs, *ours}, key=sorted)
    number = {positions: index for index, positions in enumerate(chosen)}
    tallies = np.array(
        [
            np.bincount([number[p] for p in sample], minlength=len(chosen))
            for sample in (ours, theirs)
        ]
    )
    frequent = tallies.sum(axis=0) >= 40
    assert tallies[:, frequent].sum() > 0.9 * 2 * copies
    assert two_sample_p(tallies[:, frequent]) > SMALLEST_P
    # Stopping at the first word that does not fit, instead of passing it over, would be seen.
    wrong = [first_words_that_fit(words_of(row), 4, rng) for _ in range(copies)]
    tally = np.bincount([number[p] for p in wrong if p in number], minlength=len(chosen))
    assert two_sample_p(np.stack([tallies[0], tally])[:, frequent]) < SMALLEST_P


def first_words_that_fit(words: list[list[int]], room: int, rng: random.Random) -> frozenset[int]:
    chosen: list[int] = []
    for word in rng.sample(words, len(words)):
        if len(chosen) + len(word) > room:
            break
        chosen += word
    return frozenset(chosen)
