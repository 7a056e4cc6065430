# SPDX-License-Identifier: Apache-2.0
"""What the loop knows of a task: a handful of functions and its data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.monitoring import Column
from data_pipeline.labelled.examples import Examples

Batch = dict[str, jax.Array]
Terms = dict[str, tuple[jax.Array, jax.Array]]
Outputs = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """A fine-tuning task, built from a recipe and the model's tokenizer.

    Attributes:
        outputs: logits that the head makes of one vector.
        train: examples to learn from.
        validation: labelled examples by name; the first decides which checkpoint is the best.
        test: examples to predict, by name.
        logits: (config, params, batch, dropout key or None) -> logits, float32 at least.
        terms: (logits, batch, row weights [batch]) -> name -> (sum, weight); sum / weight of `loss`
            is what training minimises.
        score: (name of a validation set, outputs) -> figures; of `selection` more is better.
            `outputs` holds the logits of each example, in order.
        predictions: (name of a test set, outputs) -> contents of its files by their names in the
            set's folder; or of its only file, under the name "".
        suffix: of the set's file if there is only one.
        selection: the figure that decides which checkpoint is the best.
        columns: figures to show on the console.
        record: what the run keeps of the task beside its recipe: `outputs`, and the label set.
    """

    outputs: int
    train: Examples
    validation: Mapping[str, Examples]
    test: Mapping[str, Examples]
    logits: Callable[[BertConfig, Any, Batch, jax.Array | None], jax.Array]
    terms: Callable[[jax.Array, Batch, jax.Array], Terms]
    score: Callable[[str, Outputs], dict[str, float]]
    predictions: Callable[[str, Outputs], dict[str, str]]
    suffix: str
    selection: str
    columns: Sequence[Column]
    record: dict[str, Any]
