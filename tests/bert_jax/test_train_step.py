# SPDX-License-Identifier: Apache-2.0
"""One update: the same on any mesh and in any number of parts, and repeatable to the bit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import data_parallel, partitioning
from bert_jax.config import BertConfig, MeshConfig, OptimizerConfig
from bert_jax.data_parallel import DataParallel
from bert_jax.model import apply_pretraining
from bert_jax.optimizer import make_optimizer
from bert_jax.tasks import pretraining_loss, pretraining_terms
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


def optimizer(**changes):
    settings = {"learning_rate": 1e-3, "warmup_steps": 2} | changes
    return make_optimizer(OptimizerConfig(**settings), 100)


def sharded_step(config, update, mesh, *, shard_optimizer=False, seed=0, **options):
    """A state on the mesh, and the jitted step that keeps it there."""
    init = lambda: init_state(config, update, seed)  # noqa: E731
    abstract = partitioning.with_shardings(
        mesh, jax.eval_shape(init), shard_optimizer=shard_optimizer
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    devices = DataParallel.over(mesh, abstract["params"], jnp.float32)
    step = make_train_step(config, update, seed=seed, devices=devices, **options)
    state = jax.jit(init, out_shardings=shardings)()
    return state, jax.jit(step, out_shardings=(shardings, None))


def run(config, steps=4, *, mesh=None, update=None, **options):
    """Losses of some steps and the parameters after them."""
    mesh = mesh or partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
    state, step = sharded_step(config, update or optimizer(), mesh, **options)
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


RECIPES = {
    "data parallel": MeshConfig(data=8),
    "optimiser sharded": MeshConfig(data=8, shard_optimizer=True),
    "fully sharded": MeshConfig(data=1, fsdp=8),
    "tensor parallel": MeshConfig(data=2, tensor=4),
    "all axes": MeshConfig(data=2, fsdp=2, tensor=2),
    "all axes, optimiser sharded": MeshConfig(data=2, fsdp=2, tensor=2, shard_optimizer=True),
    "two slices": MeshConfig(data=2, fsdp=2, slices=2, shard_optimizer=True),
}


@pytest.mark.parametrize(
    "recipe",
    [
        "optimiser sharded",
        "two slices",
        pytest.param("fully sharded", marks=pytest.mark.soak),
        pytest.param("all axes, optimiser sharded", marks=pytest.mark.soak),
    ],
)
def test_devices_that_reduce_scatter_by_themselves_compute_it_too(monkeypatch, reference, recipe):
    monkeypatch.setattr(data_parallel, "_SCATTERING", (jax.devices()[0].device_kind,))
    test_a_mesh_computes_what_one_device_computes(reference, RECIPES[recipe])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_mesh_computes_what_one_device_computes(reference, recipe):
    """Same losses, dropout included, to the rounding of sums in another order."""
    mesh = partitioning.make_mesh(recipe)
    losses, params = run(CONFIG, mesh=mesh, shard_optimizer=recipe.shard_optimizer)
    np.testing.assert_allclose(losses, reference[0], rtol=2e-5)
    assert_close(params, reference[1], 2e-5)


def matrix_bytes_on_first_device(tree):
    return sum(
        leaf.addressable_shards[0].data.nbytes
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf.ndim and partitioning.is_matrix(path)
    )


def gathered_weights(step, state, batch):
    """Shapes of the float arrays that the compiled step gathers from all devices."""
    program = step.lower(state, batch).compile().as_text()
    return set(re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", program))


def test_a_sharded_optimiser_takes_an_eighth():
    """Matrices and their slots are an eighth on each device, which updates it, and gathered whole.

    Gradients reach the eighths by reduce-scatter, which XLA for CPU writes as all-reduce and slice.
    """
    config = dataclasses.replace(NO_DROPOUT, hidden_size=64, num_heads=8, vocab_size=1000)
    mesh = partitioning.make_mesh(MeshConfig(data=8))
    batch = partitioning.to_devices(mesh, make_batch(0))
    whole, whole_step = sharded_step(config, optimizer(), mesh)
    state, step = sharded_step(config, optimizer(), mesh, shard_optimizer=True)
    shares = [
        matrix_bytes_on_first_device(state[part]) / matrix_bytes_on_first_device(whole[part])
        for part in ("params", "optimizer")
    ]
    assert shares == pytest.approx([1 / 8] * 2, rel=0.01)  # but next-sentence labels
    assert gathered_weights(whole_step, whole, batch) == set()
    gathered = gathered_weights(step, state, batch)
    assert {"1024,64", "64,64"} <= gathered  # the table, and kernels layer by layer


def clipped(gradients, norm):
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda leaf: leaf * min(1.0, norm / total), gradients)


def test_replicas_clip_for_themselves_and_are_summed():
    """A literal loop over the replicas: own loss, own denominator, own clipping, then the sum."""
    mesh = partitioning.make_mesh(MeshConfig(data=8))
    update = optimizer(per_replica=True)
    state, step = sharded_step(NO_DROPOUT, update, mesh, clip_norm=1.0)
    state["step"] = state["step"] + 5  # at step 0 the learning rate is 0
    batch = make_batch(0)
    after, terms = step(state, partitioning.to_devices(mesh, batch))

    def loss(params, rows):
        logits = apply_pretraining(NO_DROPOUT, params, rows)
        return pretraining_loss(pretraining_terms(logits, rows))

    params = jax.device_get(state["params"])
    gradient = jax.jit(jax.grad(loss))
    parts = [
        clipped(
            gradient(params, {name: rows[2 * n : 2 * n + 2] for name, rows in batch.items()}), 1
        )
        for n in range(8)
    ]
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    mu = jax.device_get(after["optimizer"][1].mu)
    assert_close(mu, jax.tree.map(lambda leaf: 0.1 * leaf, total), 1e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(total)))
    np.testing.assert_allclose(terms["gradient_norm"][0], norm, rtol=1e-5)
    assert norm > 2  # a sum of eight; a mean of eight clipped ones could not exceed 1


def test_replicas_drop_out_differently():
    """Eight replicas with the same rows would else have eight times the loss of one."""
    rows = {name: np.repeat(rows[:1], 16, 0) for name, rows in make_batch(0).items()}
    update = optimizer(per_replica=True)
    sums = []
    for devices in (8, 1):
        mesh = partitioning.make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
        state, step = sharded_step(CONFIG, update, mesh, clip_norm=1.0)
        batch = {name: values[: 2 * devices] for name, values in rows.items()}
        _, terms = step(state, partitioning.to_devices(mesh, batch))
        sums.append(float(terms["mlm_loss"][0]))
    assert not np.isclose(sums[0], 8 * sums[1], rtol=1e-4)


def test_tokens_are_those_of_the_global_batch():
    mesh = partitioning.make_mesh(MeshConfig(data=8))
    state, step = sharded_step(CONFIG, optimizer(), mesh)
    batch = make_batch(0)
    _, terms = step(state, partitioning.to_devices(mesh, batch))
    assert int(terms["real_tokens"][0]) == batch["input_mask"].sum()
    assert int(terms["real_tokens"][1]) == 16 * 32


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
def test_accumulation_makes_the_update_of_the_whole_batch(reference, parts):
    """Rows have different numbers of predictions, so a mean of means would differ."""
    losses, params = run(CONFIG, accumulation=parts)
    np.testing.assert_allclose(losses, reference[0], rtol=1e-5)
    assert_close(params, reference[1], 1e-5)


def test_accumulation_on_a_mesh(reference):
    mesh = partitioning.make_mesh(MeshConfig(2, 2, 2))
    losses, params = run(CONFIG, accumulation=2, mesh=mesh)
    np.testing.assert_allclose(losses, reference[0], rtol=2e-5)
    assert_close(params, reference[1], 2e-5)


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
