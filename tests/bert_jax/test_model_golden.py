# SPDX-License-Identifier: Apache-2.0
"""The model against what PyTorch's BERT computes, in float64, and proof that a slip would show.

`tests/goldens/make_model.py` made the file. Each mutant below is a mistake that a BERT in the wild
has made or could make; every one of them must move the outputs far beyond the tolerance.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax import attention, encoder, heads, layer_norm, layers, model, tasks
from bert_jax.convert.mapping import flatten, unflatten
from tests.goldens.model_config import CONFIG

GOLDEN = Path(__file__).parents[1] / "goldens" / "model.npz"
TOLERANCE = 1e-9  # relative, in float64


@functools.cache
def golden(group):
    """One group of the file: params, batch, outputs or gradients."""
    with np.load(GOLDEN) as arrays:
        names = [name for name in arrays if name.startswith(f"{group}/")]
        return {name.removeprefix(f"{group}/"): arrays[name] for name in names}


def encoder_outputs(config, params, batch):
    """What the encoder computes for the golden batch, under the names of the file."""
    inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    encoded = model.encode(config, params, *inputs, all_layers=True)
    return {"layers": encoded.layers, "pooled": encoded.pooled}


def final_outputs(config, params, batch):
    """Logits and loss for the golden batch, under the names of the file."""
    logits = model.apply_pretraining(config, params, batch)
    loss = tasks.pretraining_loss(tasks.pretraining_terms(logits, batch))
    return {"mlm": logits.mlm, "nsp": logits.nsp, "loss": loss}


def all_outputs(config, params, batch):
    """Everything the file has."""
    return encoder_outputs(config, params, batch) | final_outputs(config, params, batch)


def relative_error(value, expected):
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(np.asarray(value) - expected) / np.linalg.norm(expected))


def output_errors(compute, config=CONFIG, change=lambda path, array: array):
    """Relative error of what `compute` returns, in float64, with parameters as `change` makes."""
    params = unflatten({p: change(p, a) for p, a in golden("params").items()})
    # A new function object, lest a mutant get the program that was compiled without it.
    program = jax.jit(lambda params, batch: compute(config, params, batch))
    with jax.enable_x64(True):
        found = program(params, golden("batch"))
        assert all(value.dtype == np.float64 for value in found.values())
        return {name: relative_error(found[name], golden("outputs")[name]) for name in found}


def gradients(config, params, batch):
    """Gradient of the pre-training loss as {path: array}."""

    def loss(params):
        logits = model.apply_pretraining(config, params, batch)
        return tasks.pretraining_loss(tasks.pretraining_terms(logits, batch))

    return flatten(jax.device_get(jax.jit(jax.grad(loss))(params)))


def test_outputs_in_float64():
    errors = output_errors(all_outputs)
    assert len(errors) == 5
    assert max(errors.values()) < TOLERANCE, errors


def test_gradients_in_float64():
    with jax.enable_x64(True):
        found = gradients(CONFIG, unflatten(golden("params")), golden("batch"))
    expected = golden("gradients")
    assert set(found) == set(expected)
    errors = {path: relative_error(found[path], expected[path]) for path in expected}
    assert max(errors.values()) < TOLERANCE, errors


def test_outputs_and_gradients_in_float32():
    config = dataclasses.replace(CONFIG, compute_dtype="float32")
    params = jax.tree.map(np.float32, unflatten(golden("params")))
    found = jax.jit(all_outputs, static_argnums=0)(config, params, golden("batch"))
    errors = {name: relative_error(found[name], golden("outputs")[name]) for name in found}
    found = gradients(config, params, golden("batch"))
    errors |= {path: relative_error(found[path], golden("gradients")[path]) for path in found}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize(
    "change",
    [{"vocab_multiple": 128}, {"unroll": 2}, {"remat": True}],
    ids=lambda change: next(iter(change)),
)
def test_layout_leaves_outputs_alone(change):
    config = dataclasses.replace(CONFIG, **change)
    padding = config.padded_vocab_size - config.vocab_size

    def pad(path, array):
        widths = [(0, 0)] * array.ndim
        if path in ("embeddings/word", "mlm/bias"):
            widths[0] = (0, padding)
        return np.pad(array, widths)

    errors = output_errors(all_outputs, config, pad)
    assert max(errors.values()) < TOLERANCE, errors


def test_padded_vocabulary_gets_no_gradient():
    config = dataclasses.replace(CONFIG, vocab_multiple=128)
    flat = dict(golden("params"))
    flat["embeddings/word"] = np.pad(flat["embeddings/word"], ((0, 27), (0, 0)))
    flat["mlm/bias"] = np.pad(flat["mlm/bias"], (0, 27))
    with jax.enable_x64(True):
        found = gradients(config, unflatten(flat), golden("batch"))
    for path in ("embeddings/word", "mlm/bias"):
        assert relative_error(found[path][:101], golden("gradients")[path]) < TOLERANCE
        assert not found[path][101:].any()


def config_mutants():
    """Names and config changes."""
    return {
        "LayerNorm epsilon 1e-6": {"layer_norm_epsilon": 1e-6},
        "LayerNorm epsilon 1e-5": {"layer_norm_epsilon": 1e-5},
        "tanh GELU": {"activation": "gelu_tanh"},
    }


def parameter_mutants():
    """Names and what becomes of the parameters."""

    def without(which):
        return lambda path, array: np.zeros_like(array) if path == which else array

    def swapped_segments(path, array):
        return array[::-1] if path == "embeddings/segment" else array

    def value_before_key(path, array):
        return array[:, [0, 2, 1]] if path == "encoder/attention/qkv/kernel" else array

    return {
        "no position embedding": without("embeddings/position"),
        "no segment embedding": without("embeddings/segment"),
        "no output bias": without("mlm/bias"),
        "segments swapped": swapped_segments,
        "key and value swapped": value_before_key,
    }


def code_mutants():
    """Names and (owner, attribute, mutant)."""
    attend, norm, gather = attention.attend, layer_norm.LayerNorm.__call__, heads.gather_positions
    activation, cross_entropy = layers.activation, tasks.cross_entropy

    def normalised_first(layer, exchange, input_mask, hidden, params, key):
        attention = nnx.merge(nnx.graphdef(layer.attention), params["attention"])
        context = attention.context(attention.norm(hidden), input_mask, None)
        hidden = hidden + attention.output(context)
        return nnx.merge(nnx.graphdef(layer.mlp), params["mlp"])(hidden, None)

    def not_normalised(self, hidden, context, key):
        return hidden + self.output(context)

    def unbiased_norm(self, x):
        centered = x - x.mean(-1, keepdims=True)
        variance = jnp.var(x, axis=-1, keepdims=True, ddof=1)
        scale, bias = (p[...].reshape((1,) * (x.ndim - 1) + (-1,)) for p in (self.scale, self.bias))
        return centered / jnp.sqrt(variance + self.epsilon) * scale + bias

    def unscaled(query, *rest):
        return attend(query * np.sqrt(query.shape[-1]), *rest)

    def unmasked(query, key, value, input_mask, *rest):
        return attend(query, key, value, jnp.ones_like(input_mask), *rest)

    def mean_pooled(self, hidden):
        return jnp.tanh(layers.Dense.__call__(self, hidden.mean(axis=1)))

    def head_without(part):
        def call(self, hidden, positions, table):
            x = heads.gather_positions(hidden, positions)
            x = x if part == "dense" else self.dense(x)
            x = x if part == "activation" else activation("gelu")(x)
            x = x if part == "norm" else norm(self.norm, x)
            return layers.dense(x, table, self.bias[...], x.dtype, True)

        return call

    def labels_reversed(logits, labels):
        return cross_entropy(logits, 1 - labels if logits.shape[-1] == 2 else labels)

    def plain_mean(terms):
        return sum(terms[name][0] / terms[name][1] for name in ("mlm_loss", "nsp_loss"))

    return {
        "pre-LayerNorm attention": (encoder, "_run_layer", normalised_first),
        "no LayerNorm after attention": (encoder.SelfAttention, "__call__", not_normalised),
        "unbiased variance": (layer_norm.LayerNorm, "__call__", unbiased_norm),
        "no embedding LayerNorm": (model.Embeddings, "__call__", embeddings_without_norm),
        "scores not scaled": (encoder, "attend", unscaled),
        "padding attended": (encoder, "attend", unmasked),
        "padding penalty of 10": (attention, "MASKED_SCORE", -10.0),
        "pooler without tanh": (heads.jnp, "tanh", lambda x: x),
        "pooler over all tokens": (heads.Pooler, "__call__", mean_pooled),
        "no dense layer in the head": (heads.MlmHead, "__call__", head_without("dense")),
        "no activation in the head": (heads.MlmHead, "__call__", head_without("activation")),
        "no LayerNorm in the head": (heads.MlmHead, "__call__", head_without("norm")),
        "positions off by one": (heads, "gather_positions", lambda h, p: gather(h, p + 1)),
        "labels reversed": (tasks, "cross_entropy", labels_reversed),
        "loss without its 1e-5": (tasks, "pretraining_loss", plain_mean),
    }


def embeddings_without_norm(self, input_ids, segment_ids, key):
    """`Embeddings.__call__` as it must not be."""
    position = self.position[: input_ids.shape[1]][None]
    return self.word[...][input_ids] + self.segment[...][segment_ids] + position


@pytest.mark.parametrize("name", config_mutants())
def test_config_mutant_shows(name):
    errors = output_errors(final_outputs, dataclasses.replace(CONFIG, **config_mutants()[name]))
    assert max(errors.values()) > 100 * TOLERANCE, errors


@pytest.mark.parametrize("name", parameter_mutants())
def test_parameter_mutant_shows(name):
    errors = output_errors(final_outputs, change=parameter_mutants()[name])
    assert max(errors.values()) > 100 * TOLERANCE, errors


@pytest.mark.parametrize("name", code_mutants())
def test_code_mutant_shows(name, monkeypatch):
    monkeypatch.setattr(*code_mutants()[name])
    errors = output_errors(final_outputs)
    assert max(errors.values()) > 100 * TOLERANCE, errors
