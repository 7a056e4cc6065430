# SPDX-License-Identifier: Apache-2.0
"""LayerNorm and its gradients against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.layer_norm import layer_norm


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_layer_norm_is_its_definition():
    x, scale, bias = normal(0, 4, 6, 10) * 3 + 1, normal(1, 10), normal(2, 10)
    exact = x.astype(np.float64)
    mean, variance = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(variance + 0.1) * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias, 0.1), expected, atol=1e-5)


def test_gradients_of_layer_norm():
    args = [
        a.astype(np.float64) for a in (normal(0, 4, 6, 10) * 3 + 1, normal(1, 10), normal(2, 10))
    ]
    pull = normal(3, 4, 6, 10).astype(np.float64)

    def definition(x, scale, bias):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return ((x - mean) / np.sqrt(variance + 0.1) * scale + bias) * pull

    with jax.enable_x64(True):
        found = jax.vjp(lambda *args: layer_norm(*args, 0.1), *args)[1](pull)
        for at, gradient in enumerate(found):
            for index in np.ndindex(args[at].shape):
                step = np.zeros_like(args[at])
                step[index] = 1e-5
                plus, minus = ([*args[:at], args[at] + s, *args[at + 1 :]] for s in (step, -step))
                slope = (definition(*plus) - definition(*minus)).sum() / 2e-5
                assert gradient[index] == pytest.approx(slope, abs=1e-8)


def test_gradients_of_layer_norm_of_bfloat16_are_summed_in_float32():
    x = jnp.asarray(normal(0, 300, 64), jnp.bfloat16)
    pull = jnp.asarray(normal(1, 300, 64) + 1, jnp.bfloat16)
    back = jax.vjp(lambda *args: layer_norm(x, *args, 1e-12), jnp.ones(64), jnp.zeros(64))
    wide, pulled = np.asarray(x, np.float64), np.asarray(pull, np.float64)
    normalised = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    for found, expected in zip(back[1](pull), (pulled * normalised, pulled), strict=True):
        np.testing.assert_allclose(found, expected.sum(0), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0, 1000.0])
def test_one_pass_over_bfloat16_costs_less_than_rounding_to_it_has(mean):
    def exactly(x):
        centered = x - x.mean(-1, keepdims=True)
        return centered / np.sqrt(np.square(centered).mean(-1, keepdims=True))

    values = np.random.default_rng(0).normal(mean, 1 + mean / 100, size=(100, 768))
    x = jnp.asarray(values, jnp.bfloat16)
    rounded = np.asarray(x, np.float64)
    cost_of_rounding = np.abs(exactly(values) - exactly(rounded)).max()
    found = np.asarray(layer_norm(x, jnp.ones(768), jnp.zeros(768), 1e-12), np.float64)
    error = np.abs(found - exactly(rounded)) - 2**-8 * np.abs(exactly(rounded))
    assert error.max() < 0.1 * cost_of_rounding


def test_layer_norm_of_bfloat16_has_float32_statistics():
    # The mean of 1000 and 1008 needs more bits than bfloat16 has.
    x = jnp.asarray(np.tile([1000.0, 1008.0], 64)[None], jnp.bfloat16)
    found = layer_norm(x, jnp.ones(128), jnp.zeros(128), 1e-12)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.tile([-1.0, 1.0], 64)[None])
