# SPDX-License-Identifier: Apache-2.0
"""The parts every module of the model is made of: dense layer, table and GELU.

Source: `modeling.py` of google-research/bert. Matrix products run in `BertConfig.compute_dtype`;
statistics, softmax and losses in at least float32.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bert_jax.config import BertConfig
from data_pipeline.errors import ConfigError


def compute_dtype(config: BertConfig) -> jnp.dtype:
    """Type of activations and of the operands of matrix products."""
    return jnp.dtype(config.compute_dtype)


def exact_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Type of sums that must not be rounded to bfloat16: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def truncated_normal(rngs: nnx.Rngs, shape: tuple[int, ...], stddev: float) -> jax.Array:
    """Normal float32 values cut at two `stddev`, not rescaled (`tf.truncated_normal`)."""
    return jax.nn.initializers.truncated_normal(stddev)(rngs.params(), shape, jnp.float32)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` plus `bias` along the last axes."""
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - bias.ndim) + bias.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def dense(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: DTypeLike, transposed: bool = False
) -> jax.Array:
    """Affine map of the last axes of `x`.

    Differentiated by hand: the backward products then take operands in the compute dtype too,
    where JAX would multiply float32 by bfloat16. Each device's part of the kernel's gradient is
    summed in float32 and rounded to the compute dtype: it travels to the others in that.

    Args:
        x: [..., *inputs] in the compute dtype.
        kernel: [*inputs, *outputs], or [*outputs, *inputs] if `transposed`.
        bias: [*outputs].
        dtype: type of the result.
        transposed: whether the kernel has its outputs first.

    Returns:
        [..., *outputs].
    """
    rows, inputs, _ = _axes(x, kernel, bias, transposed)
    features = tuple(range(len(rows), x.ndim))
    return _product(x, kernel.astype(x.dtype), (features, inputs), dtype, bias)


def _dense_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: DTypeLike, transposed: bool
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return dense(x, kernel, bias, dtype, transposed), (x, kernel, bias)


def _dense_backward(
    dtype: DTypeLike, transposed: bool, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, ...]:
    x, kernel, bias = saved
    rows, _, outputs = _axes(x, kernel, bias, transposed)
    bias_gradient = jnp.sum(gradient, rows, dtype=bias.dtype)
    if gradient.dtype != x.dtype:
        # Rounded once, before both products read it, and not by each of them.
        gradient = jax.lax.optimization_barrier(gradient.astype(x.dtype))
    features = tuple(range(len(rows), gradient.ndim))
    x_gradient = _product(gradient, kernel.astype(x.dtype), (features, outputs), x.dtype)
    # In the order of the kernel's axes: a transposed float32 product of bfloat16 operands is
    # one that XLA:CPU 0.10 cannot run.
    factors = (gradient, x) if transposed else (x, gradient)
    kernel_gradient = _product(*factors, (rows, rows), x.dtype)
    return x_gradient.astype(x.dtype), kernel_gradient.astype(kernel.dtype), bias_gradient


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def dense_parts(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
    """As a transposed `dense` in the type of `x`, in parts along the first axis of the outputs.

    Differentiated by hand: TPUs sum a part up for its bias where they make it, while the sum over
    parts put together costs as much as their product.

    Args:
        x: [..., inputs].
        kernel: [parts, *outputs, inputs].
        bias: [parts, *outputs].

    Returns:
        For each part [..., *outputs].
    """
    return tuple(jnp.unstack(dense(x, kernel, bias, x.dtype, True), axis=x.ndim - 1))


def _dense_parts_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    return dense_parts(x, kernel, bias), (x, kernel, bias)


def _dense_parts_backward(
    saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    x, _, bias = saved
    rows = tuple(range(x.ndim - 1))
    together = _dense_backward(x.dtype, True, saved, jnp.stack(gradients, x.ndim - 1))
    sums = [jnp.sum(gradient, rows, dtype=bias.dtype) for gradient in gradients]
    return *together[:2], jnp.stack(sums)


dense_parts.defvjp(_dense_parts_forward, _dense_parts_backward)


def _axes(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, transposed: bool
) -> tuple[tuple[int, ...], ...]:
    """Axes of x that are not contracted, and the kernel's axes of inputs and of outputs."""
    inputs = kernel.ndim - bias.ndim
    first, last = tuple(range(inputs)), tuple(range(inputs, kernel.ndim))
    if transposed:
        first, last = tuple(range(bias.ndim, kernel.ndim)), tuple(range(bias.ndim))
    return tuple(range(x.ndim - inputs)), first, last


def _product(
    x: jax.Array,
    y: jax.Array,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: DTypeLike,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Sum over the paired axes plus `bias`, made in `dtype` or, on the CPU, float32 at least."""

    def product(result: DTypeLike) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def multiply(x: jax.Array, y: jax.Array) -> jax.Array:
            sums = jax.lax.dot_general(x, y, (axes, ((), ())), preferred_element_type=result)
            return (sums if bias is None else add_bias(sums, bias)).astype(dtype)

        return multiply

    exact = exact_dtype(dtype)
    if exact == dtype:
        return product(dtype)(x, y)
    # Without a float32 result XLA:CPU turns bfloat16 operands into float32 and leaves AMX unused;
    # on accelerators a bfloat16 result halves the memory traffic and is summed in float32 anyway.
    # Chosen when the program is lowered: `plan` compiles for TPUs on a machine without any.
    return jax.lax.platform_dependent(x, y, cpu=product(exact), default=product(dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table: jax.Array, rows: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Rows of `table` [entries, hidden] in float32 at least: [*rows.shape, hidden].

    Differentiated by hand: a frequent word's gradient is summed up in float32 on each device and
    then rounded to `dtype`, in which it travels to the others.
    """
    del dtype
    return jnp.take(table, rows, axis=0).astype(exact_dtype(table.dtype))


def _lookup_forward(
    table: jax.Array, rows: jax.Array, dtype: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return lookup(table, rows, dtype), (table, rows)


def _lookup_backward(
    dtype: DTypeLike, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, np.ndarray]:
    table, rows = saved
    sums = jnp.zeros(table.shape, gradient.dtype).at[rows].add(gradient)
    return sums.astype(dtype).astype(table.dtype), np.zeros(rows.shape, jax.dtypes.float0)


lookup.defvjp(_lookup_forward, _lookup_backward)


# By hand, so that the backward pass needs one saved array, and nothing that is slow to find again.
@jax.custom_vjp
@jax.named_scope("gelu")
def gelu(x: jax.Array) -> jax.Array:
    """Product of x and the normal distribution function of x (the original until 2019-02-07)."""
    exact = x.astype(exact_dtype(x.dtype))
    return (exact * _normal_distribution(exact, x.dtype)).astype(x.dtype)


@jax.named_scope("gelu")
def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    exact = x.astype(exact_dtype(x.dtype))
    below = _normal_distribution(exact, x.dtype)
    density = jnp.exp(-0.5 * jnp.square(exact)) / math.sqrt(2 * math.pi)
    slope = (below + exact * density).astype(x.dtype)
    result = (exact * below).astype(x.dtype)
    # Behind a barrier, lest the products that read them compute them once more.
    return jax.lax.optimization_barrier((result, slope))


@jax.named_scope("gelu")
def _gelu_backward(slope: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient * slope,)


gelu.defvjp(_gelu_forward, _gelu_backward)

# (1 + tanh(x q(x^2))) / 2 is the normal distribution function within 3.1e-6 / max(|x|, 1): a
# tenth of what bfloat16 rounds away of a result of 1. Coefficients of q, the lowest first; minimax
# fit to atanh(erf(x / sqrt(2))) / x. On TPUs erf takes the vector unit four times as long.
_TANH_COEFFICIENTS = (0.797827581, 0.0364699224, -1.25472147e-4, -3.04678608e-5, 1.11266339e-6)


def _normal_distribution(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Of x: by erf, or good enough to be rounded to bfloat16 if that is `dtype`."""
    if dtype != jnp.bfloat16:
        return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))
    square = jnp.square(x)
    slope: jax.Array | float = _TANH_COEFFICIENTS[-1]
    for coefficient in reversed(_TANH_COEFFICIENTS[:-1]):
        slope = slope * square + coefficient
    return 0.5 + 0.5 * jnp.tanh(x * slope)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function behind `BertConfig.activation`."""
    if name == "gelu":
        return gelu
    if name == "gelu_tanh":
        return functools.partial(jax.nn.gelu, approximate=True)
    raise ConfigError(f"model.activation {name!r} is not known: use 'gelu' or 'gelu_tanh'")


class Dense(nnx.Module):
    """Affine map of the last axis."""

    def __init__(self, inputs: int, outputs: int, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(truncated_normal(rngs, (inputs, outputs), config.initializer_range))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., inputs] to [..., outputs]."""
        return dense(x, self.kernel[...], self.bias[...], x.dtype)
