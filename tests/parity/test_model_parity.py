# SPDX-License-Identifier: Apache-2.0
"""Our model against `BertForPreTraining` as it runs: outputs, gradients and training curves.

Prints the largest relative errors (`pytest -s`).
"""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from bert_jax.config import BertConfig, OptimizerConfig
from bert_jax.convert.mapping import flatten
from bert_jax.model import apply_pretraining, encode
from bert_jax.optimizer import make_optimizer
from bert_jax.tasks import pretraining_loss, pretraining_terms
from tests.parity.pytorch_bert import OriginalOptimizer, Reference, random_batch, random_params

TINY = BertConfig(
    vocab_size=131, hidden_size=48, num_layers=3, num_heads=4, mlp_size=80, max_positions=40
)
BASE = BertConfig.preset("base", vocab_size=30522)
SHAPES = {"tiny": (TINY, 6, 40), "base": (BASE, 2, 16)}
TOLERANCES = {"float64": 1e-9, "float32": 1e-5}


def loss_function(config):
    def loss(params, batch):
        logits = apply_pretraining(config, params, batch)
        return pretraining_loss(pretraining_terms(logits, batch)), logits

    return loss


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("shape", "activation"), [("tiny", "gelu"), ("tiny", "gelu_tanh"), ("base", "gelu")]
)
def test_outputs_and_every_gradient(shape, activation, dtype):
    config, batch_size, length = SHAPES[shape]
    config = dataclasses.replace(config, compute_dtype=dtype, activation=activation)
    random = np.random.default_rng(1)
    params = random_params(config, random, np.dtype(dtype))
    batch = random_batch(random, batch_size, length, config.vocab_size)
    expected, expected_gradients = Reference(config, params).outputs_and_gradients(batch)
    with jax.enable_x64(dtype == "float64"):
        inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
        encoder = jax.jit(encode, static_argnums=0, static_argnames="all_layers")
        encoded = encoder(config, params, *inputs, all_layers=True)
        step = jax.jit(jax.value_and_grad(loss_function(config), has_aux=True))
        (loss, logits), gradients = step(params, batch)
        gradients = flatten(jax.device_get(gradients))
        found = dict(layers=encoded.layers, pooled=encoded.pooled, loss=loss, **logits._asdict())
        errors = {name: relative_error(found[name], expected[name]) for name in expected}
    for path, gradient in flatten(expected_gradients).items():
        assert gradients[path].dtype == dtype
        errors[path] = relative_error(gradients[path], gradient)
    worst = max(errors, key=errors.get)
    print(f"\n{shape} {dtype} {activation}: worst of {len(errors)}: {worst} {errors[worst]:.2e}")
    assert len(errors) == 5 + 26
    assert errors[worst] < TOLERANCES[dtype], errors


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_fifty_steps_of_training(dtype):
    config = dataclasses.replace(TINY, compute_dtype=dtype)
    settings = OptimizerConfig(learning_rate=3e-4, warmup_steps=10)
    random = np.random.default_rng(2)
    params = random_params(config, random, np.dtype(dtype))
    batches = [random_batch(random, 4, 24, config.vocab_size) for _ in range(50)]
    expected, reference = pytorch_curve(config, params, batches, settings)
    with jax.enable_x64(dtype == "float64"):
        found, params = our_curve(config, params, batches, settings)
    curve = float(np.max(np.abs(found / expected - 1)))
    drift = {path: relative_error(flatten(params)[path], array) for path, array in reference}
    worst = max(drift, key=drift.get)
    print(f"\n50 steps {dtype}: loss {found[0]:.4f} to {found[-1]:.4f}, ", end="")
    print(f"curve {curve:.2e}, parameters {worst} {drift[worst]:.2e}")
    assert np.ptp(found) > 0.1
    assert curve < TOLERANCES[dtype]
    assert drift[worst] < 10 * TOLERANCES[dtype]


def pytorch_curve(config, params, batches, settings):
    """Losses of PyTorch with the original update rule, and the parameters after them."""
    reference = Reference(config, params)
    optimizer = OriginalOptimizer(
        reference.model, settings.learning_rate, 60, settings.warmup_steps
    )
    losses = []
    for batch in batches:
        outputs, _ = reference.outputs_and_gradients(batch)
        losses.append(float(outputs["loss"]))
        optimizer.step()
    return np.array(losses), flatten(reference.params()).items()


def our_curve(config, params, batches, settings):
    """The same with our model and optimiser."""
    optimizer = make_optimizer(settings, 60)
    gradient = jax.value_and_grad(loss_function(config), has_aux=True)

    @jax.jit
    def step(params, state, batch):
        (loss, _), gradients = gradient(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for batch in batches:
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return np.array(losses), jax.device_get(params)
