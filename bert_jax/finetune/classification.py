# SPDX-License-Identifier: Apache-2.0
"""Tasks with one answer a row: a class or a number, from one text or a pair, or one of N endings.

The head sees the pooled [CLS] vector. A multiple-choice example is N sequences, each with one
logit, and the softmax runs over them (arXiv 1810.04805, section 4.4). Source of the others:
`run_classifier.py` of google-research/bert; of regression, `run_classifier_with_tfhub`'s relatives
and `transformers`: mean squared error of the one logit.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.dropout import split_key
from bert_jax.finetune import metrics, predictions
from bert_jax.finetune.config import FinetuneConfig, words
from bert_jax.finetune.head import head_logits
from bert_jax.finetune.task import Batch, Outputs, Task, Terms
from bert_jax.model import encode
from bert_jax.monitoring import Column
from bert_jax.tasks import cross_entropy
from data_pipeline.errors import ConfigError
from data_pipeline.labelled.classification import (
    choice_examples,
    class_targets,
    find_labels,
    number_targets,
    text_examples,
)
from data_pipeline.labelled.examples import Examples
from data_pipeline.labelled.tables import Table, read_table
from data_pipeline.tokenizers import Tokenizer

Targets = Callable[[Table, str], dict[str, np.ndarray]]


def build(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads the splits and makes the task.

    Raises:
        DataError: a file, column, row or label that cannot be used; with its place.
        ConfigError: settings that contradict each other.
    """
    data, regression = config.data, config.task == "regression"
    choices = words(data.choices)
    if (config.task == "multiple_choice") != (len(choices) > 1):
        raise ConfigError(
            f"task {config.task!r} and data.choices {data.choices!r} do not belong together: "
            "multiple_choice, and nothing else, names two columns of endings or more"
        )
    names = words(config.evaluation.metrics)
    metrics.check_metrics(names, metrics.NUMBERS if regression else metrics.CLASSES)
    read = functools.partial(read_table, data.source, tfds_data_dir=data.tfds_data_dir)
    train = read(data.train)
    labels = words(data.labels) or (() if regression else find_labels(train, data.label))
    if choices and len(labels) != len(choices):
        raise ConfigError(
            f"{len(choices)} endings ({data.choices}) and {len(labels)} labels "
            f"({', '.join(labels)}): name a label for every ending with --config.data.labels"
        )
    if "f1" in names and len(labels) != 2:
        raise ConfigError(f"f1 is for two labels, here are {len(labels)}: take macro_f1")
    written = _written_labels(config, labels)
    targets = number_targets if regression else functools.partial(class_targets, labels=labels)
    examples = functools.partial(_examples, config, tokenizer)
    tests = {split: read(split) for split in words(data.test)}
    validation = {
        split: examples(table, targets(table, data.label))
        for split, table in ((split, read(split)) for split in words(data.validation))
    }
    outputs = 1 if regression or choices else len(labels)
    return Task(
        outputs=outputs,
        train=examples(train, targets(train, data.label)),
        validation=validation,
        test={split: examples(table, {}) for split, table in tests.items()},
        logits=functools.partial(pooled_logits, config.model.head_dropout, bool(choices)),
        terms=squared_error_terms if regression else class_terms,
        score=functools.partial(_score, names, validation, regression),
        predictions=functools.partial(_predictions, tests, data.id, written),
        suffix=".tsv",
        selection=names[0],
        columns=(Column("loss", 8, "loss", "{:.3f}".format),)
        + tuple(Column(name, 11, name, "{:.4f}".format) for name in names),
        record={"labels": list(labels), "outputs": outputs},
    )


def _written_labels(config: FinetuneConfig, labels: Sequence[str]) -> tuple[str, ...]:
    written = words(config.predictions.labels) or tuple(labels)
    if len(written) != len(labels):
        raise ConfigError(
            f"predictions.labels names {len(written)} words for {len(labels)} labels "
            f"({', '.join(labels)})"
        )
    return written


def _examples(
    config: FinetuneConfig, tokenizer: Tokenizer, table: Table, targets: dict[str, np.ndarray]
) -> Examples:
    data = config.data
    if data.choices:
        return choice_examples(
            table,
            tokenizer,
            length=config.length,
            text_a=data.text_a,
            text_b=data.text_b,
            choices=words(data.choices),
            targets=targets,
        )
    return text_examples(
        table,
        tokenizer,
        length=config.length,
        text_a=data.text_a,
        text_b=data.text_b,
        targets=targets,
    )


def pooled_logits(
    dropout: float,
    choices: bool,
    config: BertConfig,
    params: Any,
    batch: Batch,
    key: jax.Array | None,
) -> jax.Array:
    """Logits [batch, outputs] of the pooled vector; of several sequences a row [batch, choices]."""
    encoder_key, head_key = split_key(key, 2)
    rows = batch["input_ids"].shape[:-1]
    ids, mask, segments = (
        batch[name].reshape(-1, batch[name].shape[-1])
        for name in ("input_ids", "input_mask", "segment_ids")
    )
    pooled = encode(config, params, ids, mask, segments, encoder_key).pooled
    logits = head_logits(params["head"], pooled, dropout, head_key)
    return logits.reshape(rows) if choices else logits


def class_terms(logits: jax.Array, batch: Batch, row_weights: jax.Array) -> Terms:
    """Cross entropy and accuracy; logits [batch, classes], `label` int32 [batch]."""
    weights = row_weights.astype(logits.dtype)
    loss, hits = cross_entropy(logits, batch["label"])
    total = jnp.sum(weights)
    return {"loss": (jnp.sum(loss * weights), total), "accuracy": (jnp.sum(hits * weights), total)}


def squared_error_terms(logits: jax.Array, batch: Batch, row_weights: jax.Array) -> Terms:
    """Squared error; logits [batch, 1], `label` float32 [batch]."""
    weights = row_weights.astype(logits.dtype)
    error = jnp.square(logits[:, 0] - batch["label"].astype(logits.dtype))
    return {"loss": (jnp.sum(error * weights), jnp.sum(weights))}


def _score(
    names: Sequence[str],
    validation: Mapping[str, Examples],
    regression: bool,
    split: str,
    outputs: Outputs,
) -> dict[str, float]:
    expected, logits = validation[split].targets["label"], np.stack(outputs)
    if regression:
        return metrics.number_figures(names, expected, logits[:, 0])
    return metrics.class_figures(names, expected, logits.argmax(axis=-1))


def _predictions(
    tests: Mapping[str, Table], id_column: str, labels: Sequence[str], split: str, outputs: Outputs
) -> dict[str, str]:
    """Ids are those of the column, else row numbers from 0; numeric ones come in their order."""
    table, logits = tests[split], np.stack(outputs)
    ids = table.column(id_column) if id_column else [str(row) for row in range(len(logits))]
    if labels:
        values = [labels[label] for label in logits.argmax(axis=-1)]
    else:
        values = [f"{value:.3f}" for value in logits[:, 0]]
    rows = sorted(zip(ids, values, strict=True), key=_by_number)
    return {"": predictions.table([number for number, _ in rows], [value for _, value in rows])}


def _by_number(row: tuple[str, str]) -> tuple[bool, int]:
    # TFDS stores rows shuffled; GLUE's server wants them by index. Other ids stay as they come.
    return (False, int(row[0])) if row[0].isdecimal() else (True, 0)
