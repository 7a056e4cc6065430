# SPDX-License-Identifier: Apache-2.0
"""Dropout: its rate, its scale and its independence of one place from another."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import dropout


@pytest.mark.parametrize(("rate", "rounded"), [(0.1, 26 / 256), (0.5, 0.5), (0.25, 0.25)])
def test_dropout_rate_and_expectation(rate, rounded):
    x = jnp.ones((1000, 1003))
    dropped = np.asarray(dropout.dropout(x, rate, jax.random.key(0)))
    deviation = math.sqrt(rounded * (1 - rounded) / x.size)
    assert abs((dropped == 0).mean() - rounded) < 5 * deviation
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rounded), rtol=1e-6)
    assert abs(dropped.mean() - 1) < 5 * deviation / (1 - rounded)


def test_dropout_drops_each_place_alike():
    # Four values share a random number: none of the four may be favoured, nor follow another.
    keys = jax.random.split(jax.random.key(0), 4000)
    kept = np.array(jax.vmap(lambda key: dropout.dropout(jnp.ones(8), 0.5, key) > 0)(keys), float)
    assert np.abs(kept.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(4000)
    correlation = np.corrcoef(kept.T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


@pytest.mark.parametrize("shape", [(9,), (3, 8), (3, 6, 5), (2, 3, 9, 4)], ids=str)
def test_random_bytes_are_those_of_the_words_in_their_order(shape):
    axis = max(len(shape) - 2, 1) if len(shape) > 2 else len(shape) - 1
    drawn = list(shape)
    drawn[axis] = math.ceil(shape[axis] / 4)
    words = np.asarray(dropout.random_words(jax.random.key(1), tuple(drawn)))
    expected = np.concatenate([words >> shift & 255 for shift in (0, 8, 16, 24)], axis)
    found = dropout.random_bytes(jax.random.key(1), shape)
    np.testing.assert_array_equal(found, expected.take(range(shape[axis]), axis))


def test_without_rate_or_key_dropout_is_nothing():
    x = np.ones((5, 7), np.float32)
    assert dropout.dropout(x, 0.0, jax.random.key(0)) is x
    assert dropout.dropout(x, 0.5, None) is x
