# SPDX-License-Identifier: Apache-2.0
"""What tests look at in a run directory."""

import dataclasses
import json

import jax

from bert_jax import partitioning
from bert_jax.checkpoint import load_params
from bert_jax.config import MeshConfig
from bert_jax.model import init_params
from data_pipeline.store import open_store


def params_of(workdir, config):
    """Parameters of a run's newest checkpoint."""
    vocab_size = open_store(config.data.store).vocab_size
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    abstract = partitioning.with_shardings(partitioning.make_mesh(MeshConfig()), shapes)
    return jax.device_get(load_params(workdir, abstract)[0])


def rows_of(workdir, kind="train"):
    """Metric rows without the figures of a clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "tokens_per_second", "examples_per_second", "input_wait_share")
    return [
        {name: value for name, value in row.items() if name not in timed}
        for row in rows
        if row["kind"] == kind
    ]
