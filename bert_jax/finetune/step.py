# SPDX-License-Identifier: Apache-2.0
"""One step of fine-tuning, its optimiser, and one step of prediction, as pure functions.

The state is that of pre-training: `params` (embeddings, encoder, pooler and the task's `head`),
`optimizer` and `step`. The random key is an argument, so that all seeds share one program.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import BertConfig
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.head import init_head
from bert_jax.finetune.task import Batch, Task, Terms
from bert_jax.model import ENCODER_PARTS, init_params
from bert_jax.optimizer import make_optimizer
from bert_jax.train_step import State

FROZEN = ("embeddings", "encoder")


def make_finetune_optimizer(
    config: FinetuneConfig, layers: int, steps: int
) -> optax.GradientTransformation:
    """Pre-training's optimiser, with rates that fall towards the input or a frozen encoder.

    Args:
        config: the recipe.
        layers: of the encoder.
        steps: of the run.
    """
    settings = config.optimizer
    optimizer = make_optimizer(settings.over(steps), steps)
    if settings.layer_decay < 1:
        optimizer = optax.chain(optimizer, scale_by_layer(settings.layer_decay, layers))
    if config.frozen_encoder:
        kinds = {"trained": optimizer, "frozen": optax.set_to_zero()}
        optimizer = optax.partition(kinds, _frozen_labels)
    return optimizer


def _frozen_labels(params: Any) -> Any:
    return {
        part: jax.tree.map(lambda _, part=part: "frozen" if part in FROZEN else "trained", tree)
        for part, tree in params.items()
    }


def scale_by_layer(decay: float, layers: int) -> optax.GradientTransformation:
    """Multiplies each update by `decay` to the power of the parameter's distance from the head.

    The head has distance 0, the pooler 1, the last encoder layer 2, the embeddings `layers` + 2.
    Source: `_get_layer_lrs` in `model/optimization.py` of google-research/electra.
    """
    above = {"head": 0, "pooler": 1, "embeddings": layers + 2}

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        part = path[0].key
        if part != "encoder":
            return update * decay ** above[part]
        rates = jnp.asarray([decay ** (layers + 1 - layer) for layer in range(layers)])
        return update * rates.astype(update.dtype).reshape(-1, *(1,) * (update.ndim - 1))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def init_finetune_state(
    config: BertConfig,
    task: Task,
    optimizer: optax.GradientTransformation,
    encoder: Any,
    key: jax.Array,
) -> State:
    """A fresh state: the given parts of the encoder, what they lack drawn anew, and a new head."""
    head_key, encoder_key = jax.random.split(key)
    params = init_params(config, encoder_key) | encoder
    params = {part: params[part] for part in ENCODER_PARTS}
    params["head"] = init_head(config, task.outputs, head_key)
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def make_finetune_step(
    config: BertConfig, task: Task, optimizer: optax.GradientTransformation, frozen: bool
) -> Callable[[State, Batch, jax.Array], tuple[State, Terms]]:
    """Builds `step(state, batch, key) -> (state, terms)`, to be jitted by the caller.

    Args:
        config: the model.
        task: what is learnt.
        optimizer: of `make_finetune_optimizer`.
        frozen: whether embeddings and encoder stay as they are.
    """

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Terms]:
        if frozen:  # the optimiser leaves them alone; this spares their gradients
            params = params | {part: jax.lax.stop_gradient(params[part]) for part in FROZEN}
        rows = jnp.ones(batch["input_ids"].shape[0])
        terms = task.terms(task.logits(config, params, batch, key), batch, rows)
        total, weight = terms["loss"]
        return total / jnp.maximum(weight, 1.0), terms

    gradient = jax.grad(loss, has_aux=True)

    def step(state: State, batch: Batch, key: jax.Array) -> tuple[State, Terms]:
        key = jax.random.fold_in(key, state["step"])
        gradients, terms = gradient(state["params"], batch, key)
        updates, slots = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        norm = optax.tree.norm(gradients)
        terms = terms | {"gradient_norm": (norm, jnp.ones_like(norm))}
        return {"params": params, "optimizer": slots, "step": state["step"] + 1}, terms

    return step


def make_predict_step(
    config: BertConfig, task: Task
) -> Callable[[Any, Batch, jax.Array], tuple[jax.Array, Terms]]:
    """Builds `predict(params, batch, row weights) -> (logits, terms)` without dropout.

    The terms are empty where the batch has no labels.
    """

    def predict(params: Any, batch: Batch, row_weights: jax.Array) -> tuple[jax.Array, Terms]:
        logits = task.logits(config, params, batch, None)
        labelled = batch.keys() - {"input_ids", "input_mask", "segment_ids"}
        return logits, task.terms(logits, batch, row_weights) if labelled else {}

    return predict
