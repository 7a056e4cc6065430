# SPDX-License-Identifier: Apache-2.0
"""Model, data and programs of a fine-tuning recipe; reads everything and compiles nothing yet."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bert_jax import partitioning
from bert_jax.config import BertConfig
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.source import load_encoder
from bert_jax.finetune.step import (
    init_finetune_state,
    make_finetune_optimizer,
    make_finetune_step,
    make_predict_step,
)
from bert_jax.finetune.task import Task
from bert_jax.finetune.tasks import build_task
from bert_jax.train_step import State
from data_pipeline.errors import ConfigError
from data_pipeline.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all seeds of a recipe share, compiled programs included."""

    config: FinetuneConfig
    model: BertConfig
    encoder: Any
    tokenizer: Tokenizer
    task: Task
    mesh: Mesh
    steps: int
    optimizer: optax.GradientTransformation
    abstract: State
    train_step: Callable[..., Any]
    predict_step: Callable[..., Any]


def prepare(config: FinetuneConfig) -> Setup:
    """Loads model and data and settles everything that can be refused before training.

    Raises:
        UserError: anything the user can put right.
    """
    model, encoder, tokenizer = load_encoder(config)
    task = build_task(config, tokenizer)
    mesh = partitioning.make_mesh(config.mesh)
    partitioning.check_model_divisible(model, mesh)
    rows = math.prod(mesh.shape[axis] for axis in partitioning.BATCH_AXES)
    for key, size in (
        ("batch_size", config.batch_size),
        ("evaluation.batch_size", config.evaluation.batch_size),
    ):
        if size % rows:
            raise ConfigError(f"{key} {size} is not divisible by {rows} data-parallel devices")
    steps = config.steps(len(task.train))
    optimizer = make_finetune_optimizer(config, model.num_layers, steps)
    init = functools.partial(init_finetune_state, model, task, optimizer)
    abstract = partitioning.with_shardings(
        mesh,
        jax.eval_shape(init, encoder, jax.random.key(0)),
        shard_optimizer=config.mesh.shard_optimizer,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return Setup(
        config=config,
        model=model,
        encoder=encoder,
        tokenizer=tokenizer,
        task=task,
        mesh=mesh,
        steps=steps,
        optimizer=optimizer,
        abstract=abstract,
        train_step=jax.jit(
            make_finetune_step(model, task, optimizer, config.frozen_encoder),
            out_shardings=(shardings, None),
            donate_argnums=0,
        ),
        predict_step=jax.jit(
            make_predict_step(model, task),
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        ),
    )
