# SPDX-License-Identifier: Apache-2.0
"""Answers as spans of a paragraph: SQuAD 1.1 and 2.0.

One layer on every token's vector gives two logits, of an answer's start and of its end; the loss is
the mean of the two cross entropies over the tokens of a window. Source: `run_squad.py` of
google-research/bert; sections 4.2 and 4.3 of arXiv 1810.04805.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.finetune.answers import Answer, find_best
from bert_jax.finetune.config import FinetuneConfig, QuestionAnswering, words
from bert_jax.finetune.head import token_logits
from bert_jax.finetune.squad_metrics import squad1_figures, squad2_figures
from bert_jax.finetune.task import Batch, Outputs, Task, Terms
from bert_jax.monitoring import Column
from bert_jax.tasks import cross_entropy
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.squad import Squad, read_squad
from data_pipeline.labelled.squad_windows import WindowOptions, Windows, make_windows
from data_pipeline.tokenizers import Tokenizer


def build(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads the files and makes the task.

    Raises:
        DataError: a file that cannot be used; with the question.
        ConfigError: settings that contradict each other.
    """
    data, options = config.data, config.question_answering
    if data.source != "files":
        raise ConfigError(f"data.source {data.source!r}: question answering reads SQuAD's own JSON")
    exact = "exact" if options.impossible else "exact_match"
    if words(config.evaluation.metrics)[0] not in ("f1", exact):
        raise ConfigError(f"evaluation.metrics: the first must be f1 or {exact}")
    sizes = WindowOptions(config.length, options.doc_stride, options.max_query_length)
    windows = functools.partial(
        make_windows, tokenizer=tokenizer, options=sizes, impossible=options.impossible
    )
    validation = {name: read_squad(Path(name)) for name in words(data.validation)}
    tests = {name: read_squad(Path(name)) for name in words(data.test)}
    for squad in () if options.impossible else validation.values():
        _check_answered(squad)
    splits = {name: windows(squad, training=False) for name, squad in (tests | validation).items()}
    names = words(config.evaluation.metrics)
    return Task(
        outputs=2,
        train=windows(read_squad(Path(data.train)), training=True).examples,
        validation={name: splits[name].examples for name in validation},
        test={name: splits[name].examples for name in tests},
        logits=functools.partial(token_logits, config.model.head_dropout),
        terms=span_terms,
        score=functools.partial(_score, splits, options),
        predictions=functools.partial(_predictions, splits, options),
        suffix="",
        selection=names[0],
        columns=(Column("loss", 8, "loss", "{:.3f}".format),)
        + tuple(Column(name, max(9, len(name) + 2), name, "{:.2f}".format) for name in names),
        record={"outputs": 2, "labels": []},
    )


def _check_answered(squad: Squad) -> None:
    for question in squad.questions:
        if not question.answers:
            raise DataError(
                f"{squad.name}: question {question.id} has no answer to compare with; a file "
                "without answers is for data.test, and one of SQuAD 2.0 needs "
                "--config.question_answering.impossible=True"
            )


def span_terms(logits: jax.Array, batch: Batch, row_weights: jax.Array) -> Terms:
    """Mean cross entropy of start and end; padding, unlike in the original, takes no part."""
    weights = row_weights.astype(logits.dtype)
    padding = batch["input_mask"][:, :, None] == 0
    scores = jnp.where(padding, jnp.finfo(logits.dtype).min, logits)
    start, _ = cross_entropy(scores[:, :, 0], batch["start_position"])
    end, _ = cross_entropy(scores[:, :, 1], batch["end_position"])
    return {"loss": (jnp.sum((start + end) / 2 * weights), jnp.sum(weights))}


def _answers(windows: Windows, options: QuestionAnswering, outputs: Outputs) -> dict[str, Answer]:
    """The answer to each question by its id."""
    found = {}
    for number, own in windows.of_questions().items():
        question = windows.squad.questions[number]
        found[question.id] = find_best(
            windows.squad.contexts[question.context],
            windows.pieces[question.context],
            [windows.windows[n] for n in own],
            [outputs[n] for n in own],
            options,
        )
    return found


def _score(
    splits: Mapping[str, Windows], options: QuestionAnswering, split: str, outputs: Outputs
) -> dict[str, float]:
    """The figures of SQuAD's official scripts under their names, in percent."""
    found = _answers(splits[split], options, outputs)
    texts = {number: answer.text for number, answer in found.items()}
    right = {question.id: question.answers for question in splits[split].squad.questions}
    if not options.impossible:
        return squad1_figures(right, texts)
    odds = {number: answer.null_odds for number, answer in found.items()}
    return squad2_figures(right, texts, odds)


def _predictions(
    splits: Mapping[str, Windows], options: QuestionAnswering, split: str, outputs: Outputs
) -> dict[str, str]:
    """The files that `run_squad.py` writes and the official scripts read."""
    found = _answers(splits[split], options, outputs)
    files: dict[str, dict[str, Any]] = {
        "predictions.json": {number: answer.text for number, answer in found.items()},
        "nbest_predictions.json": {number: answer.best for number, answer in found.items()},
    }
    if options.impossible:
        files["null_odds.json"] = {number: answer.null_odds for number, answer in found.items()}
    return {name: json.dumps(content, indent=4) + "\n" for name, content in files.items()}
