# SPDX-License-Identifier: Apache-2.0
"""LayerNorm, differentiated by hand; statistics and sums in at least float32.

Source: `layer_norm` in `modeling.py` of google-research/bert; arXiv 1607.06450.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from bert_jax.config import BertConfig
from bert_jax.layers import exact_dtype


# By hand: on TPUs the four sums of the backward pass then happen in one go.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@jax.named_scope("layer_norm")
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """LayerNorm over the last axis, in at least float32, returned in the type of `x`.

    The original's epsilon 1e-12 is nowhere in its source: it is the default of
    `tf.contrib.layers.layer_norm`.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


@jax.named_scope("layer_norm")
def _layer_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    exact = x.astype(exact_dtype(x.dtype))
    mean = exact.mean(axis=-1, keepdims=True)
    variance = _variance(exact, mean, x.dtype)
    factor = jax.lax.rsqrt(variance + epsilon)
    broadcast = (1,) * (x.ndim - 1) + scale.shape
    scaled = (exact - mean) * factor * scale.reshape(broadcast)
    return (scaled + bias.reshape(broadcast)).astype(x.dtype), (x, scale, mean, factor)


def _variance(x: jax.Array, mean: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Along the last axis, of values that came in `dtype`.

    Both moments of bfloat16 values are summed in one pass, which TPUs take together with the
    product before it. That costs some 2^-22 of their mean square; rounding them has cost a
    variance of about (2^-9 mean)^2 / 3, four times as much.
    """
    if dtype != jnp.bfloat16:
        return jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return jnp.maximum(jnp.square(x).mean(axis=-1, keepdims=True) - jnp.square(mean), 0)


@jax.named_scope("layer_norm")
def _layer_norm_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, ...]:
    del epsilon
    x, scale, mean, factor = saved
    rows = tuple(range(x.ndim - 1))
    normal = (x.astype(mean.dtype) - mean) * factor
    gradient = gradient.astype(mean.dtype)
    scaled = gradient * scale.reshape((1,) * len(rows) + scale.shape)
    # What moves all of x alike, or scales it about its mean, leaves the result as it is.
    moved = scaled.mean(axis=-1, keepdims=True)
    widened = (scaled * normal).mean(axis=-1, keepdims=True)
    x_gradient = (scaled - moved - normal * widened) * factor
    sums = ((gradient * normal).sum(rows), gradient.sum(rows))
    return x_gradient.astype(x.dtype), *(each.astype(scale.dtype) for each in sums)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nnx.Module):
    """LayerNorm over the hidden axis."""

    def __init__(self, config: BertConfig) -> None:
        self.scale = nnx.Param(jnp.ones(config.hidden_size, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(config.hidden_size, jnp.float32))
        self.epsilon = config.layer_norm_epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., hidden]."""
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)
