# SPDX-License-Identifier: Apache-2.0
"""Masked attention against a loop over its definition."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import attention, dropout
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
def test_attention_and_its_gradients_are_those_of_the_plain_formula(rate):
    inputs, seen = random_inputs(), mask([7, 4, 1])
    pull = np.random.default_rng(1).normal(size=inputs[0].shape)
    key = jax.random.key(0)

    def plain(query, key_, value):
        scores = jnp.einsum("bknd,bqnd->bnkq", key_, query) / np.sqrt(query.shape[-1])
        weights = jnp.exp(scores) * seen[:, None, :, None]
        weights /= weights.sum(-2, keepdims=True)
        if rate:
            kept, scale = dropout.draw_kept(weights.shape, rate, key)
            weights = jnp.where(kept, weights * scale, 0)
        return jnp.einsum("bnkq,bknd->bqnd", weights, value)

    with jax.enable_x64(True):
        expected, expected_back = jax.vjp(plain, *inputs)
        found, back = jax.vjp(lambda *args: attend(*args, seen, rate, key), *inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for gradient, other in zip(back(pull), expected_back(pull), strict=True):
            np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_of_all_pairs_of_tokens_only_rounded_probabilities_are_saved(rate):
    inputs = random_inputs(length=9, dtype=jnp.bfloat16)
    key = jax.random.key(0)
    _, back = jax.vjp(lambda *args: attend(*args, mask([9, 4, 1], 9), rate, key), *inputs)
    saved = [leaf.dtype for leaf in jax.tree.leaves(back) if leaf.shape[-2:] == (9, 9)]
    assert saved == [np.dtype(jnp.bfloat16)]


def test_no_product_has_operands_of_two_types():
    inputs = random_inputs(dtype=jnp.bfloat16)

    def total(*args):
        return jnp.sum(attend(*args, mask([7, 4, 1]), 0.25, jax.random.key(0)), dtype=np.float32)

    text = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(*inputs).as_text()
    operands = re.findall(r"dot_general .*: \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\)", text)
    assert len(operands) == 6 and set(operands) == {("bf16", "bf16")}


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
