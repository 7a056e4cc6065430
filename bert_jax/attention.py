# SPDX-License-Identifier: Apache-2.0
"""Masked self-attention, one function behind which other implementations can be put.

Source: `attention_layer` in `modeling.py` of google-research/bert.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bert_jax.dropout import draw
from bert_jax.layers import exact_dtype

# Added to the scores of padding. exp(-10000) is zero even in float64, so padding gets no weight at
# all; in a row that is nothing but padding it shifts all scores alike and changes nothing.
MASKED_SCORE = -10000.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def softmax(scores: jax.Array, kept: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """Softmax over the last axis but one in the type of `scores`, rounded to `dtype`.

    Differentiated by hand: of [batch, heads, length, length] the results are saved, with a minus
    sign where they were dropped; nothing in float32, and no mask.

    Args:
        scores: [..., length, length].
        kept: as `scores`, false where the result is to be 0; None keeps all.
        dtype: of the result.
    """
    return _softmax_forward(scores, kept, dtype)[0]


@jax.named_scope("softmax")
def _softmax_forward(
    scores: jax.Array, kept: jax.Array | None, dtype: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array]]:
    probabilities = jax.nn.softmax(scores, axis=-2).astype(dtype)
    if kept is None:
        return probabilities, (probabilities,)
    signed = jnp.where(kept, probabilities, -probabilities)
    return jnp.maximum(signed, 0), (signed,)


@jax.named_scope("softmax")
def _softmax_backward(
    dtype: DTypeLike, saved: tuple[jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None]:
    exact = exact_dtype(dtype)
    signed, gradient = saved[0].astype(exact), gradient.astype(exact)
    weighted = jnp.maximum(signed, 0) * gradient
    return weighted - jnp.abs(signed) * jnp.sum(weighted, axis=-2, keepdims=True), None


softmax.defvjp(_softmax_forward, _softmax_backward)


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
    # Keys before queries: as TPUs sum along this axis, and dropout's words come apart (`dropout`).
    scores = jnp.einsum("bknd,bqnd->bnkq", key, query, preferred_element_type=exact)
    penalty = jnp.where(input_mask != 0, 0.0, MASKED_SCORE).astype(exact)
    scores = scores / math.sqrt(query.shape[-1]) + penalty[:, None, :, None]
    kept, scale = draw(scores.shape, dropout_rate, dropout_key)
    probabilities = softmax(scores, kept, query.dtype)
    context = jnp.einsum("bnkq,bknd->bqnd", probabilities, value, preferred_element_type=exact)
    return (context * scale).astype(query.dtype)
