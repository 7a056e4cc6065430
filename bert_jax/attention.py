# SPDX-License-Identifier: Apache-2.0
"""Masked self-attention, one function behind which other implementations can be put.

Source: `attention_layer` in `modeling.py` of google-research/bert.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bert_jax.dropout import draw_kept
from bert_jax.layers import exact_dtype

# Added to the scores of padding. exp(-10000) is zero even in float64, so padding gets no weight at
# all; in a row that is nothing but padding it shifts all scores alike and changes nothing.
MASKED_SCORE = -10000.0


@jax.custom_vjp
def weighted_sums(
    query: jax.Array, key: jax.Array, value: jax.Array, penalty: jax.Array, kept: jax.Array | None
) -> jax.Array:
    """Sums of `value` over the keys, weighted by softmax(key query / sqrt(head_dim) + penalty).

    Differentiated by hand: of [batch, heads, length, length] the probabilities alone are saved,
    rounded, with a minus sign where they were dropped; nothing in float32, and no mask. As in
    `dense`, the backward products take operands in the compute dtype.

    Args:
        query: [batch, length, heads, head_dim] in the compute dtype.
        key: as `query`.
        value: as `query`.
        penalty: [batch, length], added to all scores of a key; float32 at least, the type in which
            scores and softmax are.
        kept: bool [batch, heads, length of keys, length of queries]; false drops a probability,
            those kept are not scaled up; None keeps all.

    Returns:
        [batch, length, heads, head_dim] in the type of `penalty`.
    """
    return _weighted_sums_forward(query, key, value, penalty, kept)[0]


def _weighted_sums_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, penalty: jax.Array, kept: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    # Keys before queries: as TPUs sum along this axis, and dropout's words come apart (`dropout`).
    scores = _product("bknd,bqnd->bnkq", key, query, penalty.dtype)
    scores = scores / math.sqrt(query.shape[-1]) + penalty[:, None, :, None]
    with jax.named_scope("softmax"):
        signed = jax.nn.softmax(scores, axis=-2).astype(value.dtype)
        if kept is not None:
            signed = jnp.where(kept, signed, -signed)
        probabilities = jnp.maximum(signed, 0)
    sums = _product("bnkq,bknd->bqnd", probabilities, value, penalty.dtype)
    return sums, (query, key, value, signed)


def _weighted_sums_backward(
    saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    query, key, value, signed = saved
    exact, rounded = gradient.dtype, value.dtype
    gradient = gradient.astype(rounded)
    to_value = _product("bnkq,bqnd->bknd", jnp.maximum(signed, 0), gradient, exact)
    # Rounded, since it is written down: its mean is needed before anything is made of it.
    to_kept = _product("bknd,bqnd->bnkq", value, gradient, exact).astype(rounded).astype(exact)
    with jax.named_scope("softmax"):
        signed = signed.astype(exact)
        weighted = jnp.maximum(signed, 0) * to_kept
        to_scores = weighted - jnp.abs(signed) * jnp.sum(weighted, axis=-2, keepdims=True)
        to_scores /= math.sqrt(query.shape[-1])
    to_query, to_key = jax.lax.platform_dependent(
        to_scores, query, key, tpu=_to_query_and_key(exact), default=_to_query_and_key(rounded)
    )
    gradients = (each.astype(rounded) for each in (to_query, to_key, to_value))
    return *gradients, None, None


def _to_query_and_key(operands: DTypeLike) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Backward products, with the gradient of scores in a type.

    TPUs round it themselves: told to, they write it down instead of computing it in both products.
    """

    def products(
        to_scores: jax.Array, query: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        exact, to_scores = to_scores.dtype, to_scores.astype(operands)
        to_query = _product("bnkq,bknd->bqnd", to_scores, key, exact)
        return to_query, _product("bnkq,bqnd->bknd", to_scores, query, exact)

    return products


weighted_sums.defvjp(_weighted_sums_forward, _weighted_sums_backward)


def _product(axes: str, x: jax.Array, y: jax.Array, dtype: DTypeLike) -> jax.Array:
    return jnp.einsum(axes, x, y, preferred_element_type=dtype)


@jax.named_scope("attention")
def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    input_mask: jax.Array,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """softmax(query key' / sqrt(head_dim) + mask) value, with dropout on the probabilities.

    Args:
        query: [batch, length, heads, head_dim] in the compute dtype.
        key: as `query`.
        value: as `query`.
        input_mask: [batch, length], not 0 on tokens and 0 on padding.
        dropout_rate: probability of dropping an attention probability.
        dropout_key: None for no dropout.

    Returns:
        [batch, length, heads, head_dim] in the type of `query`. The softmax is in float32 at least.
    """
    exact = exact_dtype(query.dtype)
    penalty = jnp.where(input_mask != 0, 0.0, MASKED_SCORE).astype(exact)
    batch, length, heads, _ = query.shape
    kept, scale = draw_kept((batch, heads, length, length), dropout_rate, dropout_key)
    return (weighted_sums(query, key, value, penalty, kept) * scale).astype(query.dtype)
