# SPDX-License-Identifier: Apache-2.0
"""One training step and one evaluation step, as pure functions of pytrees.

The state is a plain dictionary: `params` (the tree of `bert_jax.model`), `optimizer` (optax state)
and `step` (int32 scalar, the number of updates made). Dropout is keyed by (seed, step), so that a
step can be repeated exactly.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from bert_jax import partitioning
from bert_jax.config import BertConfig, RunConfig
from bert_jax.layers import compute_dtype, exact_dtype
from bert_jax.model import init_params, training_logits
from bert_jax.tasks import pretraining_loss, pretraining_terms

State = dict[str, Any]
Batch = dict[str, jax.Array]
Terms = dict[str, tuple[jax.Array, jax.Array]]

# Do not cut the product that makes a kernel's gradient into a ring of small ones between which its
# sixteenths travel: at 2,048 tokens a chip these take four times as long as the product in one.
TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


class Replicas(NamedTuple):
    """The devices that clip for themselves (`OptimizerConfig.per_replica`)."""

    mesh: Mesh
    clip_norm: float


def init_state(
    config: BertConfig, optimizer: optax.GradientTransformation, seed: int, params: Any = None
) -> State:
    """A fresh state; `params` (for instance from another run) replace random weights."""
    if params is None:
        params = init_params(config, jax.random.key(seed))
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def make_train_step(
    config: BertConfig,
    optimizer: optax.GradientTransformation,
    *,
    seed: int = 0,
    accumulation: int = 1,
    update_shardings: Any = None,
    weight_shardings: Any = None,
    replicas: Replicas | None = None,
) -> Callable[[State, Batch], tuple[State, Terms]]:
    """Builds `step(state, batch) -> (state, terms)`, to be jitted by the caller.

    With `accumulation` k the batch is worked off in k parts whose gradients are added up; losses
    are divided by the whole batch's weights, so that the update is that of the undivided batch.

    The terms are (sum, weight) pairs of `bert_jax.tasks.pretraining_terms`, `real_tokens` (of the
    global batch, and its token slots), and `gradient_norm`, the global norm before clipping.

    Args:
        update_shardings: where each parameter is kept and updated (`partitioning.update_shardings`)
            if the optimiser is sharded: gradients are scattered there, in the compute dtype.
        weight_shardings: where it is computed with; gathered there, in the compute dtype too.
        replicas: clip on each device, then sum; needs `accumulation` 1.
    """
    root = jax.random.key(seed)

    def loss(params: Any, part: Batch, key: jax.Array, whole: Batch) -> tuple[jax.Array, Terms]:
        terms = pretraining_terms(training_logits(config, params, part, key), part)
        return pretraining_loss(terms, whole), terms

    gradient = jax.grad(loss, has_aux=True)

    def accumulate(params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Terms]:
        if replicas is not None:
            return _per_replica(gradient, replicas)(params, batch, key)
        if accumulation == 1:
            return gradient(params, batch, key, batch)
        parts = jax.tree.map(lambda x: _split_rows(x, accumulation), batch)
        keys = jax.random.split(key, accumulation)

        def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, *part, batch)), None

        first = jax.eval_shape(gradient, params, batch, key, batch)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, exact_dtype(x.dtype)), first)
        return jax.lax.scan(add, zeros, (parts, keys))[0]

    def gather(params: Any) -> Any:
        if weight_shardings is None:
            return params
        if replicas is None:  # those clip exact gradients
            params = jax.tree_util.tree_map_with_path(functools.partial(_as_sent, config), params)
        return jax.lax.with_sharding_constraint(params, weight_shardings)

    def place(tree: Any) -> Any:
        if update_shardings is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, update_shardings)

    def step(state: State, batch: Batch) -> tuple[State, Terms]:
        key = jax.random.fold_in(root, state["step"])
        params = place(state["params"])
        gradients, terms = accumulate(gather(params), batch, key)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), place(gradients), params)
        with jax.named_scope("optimizer"):
            updates, slots = optimizer.update(gradients, state["optimizer"], params)
            params = place(optax.apply_updates(params, updates))
            norm = optax.tree.norm(gradients)
        tokens = jnp.sum(batch["input_mask"]), jnp.asarray(batch["input_mask"].size)
        terms = terms | {"gradient_norm": (norm, jnp.ones_like(norm)), "real_tokens": tokens}
        return {"params": params, "optimizer": slots, "step": state["step"] + 1}, terms

    return step


def jit_train_step(
    config: RunConfig, mesh: Mesh, optimizer: optax.GradientTransformation, state: State
) -> Any:
    """The step of a run; it takes over the buffers of the state it is given.

    Args:
        config: of the run, with the vocabulary's size filled in.
        mesh: the devices.
        optimizer: the run's.
        state: arrays on the mesh, or their shapes with shardings.
    """
    update_shardings = weight_shardings = replicas = None
    if config.mesh.shard_optimizer:
        update_shardings = partitioning.update_shardings(mesh, state["params"])
        weight_shardings = partitioning.state_shardings(mesh, state["params"])
    if config.optimizer.per_replica:
        replicas = Replicas(mesh, config.optimizer.clip_norm)
    step = make_train_step(
        config.model,
        optimizer,
        seed=config.seed,
        accumulation=config.accumulation,
        update_shardings=update_shardings,
        weight_shardings=weight_shardings,
        replicas=replicas,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        step,
        out_shardings=(shardings, None),
        donate_argnums=0,
        compiler_options=TPU_OPTIONS if mesh.devices.flat[0].platform == "tpu" else None,
    )


def _as_sent(config: BertConfig, path: tuple[Any, ...], param: jax.Array) -> jax.Array:
    """A matrix in the compute dtype, if that is smaller; vectors weigh nothing and stay exact."""
    dtype = compute_dtype(config)
    if path[-1].key in ("scale", "bias") or dtype.itemsize >= param.dtype.itemsize:
        return param
    return param.astype(dtype)


def _per_replica(
    gradient: Callable[..., tuple[Any, Terms]], replicas: Replicas
) -> Callable[[Any, Batch, jax.Array], tuple[Any, Terms]]:
    """Gradients as `CrossShardOptimizer` makes them: clipped on each device, then added up.

    Source: `optimization.py` of google-research/bert takes `tf.gradients` of the device's own loss,
    clips them, and `CrossShardOptimizer.apply_gradients` sums; its scaling by the number of devices
    is in `compute_gradients`, which is not called. Dropout differs from device to device.
    """
    clip = optax.clip_by_global_norm(replicas.clip_norm)

    def on_device(params: Any, rows: Batch, key: jax.Array) -> tuple[Any, Terms]:
        own_key = jax.random.fold_in(key, jax.lax.axis_index(partitioning.BATCH_AXES))
        gradients, terms = gradient(params, rows, own_key, rows)
        clipped, _ = clip.update(gradients, clip.init(params))
        return jax.lax.psum((clipped, terms), partitioning.BATCH_AXES)

    whole, rows = PartitionSpec(), PartitionSpec(partitioning.BATCH_AXES)
    # Without check_vma=False the gradient of a replicated parameter is summed before it is clipped.
    return jax.shard_map(
        on_device,
        mesh=replicas.mesh,
        in_specs=(whole, rows, whole),
        out_specs=whole,
        check_vma=False,
    )


def make_eval_step(config: BertConfig) -> Callable[[Any, Batch, jax.Array], Terms]:
    """Builds `evaluate(params, batch, row_weights) -> terms` without dropout.

    Args of the result:
        row_weights: float32 [batch], 0 for rows that only fill up the last batch.
    """

    def evaluate(params: Any, batch: Batch, row_weights: jax.Array) -> Terms:
        weights = batch["masked_weights"] * row_weights[:, None]
        logits = training_logits(config, params, batch)
        return pretraining_terms(logits, batch | {"masked_weights": weights}, row_weights)

    return evaluate


def _split_rows(rows: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] -> [parts, batch / parts, ...]; part i takes every row r with r % parts == i.

    Taking every k-th row keeps each part spread over all data-parallel devices.
    """
    return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)
