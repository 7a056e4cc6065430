# SPDX-License-Identifier: Apache-2.0
"""Masked self-attention, one function behind which other implementations can be put.

Source: `attention_layer` in `modeling.py` of google-research/bert.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bert_jax.dropout import dropout
from bert_jax.layers import exact_dtype

# Added to the scores of padding. exp(-10000) is zero even in float64, so padding gets no weight at
# all; in a row that is nothing but padding it shifts all scores alike and changes nothing.
MASKED_SCORE = -10000.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@jax.named_scope("softmax")
def softmax(scores: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Softmax over the last axis but one in the type of `scores`, rounded to `dtype`.

    Differentiated by hand: nothing of [batch, heads, length, length] is kept in float32.
    """
    return jax.nn.softmax(scores, axis=-2).astype(dtype)


def _softmax_forward(scores: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, tuple[jax.Array]]:
    probabilities = softmax(scores, dtype)
    return probabilities, (probabilities,)


@jax.named_scope("softmax")
def _softmax_backward(
    dtype: DTypeLike, saved: tuple[jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    exact = exact_dtype(dtype)
    probabilities, gradient = saved[0].astype(exact), gradient.astype(exact)
    mean = jnp.sum(probabilities * gradient, axis=-2, keepdims=True)
    return (probabilities * (gradient - mean),)


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
    probabilities = softmax(scores, query.dtype)
    probabilities = dropout(probabilities, dropout_rate, dropout_key)
    context = jnp.einsum("bnkq,bknd->bqnd", probabilities, value, preferred_element_type=exact)
    return context.astype(query.dtype)
