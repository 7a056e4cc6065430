# SPDX-License-Identifier: Apache-2.0
"""Dense layer, table and GELU, each against its definition."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import layers
from data_pipeline.errors import ConfigError


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [((6,), (8,), (5,)), ((2, 3), (8,), (3, 2, 4)), ((2, 3), (2, 4), (8,)), ((7,), (4,), (1,))],
    ids=str,
)
@pytest.mark.parametrize("transposed", [False, True])
def test_dense_and_its_gradients(rows, inputs, outputs, transposed):
    x, bias, pull = normal(0, *rows, *inputs), normal(1, *outputs), normal(2, *rows, *outputs)
    kernel = normal(3, *(outputs + inputs if transposed else inputs + outputs))

    def plain(x, kernel, bias):
        matrix = kernel.reshape(bias.size, -1).T if transposed else kernel.reshape(-1, bias.size)
        product = x.reshape(-1, matrix.shape[0]) @ matrix
        return product.reshape(pull.shape) + bias.reshape((1,) * len(rows) + bias.shape)

    def total(function, *args):
        return (function(*args) * pull).sum()

    ours = functools.partial(layers.dense, dtype=jnp.float32, transposed=transposed)
    np.testing.assert_allclose(ours(x, kernel, bias), plain(x, kernel, bias), atol=1e-5)
    found = jax.grad(lambda *args: total(ours, *args), argnums=(0, 1, 2))(x, kernel, bias)
    expected = jax.grad(lambda *args: total(plain, *args), argnums=(0, 1, 2))(x, kernel, bias)
    for gradient, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, jnp.bfloat16], ids=["float64", "bfloat16"])
def test_dense_parts_and_their_gradients(dtype):
    x, kernel, bias = normal(0, 2, 6, 8), normal(1, 3, 2, 4, 8), normal(2, 3, 2, 4)
    pulls = normal(3, 3, 2, 6, 2, 4)
    # All gradients are sums of products: exact ones to compare with, of what bfloat16 leaves.
    rounded = [a.astype(dtype).astype(np.float64) for a in (x, kernel, pulls)]
    matrix = np.einsum("blh,pndh->pblnd", rounded[0], rounded[1]) + bias[:, None, None]
    expected = [
        np.einsum("pblnd,pndh->blh", rounded[2], rounded[1]),
        np.einsum("blh,pblnd->pndh", rounded[0], rounded[2]),
        rounded[2].sum((1, 2)),
    ]
    with jax.enable_x64(dtype == np.float64):
        exact = np.float64 if dtype == np.float64 else np.float32
        args = (jnp.asarray(x, dtype), jnp.asarray(kernel, exact), jnp.asarray(bias, exact))
        parts, back = jax.vjp(layers.dense_parts, *args)
        found = back(tuple(jnp.asarray(pull, dtype) for pull in pulls))
    tolerance = 1e-12 if dtype == np.float64 else 2e-2
    np.testing.assert_allclose(np.stack(parts).astype(float), matrix, tolerance, tolerance)
    for gradient, other in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(np.asarray(gradient, float), other, tolerance, tolerance)
    # Of biases not rounded at all.
    np.testing.assert_allclose(found[2], expected[2], 1e-12 if exact == np.float64 else 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 2), (20, 32, 101), (64, 128, 512)], ids=str)
def test_dense_multiplies_in_bfloat16_and_sums_in_float32(shape, transposed):
    rows, inputs, outputs = shape
    x = jnp.asarray(normal(0, rows, inputs), jnp.bfloat16)
    kernel = normal(1, outputs, inputs) if transposed else normal(1, inputs, outputs)

    @jax.jit
    def products(x, kernel, pull):
        dense = functools.partial(layers.dense, dtype=jnp.float32, transposed=transposed)
        y, back = jax.vjp(dense, x, kernel, jnp.zeros(outputs))
        return y, *back(pull)

    pull = normal(2, rows, outputs)
    y, x_gradient, kernel_gradient, _ = products(x, kernel, pull)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, kernel, pull)]
    matrix = rounded[1].T if transposed else rounded[1]
    np.testing.assert_allclose(y, rounded[0] @ matrix, rtol=1e-4, atol=1e-4)
    assert x_gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(x_gradient, np.float64), rounded[2] @ matrix.T, rtol=1e-2, atol=1e-2
    )
    # Summed in float32, rounded for the way to the other devices, and float32 again.
    assert kernel_gradient.dtype == np.float32
    expected = rounded[0].T @ rounded[2]
    expected = expected.T if transposed else expected
    np.testing.assert_allclose(kernel_gradient, expected, rtol=2**-8, atol=1e-4)
    np.testing.assert_array_equal(kernel_gradient, kernel_gradient.astype(jnp.bfloat16))


def test_gelu_and_its_slope():
    x = np.linspace(-6, 6, 241)
    distribution = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    with jax.enable_x64(True):
        gelu = layers.activation("gelu")
        found, pull = jax.vjp(gelu, x)
        (slope,) = pull(np.ones_like(x))
        np.testing.assert_array_equal(found, gelu(x))
    np.testing.assert_allclose(found, x * distribution, atol=1e-14)
    np.testing.assert_allclose(slope, distribution + x * density, atol=1e-14)


def test_gelu_of_every_bfloat16_is_as_good_as_erf():
    # No further from the true value than half of the last bit plus the stated bound.
    bits = np.arange(2**16, dtype=np.uint16)
    x = jax.lax.bitcast_convert_type(bits, jnp.bfloat16)
    x = x[jnp.isfinite(x)]
    found, pull = jax.vjp(layers.activation("gelu"), x)
    (slope,) = pull(jnp.ones_like(x))
    wide = np.asarray(x, np.float64)
    distribution = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in wide])
    density = np.exp(-np.square(np.clip(wide, -40, 40)) / 2) / math.sqrt(2 * math.pi)
    for values, exact in ((found, wide * distribution), (slope, distribution + wide * density)):
        half_bit = np.exp2(np.floor(np.log2(np.maximum(np.abs(exact), 1e-30))) - 8)
        excess = np.abs(np.asarray(values, np.float64) - exact) - half_bit
        assert excess.max() < 3.2e-6


def test_tanh_form_of_gelu_as_in_the_original():
    x = np.linspace(-6, 6, 241)
    expected = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    with jax.enable_x64(True):
        np.testing.assert_allclose(layers.activation("gelu_tanh")(x), expected, atol=1e-14)


def test_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="model.activation 'relu' is not known"):
        layers.activation("relu")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lookup_and_the_gradient_of_a_word_that_comes_often(dtype):
    table = normal(0, 7, 5)
    rows = jnp.asarray([[1] * 300 + [2, 6]])
    pull = normal(1, *rows.shape, 5)
    found, back = jax.vjp(lambda table: layers.lookup(table, rows, dtype), jnp.asarray(table))
    np.testing.assert_array_equal(found, table[np.asarray(rows)])
    expected = np.zeros((7, 5))
    np.add.at(expected, np.asarray(rows), pull.astype(np.float64))
    # One rounding of the sum, not three hundred on the way to it.
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(back(pull)[0], expected, rtol=tolerance, atol=1e-5)
