# SPDX-License-Identifier: Apache-2.0
"""One update: the same on any mesh and in any number of parts, and repeatable to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig, OptimizerConfig
from bert_jax.optimizer import make_optimizer
from bert_jax.train_step import init_state, make_eval_step, make_train_step
from data_pipeline.batch import BatchSpec, max_predictions, validate

CONFIG = BertConfig(
    vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, mlp_size=64, max_positions=32
)
NO_DROPOUT = dataclasses.replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0)
SPEC = BatchSpec(batch_size=16, length=32)


def make_batch(seed, spec=SPEC):
    """A valid batch with ragged lengths and numbers of predictions."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, spec.length + 1, spec.batch_size)
    input_mask = (np.arange(spec.length) < lengths[:, None]).astype(np.int32)
    slots = np.arange(max_predictions(spec.length))
    weights = (slots < random.integers(1, len(slots) + 1, (spec.batch_size, 1))).astype(np.float32)
    batch = {
        "input_ids": random.integers(0, 300, input_mask.shape, dtype=np.int32) * input_mask,
        "input_mask": input_mask,
        "segment_ids": (np.arange(spec.length) > 4).astype(np.int32) * input_mask,
        "masked_positions": np.broadcast_to(slots + 1, weights.shape).astype(np.int32)
        * weights.astype(np.int32),
        "masked_ids": random.integers(0, 300, weights.shape, dtype=np.int32),
        "masked_weights": weights,
        "next_sentence_label": random.integers(0, 2, spec.batch_size, dtype=np.int32),
    }
    validate(batch, spec, 300)
    return batch


def optimizer():
    return make_optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=2), 100)


def run(config, steps=4, *, mesh=None, accumulation=1, seed=0):
    """Losses of some steps and the parameters after them."""
    mesh = mesh or partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
    update = optimizer()
    init = lambda: init_state(config, update, seed)  # noqa: E731
    shardings = partitioning.state_shardings(mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=shardings)()
    step = jax.jit(
        make_train_step(config, update, seed=seed, accumulation=accumulation),
        out_shardings=(shardings, None),
    )
    losses = []
    for number in range(steps):
        state, terms = step(state, partitioning.to_devices(mesh, make_batch(number)))
        losses.append([float(terms[name][0] / terms[name][1]) for name in sorted(terms)])
    assert int(state["step"]) == steps
    return np.array(losses), jax.device_get(state["params"])


def assert_close(tree, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), tree, other)


def assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.fixture(scope="module")
def reference():
    """One device, no accumulation, with dropout."""
    return run(CONFIG)


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 2, 4), (2, 2, 2)])
def test_a_mesh_computes_what_one_device_computes(reference, axes):
    """Same losses, dropout included, to the rounding of sums in another order."""
    losses, params = run(CONFIG, mesh=partitioning.make_mesh(MeshConfig(*axes)))
    np.testing.assert_allclose(losses, reference[0], rtol=2e-5)
    assert_close(params, reference[1], 2e-5)


def test_a_step_repeats_to_the_bit(reference):
    losses, params = run(CONFIG)
    np.testing.assert_array_equal(losses, reference[0])
    assert_equal(params, reference[1])


def test_another_seed_is_another_run(reference):
    losses, _ = run(CONFIG, seed=1)
    assert not np.allclose(losses, reference[0], rtol=1e-4)


def test_dropout_changes_with_the_step():
    """Two steps on the same batch from the same parameters differ only by their dropout masks."""
    update = optimizer()
    state = init_state(CONFIG, update, 0)
    step = jax.jit(make_train_step(CONFIG, update))
    batch = make_batch(0)
    later = state | {"step": jnp.ones((), jnp.int32)}
    assert float(step(state, batch)[1]["mlm_loss"][0]) != float(
        step(later, batch)[1]["mlm_loss"][0]
    )


@pytest.mark.parametrize("parts", [2, 16])
def test_accumulation_makes_the_update_of_the_whole_batch(parts):
    """Rows have different numbers of predictions, so a mean of means would differ."""
    losses, params = run(NO_DROPOUT)
    parted_losses, parted = run(NO_DROPOUT, accumulation=parts)
    np.testing.assert_allclose(parted_losses, losses, rtol=1e-5)
    assert_close(parted, params, 1e-5)


def test_accumulation_on_a_mesh():
    losses, params = run(NO_DROPOUT)
    mesh = partitioning.make_mesh(MeshConfig(2, 2, 2))
    parted_losses, parted = run(NO_DROPOUT, accumulation=2, mesh=mesh)
    np.testing.assert_allclose(parted_losses, losses, rtol=2e-5)
    assert_close(parted, params, 2e-5)


def test_the_first_update_has_rate_zero():
    """The original's warm-up starts at rate 0, so step 0 changes nothing."""
    update = optimizer()
    state = init_state(CONFIG, update, 0)
    after, _ = jax.jit(make_train_step(CONFIG, update))(state, make_batch(0))
    assert_equal(after["params"], state["params"])


def test_training_learns_a_batch_by_heart():
    update = make_optimizer(OptimizerConfig(learning_rate=2e-3, warmup_steps=10), 200)
    state = init_state(NO_DROPOUT, update, 0)
    step = jax.jit(make_train_step(NO_DROPOUT, update))
    batch = make_batch(0)
    for _ in range(60):
        state, terms = step(state, batch)
    assert float(terms["mlm_accuracy"][0] / terms["mlm_accuracy"][1]) > 0.95
    assert float(terms["nsp_accuracy"][0] / terms["nsp_accuracy"][1]) == 1.0


def test_evaluation_ignores_rows_of_weight_zero():
    params = init_state(CONFIG, optimizer(), 0)["params"]
    evaluate = jax.jit(make_eval_step(CONFIG))
    batch = make_batch(0)
    half = {name: rows[:8] for name, rows in batch.items()}
    weights = np.repeat(np.float32([1, 0]), 8)
    padded = evaluate(params, batch, weights)
    exact = evaluate(params, half, np.ones(8, np.float32))
    for name, pair in exact.items():
        np.testing.assert_allclose(padded[name], pair, rtol=1e-6)
