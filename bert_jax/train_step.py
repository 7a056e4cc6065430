# SPDX-License-Identifier: Apache-2.0
"""One training step and one evaluation step, as pure functions of pytrees.

The state is a plain dictionary: `params` (the tree of `bert_jax.model`), `optimizer` (optax state)
and `step` (int32 scalar, the number of updates made). Dropout is keyed by seed, step and row, so
that a step can be repeated exactly.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.compiler_options import compiler_options
from bert_jax.config import BertConfig, RunConfig
from bert_jax.data_parallel import DataParallel
from bert_jax.layers import compute_dtype, exact_dtype
from bert_jax.model import init_params, training_logits
from bert_jax.tasks import loss_weights, pretraining_loss, pretraining_terms

State = dict[str, Any]
Batch = dict[str, jax.Array]
Terms = dict[str, tuple[jax.Array, jax.Array]]


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
    devices: DataParallel | None = None,
    clip_norm: float | None = None,
) -> Callable[[State, Batch], tuple[State, Terms]]:
    """Builds `step(state, batch) -> (state, terms)`, to be jitted by the caller.

    Losses are divided by the whole batch's weights, and dropout follows from the seed, the step
    and a row's place in the batch, so that the update does not depend on how the batch is divided.

    The terms are (sum, weight) pairs of `bert_jax.tasks.pretraining_terms`, `real_tokens` (of the
    global batch, and its token slots), and `gradient_norm`, the global norm before clipping.

    Args:
        config: of the model.
        optimizer: makes updates of gradients.
        seed: of dropout.
        accumulation: parts in which a device works off its rows, one after the other.
        devices: that share the rows; default: there is one.
        clip_norm: clip on each device, then sum (`OptimizerConfig.per_replica`).
    """
    root = jax.random.key(seed, impl="threefry2x32")
    differentiate = functools.partial(_gradients, config, accumulation, devices, clip_norm)

    def step(state: State, batch: Batch) -> tuple[State, Terms]:
        key = jax.random.fold_in(root, state["step"])
        run = devices.map(differentiate) if devices else differentiate
        gradients, terms = run(state["params"], batch, key)
        with jax.named_scope("optimizer"):
            updates, slots = optimizer.update(gradients, state["optimizer"], state["params"])
            params = optax.apply_updates(state["params"], updates)
            norm = optax.tree.norm(gradients)
        tokens = jnp.sum(batch["input_mask"]), jnp.asarray(batch["input_mask"].size)
        terms = terms | {"gradient_norm": (norm, jnp.ones_like(norm)), "real_tokens": tokens}
        return {"params": params, "optimizer": slots, "step": state["step"] + 1}, terms

    return step


def _gradients(
    config: BertConfig,
    accumulation: int,
    devices: DataParallel | None,
    clip_norm: float | None,
    params: Any,
    batch: Batch,
    key: jax.Array,
) -> tuple[Any, Terms]:
    """Gradients and terms of the whole batch, from the rows that this device has of it."""
    rows = batch["input_ids"].shape[0]
    whole = loss_weights(batch)
    numbers = jnp.arange(rows)
    if devices:
        numbers = devices.row_numbers(rows)
        if clip_norm is None:  # those that clip for themselves divide by their own weights
            whole = devices.sum(whole)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    exchange, send = devices, None
    # Gathered and summed once for all parts, unless whole gradients may be too large to be kept.
    if devices and (clip_norm or (accumulation > 1 and devices.mesh.shape["fsdp"] == 1)):
        params, send = jax.vjp(devices.fetch, params)
        exchange = None

    def loss(params: Any, part: Batch, keys: jax.Array) -> tuple[jax.Array, Terms]:
        terms = pretraining_terms(training_logits(config, params, part, keys, exchange), part)
        return pretraining_loss(terms, whole), terms

    gradients, terms = _accumulate(jax.grad(loss, has_aux=True), accumulation, params, batch, keys)
    if clip_norm:
        clip = optax.clip_by_global_norm(clip_norm)
        gradients, _ = clip.update(gradients, clip.init(params))
    if send:
        (gradients,) = send(jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params))
    return gradients, devices.sum(terms) if devices else terms


def _accumulate(
    gradient: Callable[..., tuple[Any, Terms]],
    parts: int,
    params: Any,
    batch: Batch,
    keys: jax.Array,
) -> tuple[Any, Terms]:
    """Sums of gradients and terms over parts of the rows."""
    if parts == 1:
        return gradient(params, batch, keys)
    rows = jax.tree.map(lambda x: _split_rows(x, parts), (batch, keys))

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    first = jax.eval_shape(gradient, params, batch, keys)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, exact_dtype(x.dtype)), first)
    return jax.lax.scan(add, zeros, rows)[0]


def jit_train_step(
    config: RunConfig, mesh: Mesh, optimizer: optax.GradientTransformation, state: State
) -> jax.stages.Wrapped:
    """The step of a run, as `jit_on` makes it.

    Args:
        config: of the run, with the vocabulary's size filled in.
        mesh: the devices.
        optimizer: the run's.
        state: arrays on the mesh, or their shapes with shardings.
    """
    replicas = config.optimizer.per_replica
    dtype = exact_dtype(jnp.float32) if replicas else compute_dtype(config.model)
    step = make_train_step(
        config.model,
        optimizer,
        seed=config.seed,
        accumulation=config.accumulation,
        devices=DataParallel.over(mesh, state["params"], dtype),
        clip_norm=config.optimizer.clip_norm if replicas else None,
    )
    return jit_on(mesh, step, state)


def jit_on(
    mesh: Mesh, step: Callable[[State, Batch], tuple[State, Terms]], state: State
) -> jax.stages.Wrapped:
    """A step for the devices of a mesh; it takes over the buffers of the state it is given.

    Args:
        mesh: the devices.
        step: of `make_train_step`.
        state: arrays on the mesh, or their shapes with shardings.
    """
    return jax.jit(
        step,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, state), None),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
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

    Of a batch over several devices each then works on the same rows, whatever their number.
    """
    return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)
