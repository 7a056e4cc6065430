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
    # Eight values share a random block: none of the eight may be favoured, nor follow another.
    keys = jax.random.split(jax.random.key(0), 4000)
    kept = np.array(jax.vmap(lambda key: dropout.dropout(jnp.ones(8), 0.5, key) > 0)(keys), float)
    assert np.abs(kept.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(4000)
    correlation = np.corrcoef(kept.T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(key, counter):
    """One block of 20 rounds, written from the paper (Salmon et al. 2011, section 3.3)."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = ((word + schedule) % 2**32 for word, schedule in zip(counter, key, strict=True))
    for four_rounds in range(1, 6):
        for rotation in ROTATIONS[(four_rounds - 1) % 2]:
            x = (x + y) % 2**32
            y = (y << rotation | y >> 32 - rotation) % 2**32 ^ x
        x = (x + keys[four_rounds % 3]) % 2**32
        y = (y + keys[(four_rounds + 1) % 3] + four_rounds) % 2**32
    return x, y


def test_the_reference_gives_the_published_answers():
    # kat_vectors of Random123, which comes with the paper.
    assert threefry2x32((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    key, counter = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert threefry2x32(key, counter) == (0xC4923A9C, 0x483DF7A0)


@pytest.mark.parametrize("shape", [(9,), (3, 17), (3, 14, 5), (2, 3, 17, 4)], ids=str)
def test_random_bytes_are_those_of_the_blocks_in_their_order(shape):
    axis = max(len(shape) - 2, 1) if len(shape) > 2 else len(shape) - 1
    drawn = list(shape)
    drawn[axis] = math.ceil(shape[axis] / 8)
    key = jax.random.key(1)
    high, low = (int(word) for word in jax.random.key_data(key))
    blocks = [threefry2x32((high, low), (0, number)) for number in range(math.prod(drawn))]
    words = np.array(blocks, np.uint32).reshape(*drawn, 2)
    shifted = [words[..., word] >> shift & 255 for word in (0, 1) for shift in (0, 8, 16, 24)]
    # The eight of a block follow one another at a distance of the blocks along the axis.
    expected = np.concatenate(shifted, axis)
    found = dropout.random_bytes(key, shape)
    np.testing.assert_array_equal(found, expected.take(range(shape[axis]), axis))


def test_a_row_draws_the_same_bytes_in_any_batch():
    keys = jax.random.split(jax.random.key(2), 4)
    together = dropout.random_bytes(keys, (4, 6, 5))
    alone = dropout.random_bytes(keys[2:3], (1, 6, 5))
    np.testing.assert_array_equal(together[2:3], alone)
    assert (np.asarray(together[2]) != np.asarray(together[3])).mean() > 0.9


def test_without_rate_or_key_dropout_is_nothing():
    x = np.ones((5, 7), np.float32)
    assert dropout.dropout(x, 0.0, jax.random.key(0)) is x
    assert dropout.dropout(x, 0.5, None) is x
