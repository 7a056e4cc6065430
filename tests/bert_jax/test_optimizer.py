# SPDX-License-Identifier: Apache-2.0
"""The optimisers against literal NumPy versions of the code they come from."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.config import BertConfig, OptimizerConfig
from bert_jax.model import init_params
from bert_jax.optimizer import decay_mask, learning_rate_schedule, make_optimizer
from data_pipeline.errors import ConfigError

MODEL = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    mlp_size=12,
    max_positions=10,
    vocab_multiple=1,
)
LAYER = "bert/encoder/layer_{}/"
ORIGINAL_NAMES = {
    "embeddings/word": "bert/embeddings/word_embeddings",
    "embeddings/position": "bert/embeddings/position_embeddings",
    "embeddings/segment": "bert/embeddings/token_type_embeddings",
    "embeddings/norm/scale": "bert/embeddings/LayerNorm/gamma",
    "embeddings/norm/bias": "bert/embeddings/LayerNorm/beta",
    "encoder/attention/qkv/kernel": LAYER + "attention/self/query_key_value/kernel",
    "encoder/attention/qkv/bias": LAYER + "attention/self/query_key_value/bias",
    "encoder/attention/output/kernel": LAYER + "attention/output/dense/kernel",
    "encoder/attention/output/bias": LAYER + "attention/output/dense/bias",
    "encoder/attention/norm/scale": LAYER + "attention/output/LayerNorm/gamma",
    "encoder/attention/norm/bias": LAYER + "attention/output/LayerNorm/beta",
    "encoder/mlp/up/kernel": LAYER + "intermediate/dense/kernel",
    "encoder/mlp/up/bias": LAYER + "intermediate/dense/bias",
    "encoder/mlp/down/kernel": LAYER + "output/dense/kernel",
    "encoder/mlp/down/bias": LAYER + "output/dense/bias",
    "encoder/mlp/norm/scale": LAYER + "output/LayerNorm/gamma",
    "encoder/mlp/norm/bias": LAYER + "output/LayerNorm/beta",
    "pooler/kernel": "bert/pooler/dense/kernel",
    "pooler/bias": "bert/pooler/dense/bias",
    "mlm/dense/kernel": "cls/predictions/transform/dense/kernel",
    "mlm/dense/bias": "cls/predictions/transform/dense/bias",
    "mlm/norm/scale": "cls/predictions/transform/LayerNorm/gamma",
    "mlm/norm/bias": "cls/predictions/transform/LayerNorm/beta",
    "mlm/bias": "cls/predictions/output_bias",
    "nsp/kernel": "cls/seq_relationship/output_weights",
    "nsp/bias": "cls/seq_relationship/output_bias",
}


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


def taken_apart(tree):
    """Our tree as the original's variables: one tensor a layer, and one each for q, k and v."""
    tensors = {}
    for path, array in flat(tree).items():
        name = ORIGINAL_NAMES[path]
        for layer in range(MODEL.num_layers if "{}" in name else 1):
            tensor = array[layer] if "{}" in name else array
            if "query_key_value" not in name:
                tensors[name.format(layer)] = tensor
                continue
            for part, label in enumerate(("query", "key", "value")):
                part_name = name.format(layer).replace("query_key_value", label)
                tensors[part_name] = tensor[part]
    return tensors


class Original:
    """`create_optimizer` and `AdamWeightDecayOptimizer` of `optimization.py`, line by line."""

    def __init__(self, params, init_lr, num_train_steps, num_warmup_steps):
        self.params = {name: array.astype(np.float64) for name, array in params.items()}
        self.m = {name: np.zeros(array.shape) for name, array in params.items()}
        self.v = {name: np.zeros(array.shape) for name, array in params.items()}
        self.init_lr, self.global_step = init_lr, 0
        self.num_train_steps, self.num_warmup_steps = num_train_steps, num_warmup_steps

    def learning_rate(self):
        # tf.train.polynomial_decay(end_learning_rate=0.0, power=1.0, cycle=False)
        step = min(self.global_step, self.num_train_steps)
        learning_rate = self.init_lr * (1 - step / self.num_train_steps)
        if self.global_step < self.num_warmup_steps:
            learning_rate = self.init_lr * (self.global_step / self.num_warmup_steps)
        return learning_rate

    def do_use_weight_decay(self, param_name):
        return not any(re.search(r, param_name) for r in ["LayerNorm", "layer_norm", "bias"])

    def clipped(self, grads):
        # tf.clip_by_global_norm(clip_norm=1.0)
        norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values()))
        return {name: grad * min(1 / norm, 1.0) for name, grad in grads.items()}

    def adam_update(self, name, grad):
        self.m[name] = next_m = 0.9 * self.m[name] + (1.0 - 0.9) * grad
        self.v[name] = next_v = 0.999 * self.v[name] + (1.0 - 0.999) * grad**2
        return next_m / (np.sqrt(next_v) + 1e-6)

    def apply_gradients(self, grads):
        for name, grad in self.clipped(grads).items():
            update = self.adam_update(name, grad)
            if self.do_use_weight_decay(name):
                update = update + 0.01 * self.params[name]
            self.params[name] = self.params[name] - self.learning_rate() * update
        self.global_step += 1


class AdamW(Original):
    """Adam with bias correction, arXiv 1711.05101."""

    def adam_update(self, name, grad):
        super().adam_update(name, grad)
        count = self.global_step + 1
        m, v = self.m[name] / (1 - 0.9**count), self.v[name] / (1 - 0.999**count)
        return m / (np.sqrt(v) + 1e-6)


class Lamb(AdamW):
    """Algorithm 2 of arXiv 1904.00962; as in the authors' code, none of it for norms and biases."""

    def apply_gradients(self, grads):
        for name, grad in self.clipped(grads).items():
            update, ratio = self.adam_update(name, grad), 1.0
            if self.do_use_weight_decay(name):
                update = update + 0.01 * self.params[name]
                norms = np.linalg.norm(self.params[name]), np.linalg.norm(update)
                ratio = norms[0] / norms[1] if all(norms) else 1.0
            self.params[name] = self.params[name] - self.learning_rate() * ratio * update
        self.global_step += 1


def gradients_like(params, step):
    """Noise that differs in size between tensors and steps, so that clipping comes and goes."""
    random = np.random.default_rng(step)
    size = 10.0 ** random.uniform(-4, 0)
    return jax.tree.map(lambda p: size * random.normal(size=p.shape).astype(p.dtype), params)


def largest_difference(config, reference, steps, dtype):
    """Largest difference of any tensor, relative to its norm, after `steps` updates."""
    params = init_params(MODEL, jax.random.key(0))
    params = jax.tree.map(lambda p: np.asarray(p, dtype) + dtype(0.01), params)
    expected = reference(taken_apart(params), config.learning_rate, 80, config.warmup_steps)
    optimizer = make_optimizer(config, 80)

    @jax.jit
    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step in range(steps):
        gradients = gradients_like(params, step)
        expected.apply_gradients(taken_apart(gradients))
        params, state = update(params, state, gradients)
    found = taken_apart(params)
    assert {array.dtype for array in found.values()} == {np.dtype(dtype)}
    assert set(found) == set(expected.params)
    return max(
        np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        for name, array in expected.params.items()
    )


NAMED = {"bert_adam": Original, "adamw": AdamW, "lamb": Lamb}


@pytest.mark.parametrize("name", NAMED)
def test_hundred_steps_in_float64(name):
    # 100 steps of a schedule of 80: the last ones must have a rate of 0.
    config = OptimizerConfig(name=name, learning_rate=1e-2, warmup_steps=10)
    with jax.enable_x64(True):
        assert largest_difference(config, NAMED[name], 100, np.float64) < 1e-12


@pytest.mark.parametrize(("name", "tolerance"), [("bert_adam", 1e-6), ("adamw", 1e-5)])
def test_hundred_steps_in_float32(name, tolerance):
    # AdamW loses digits where it subtracts 0.999^step from 1; the original has no such place.
    config = OptimizerConfig(name=name, learning_rate=1e-3, warmup_steps=10)
    assert largest_difference(config, NAMED[name], 100, np.float32) < tolerance


@pytest.mark.parametrize(("name", "size"), [("bert_adam", 0.1 / np.sqrt(0.001)), ("adamw", 1.0)])
def test_size_of_the_first_update(name, size):
    config = OptimizerConfig(name=name, learning_rate=0.5, warmup_steps=0, weight_decay=0.0)
    optimizer = make_optimizer(config, 10**6)
    params = {"kernel": jnp.zeros(3)}
    gradients = {"kernel": jnp.array([0.1, -0.2, 0.3])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"] / 0.5, [-size, size, -size], rtol=5e-4)


def test_decay_mask_by_name():
    with_decay = {"scale": False, "bias": False}
    dense = {"kernel": True, "bias": False}
    assert decay_mask(init_params(MODEL, jax.random.key(0))) == {
        "embeddings": {"word": True, "position": True, "segment": True, "norm": with_decay},
        "encoder": {
            "attention": {"qkv": dense, "output": dense, "norm": with_decay},
            "mlp": {"up": dense, "down": dense, "norm": with_decay},
        },
        "pooler": dense,
        "mlm": {"dense": dense, "norm": with_decay, "bias": False},
        "nsp": dense,
    }


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 1e-8),
        (9_999, 0.9999e-4),
        (10_000, 0.99e-4),
        (10_001, 0.989999e-4),
        (500_000, 0.5e-4),
        (999_999, 1e-10),
        (1_000_000, 0.0),
        (1_000_001, 0.0),
    ],
)
def test_schedule_of_the_paper(step, rate):
    schedule = learning_rate_schedule(OptimizerConfig(), 1_000_000)
    np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(step)), rate, rtol=1e-6)


def test_schedule_without_warmup_starts_at_the_full_rate():
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=0)
    np.testing.assert_allclose(learning_rate_schedule(config, 100)(0), 0.5)


def test_gradients_are_clipped_together():
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0, weight_decay=0.0), 100)
    params = {"kernel": jnp.zeros(4)}
    large, small = ({"kernel": jnp.full(4, value)} for value in (500.0, 0.5))
    # 500 is clipped to 0.5, whose global norm is 1 already.
    expected, _ = optimizer.update(small, optimizer.init(params), params)
    found, _ = optimizer.update(large, optimizer.init(params), params)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_padded_vocabulary_stays_zero(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, warmup_steps=0), 100)
    params = {"embeddings": {"word": jnp.ones((4, 3)).at[2:].set(0)}}
    gradients = {"embeddings": {"word": jnp.ones((4, 3)).at[2:].set(0)}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    assert not np.any(updates["embeddings"]["word"][2:])
    assert np.all(updates["embeddings"]["word"][:2])


def test_unknown_optimizer_is_refused():
    config = OptimizerConfig()
    object.__setattr__(config, "name", "sgd")
    with pytest.raises(ConfigError, match="optimizer.name 'sgd' is not known"):
        make_optimizer(config, 100)
