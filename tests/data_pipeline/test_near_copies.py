# SPDX-License-Identifier: Apache-2.0
"""Signatures against the Jaccard index itself, computed from sets of windows."""

import numpy as np
import pytest

from data_pipeline import near_copies
from data_pipeline.near_copies import BANDS, SLOTS, WINDOW, agreement, signatures, window_hashes


def windows(tokens):
    return {tuple(tokens[start : start + WINDOW]) for start in range(len(tokens))}


def jaccard(these, those):
    return len(windows(these) & windows(those)) / len(windows(these) | windows(those))


@pytest.fixture(scope="module")
def pairs():
    """Pairs of documents, the second with some share of other tokens: a list of token arrays."""
    random = np.random.default_rng(0)
    documents = []
    for length in (40, 200, 1000):
        for share in np.linspace(0, 0.08, 60):
            original = random.integers(0, 8000, length)
            changed = np.where(
                random.random(length) < share, random.integers(0, 8000, length), original
            )
            documents += [original, changed]
    return documents


def of(documents):
    tokens = np.concatenate(documents).astype(np.uint16)
    return signatures(tokens, np.array([len(document) for document in documents]))


def test_agreement_estimates_the_jaccard_index(pairs):
    slots, _ = of(pairs)
    estimates = agreement(slots[::2], slots[1::2])
    truth = np.array([jaccard(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)])
    # The deviation of a share in 128 independent slots; the true ones are tied to each other by
    # the filling of empty slots and by drawing without replacement, which partly cancel.
    deviation = np.sqrt(np.maximum(truth * (1 - truth), 0.002) / SLOTS)
    standardised = (estimates - truth) / deviation
    assert abs(standardised.mean()) < 4 / np.sqrt(len(truth))
    assert standardised.std() < 1.5
    np.testing.assert_array_equal(estimates[truth == 1], 1)


def test_bands_find_the_alike_and_pass_over_the_others(pairs):
    _, bands = of(pairs)
    truth = np.array([jaccard(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)])
    found = (bands[::2] == bands[1::2]).any(axis=1)
    assert found[truth >= 0.9].all()
    for low, high in ((0.75, 0.9), (0.5, 0.7)):
        among = (truth >= low) & (truth < high)
        expected = 1 - (1 - truth[among] ** (SLOTS // BANDS)) ** BANDS
        spread = np.sqrt((expected * (1 - expected)).sum()) + 1
        assert abs(found[among].sum() - expected.sum()) < 4 * spread
    strangers = bands[::2]
    assert not (strangers[1:] == strangers[:-1]).any()


@pytest.mark.parametrize("at_once", [1 << 14, 7, 3])
def test_a_signature_depends_on_its_document_alone(pairs, monkeypatch, at_once):
    monkeypatch.setattr(near_copies, "_DOCUMENTS_AT_ONCE", at_once)
    slots, bands = of(pairs[:7])
    assert len(slots) == len(bands) == 7
    for number, document in enumerate(pairs[:7]):
        alone = of([document])
        np.testing.assert_array_equal(alone[0][0], slots[number])
        np.testing.assert_array_equal(alone[1][0], bands[number])


def test_documents_shorter_than_a_window():
    slots, bands = of([np.array([5]), np.array([5]), np.array([6]), np.array([5, 6])])
    assert agreement(slots[:1], slots[1:]).round(1).tolist() == [1, 0, 0]
    assert (bands[0] == bands[1]).all() and not (bands[0] == bands[2]).any()


def test_windows_end_with_their_document():
    hashes = window_hashes(np.array([1, 2, 3, 1, 2, 3, 4]), np.array([3, 4]))
    alone = window_hashes(np.array([1, 2, 3]), np.array([3]))
    np.testing.assert_array_equal(hashes[:3], alone)
    assert len(set(hashes.tolist())) == 7
