# SPDX-License-Identifier: Apache-2.0
"""Masked attention against a loop over its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import attention
from bert_jax.attention import attend


def random_inputs(batch=3, length=7, heads=2, head_dim=5, dtype=np.float64):
    random = np.random.default_rng(0)
    return [random.normal(size=(batch, length, heads, head_dim)).astype(dtype) for _ in range(3)]


def literal(query, key, value, lengths):
    """Attention row by row over the first `lengths[b]` tokens only."""
    context = np.zeros_like(query)
    for b, length in enumerate(lengths):
        for head in range(query.shape[2]):
            for position in range(query.shape[1]):
                scores = key[b, :length, head] @ query[b, position, head]
                weights = np.exp(scores / np.sqrt(query.shape[3]))
                context[b, position, head] = weights / weights.sum() @ value[b, :length, head]
    return context


def mask(lengths, length=7):
    return (np.arange(length) < np.asarray(lengths)[:, None]).astype(np.int32)


def test_attention_sees_tokens_and_no_padding():
    inputs = random_inputs()
    with jax.enable_x64(True):
        found = attend(*inputs, mask([7, 4, 1]))
    np.testing.assert_allclose(found, literal(*inputs, [7, 4, 1]), rtol=1e-12)


def test_row_of_nothing_but_padding_attends_everywhere():
    inputs = random_inputs()
    with jax.enable_x64(True):
        found = attend(*inputs, mask([0, 0, 0]))
    np.testing.assert_allclose(found, literal(*inputs, [7, 7, 7]), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_row_of_nothing_but_padding_gives_numbers(dtype):
    inputs = random_inputs(dtype=dtype)
    value, back = jax.vjp(lambda *args: attend(*args, mask([7, 0, 3])), *inputs)
    assert value.dtype == dtype
    for array in (value, *back(value)):
        assert np.isfinite(np.asarray(array, np.float32)).all()


def test_large_scores_do_not_overflow():
    query, key, value = random_inputs(dtype=np.float32)
    assert np.isfinite(attend(1e4 * query, key, value, mask([7, 4, 1]))).all()


def test_softmax_of_bfloat16_is_in_float32(monkeypatch):
    seen = []
    softmax = jax.nn.softmax
    monkeypatch.setattr(
        attention.jax.nn, "softmax", lambda x, axis: seen.append(x.dtype) or softmax(x, axis)
    )
    attend(*random_inputs(dtype=jnp.bfloat16), mask([7, 4, 1]))
    assert seen == [np.float32]


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_softmax_and_its_gradient_are_those_of_the_plain_formula(rate):
    random = np.random.default_rng(0)
    scores, pull = random.normal(size=(2, 3, 2, 7, 7))
    kept = random.random(scores.shape) >= rate if rate else None

    def plain(scores):
        powers = jnp.exp(scores)
        probabilities = powers / powers.sum(-2, keepdims=True)
        return probabilities if kept is None else jnp.where(kept, probabilities, 0)

    with jax.enable_x64(True):
        expected, expected_back = jax.vjp(plain, scores)
        found, back = jax.vjp(lambda scores: attention.softmax(scores, kept, np.float64), scores)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(back(pull)[0], expected_back(pull)[0], rtol=0, atol=1e-14)


def test_no_mask_is_saved_and_nothing_in_float32():
    inputs = random_inputs(length=9, dtype=jnp.bfloat16)
    key = jax.random.key(0)
    _, back = jax.vjp(lambda *args: attend(*args, mask([9, 4, 1], 9), 0.25, key), *inputs)
    of_pairs = [leaf.dtype for leaf in jax.tree.leaves(back) if leaf.shape[-2:] == (9, 9)]
    assert set(of_pairs) == {np.dtype(jnp.bfloat16)}


def test_dropout_hits_probabilities_and_keeps_their_mean():
    query, key, value = (x.astype(np.float32) for x in random_inputs())
    draw = jax.jit(lambda key_: attend(query, key, value, mask([7, 4, 1]), 0.25, key_))
    draws = np.stack([draw(key_) for key_ in jax.random.split(jax.random.key(0), 2000)])
    expected = attend(query, key, value, mask([7, 4, 1]))
    error = np.abs(draws.mean(0) - expected) / (draws.std(0) / np.sqrt(2000) + 1e-6)
    assert error.max() < 5
    # One token alone has probability 1: it is kept and scaled, or dropped.
    only = draws[:, 2] / value[2, 0]
    assert set(np.unique(np.round(only, 4))) == {0.0, np.float32(np.round(4 / 3, 4))}
