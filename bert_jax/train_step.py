# SPDX-License-Identifier: Apache-2.0
"""One training step and one evaluation step, as pure functions of pytrees.

The state is a plain dictionary: `params` (the tree of `bert_jax.model`), `optimizer` (optax state)
and `step` (int32 scalar, the number of updates made). Dropout is keyed by (seed, step), so that a
step can be repeated exactly.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import BertConfig
from bert_jax.model import apply_pretraining, init_params
from bert_jax.tasks import pretraining_loss, pretraining_terms

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
) -> Callable[[State, Batch], tuple[State, Terms]]:
    """Builds `step(state, batch) -> (state, terms)`, to be jitted by the caller.

    With `accumulation` k the batch is worked off in k parts whose gradients are added up; losses
    are divided by the whole batch's weights, so that the update is that of the undivided batch.

    The terms are (sum, weight) pairs of `bert_jax.tasks.pretraining_terms`, and `gradient_norm`,
    the global norm before clipping.
    """
    root = jax.random.key(seed)

    def loss(params: Any, part: Batch, key: jax.Array, whole: Batch) -> tuple[jax.Array, Terms]:
        terms = pretraining_terms(apply_pretraining(config, params, part, key), part)
        return pretraining_loss(terms, whole), terms

    gradient = jax.grad(loss, has_aux=True)

    def step(state: State, batch: Batch) -> tuple[State, Terms]:
        key = jax.random.fold_in(root, state["step"])
        if accumulation == 1:
            gradients, terms = gradient(state["params"], batch, key, batch)
        else:
            parts = jax.tree.map(lambda x: _split_rows(x, accumulation), batch)
            keys = jax.random.split(key, accumulation)

            def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                update = gradient(state["params"], *part, batch)
                return jax.tree.map(jnp.add, total, update), None

            first = jax.eval_shape(gradient, state["params"], batch, key, batch)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
            (gradients, terms), _ = jax.lax.scan(add, zeros, (parts, keys))
        updates, slots = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        norm = optax.tree.norm(gradients)
        terms = terms | {"gradient_norm": (norm, jnp.ones_like(norm))}
        return {"params": params, "optimizer": slots, "step": state["step"] + 1}, terms

    return step


def make_eval_step(config: BertConfig) -> Callable[[Any, Batch, jax.Array], Terms]:
    """Builds `evaluate(params, batch, row_weights) -> terms` without dropout.

    Args of the result:
        row_weights: float32 [batch], 0 for rows that only fill up the last batch.
    """

    def evaluate(params: Any, batch: Batch, row_weights: jax.Array) -> Terms:
        weights = batch["masked_weights"] * row_weights[:, None]
        logits = apply_pretraining(config, params, batch)
        return pretraining_terms(logits, batch | {"masked_weights": weights}, row_weights)

    return evaluate


def _split_rows(rows: jax.Array, parts: int) -> jax.Array:
    """[batch, ...] -> [parts, batch / parts, ...]; part i takes every row r with r % parts == i.

    Taking every k-th row keeps each part spread over all data-parallel devices.
    """
    return jnp.moveaxis(rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]), 1, 0)
