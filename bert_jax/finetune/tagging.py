# SPDX-License-Identifier: Apache-2.0
"""A tag for every word: named entities in the manner of CoNLL-2003, parts of speech and the like.

One layer on the vector of each word's first piece. Figures are those of `conlleval`, over whole
entities, as the library seqeval counts them; `accuracy` counts words and suits tags that are no
entities. Source: section 5.3 of arXiv 1810.04805.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from bert_jax.finetune.config import FinetuneConfig, words
from bert_jax.finetune.head import token_logits
from bert_jax.finetune.task import Batch, Outputs, Task, Terms
from bert_jax.monitoring import Column
from bert_jax.tasks import cross_entropy
from data_pipeline.errors import ConfigError, UsageError
from data_pipeline.labelled.conll import (
    Conll,
    Tagged,
    find_tags,
    make_tagged,
    read_conll,
    with_tags,
)
from data_pipeline.tokenizers import Tokenizer

FIGURES = ("f1", "precision", "recall", "accuracy")


def build(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Reads the files and makes the task.

    Raises:
        DataError: a file, line or tag that cannot be used; with its place.
        ConfigError: settings that contradict each other.
    """
    data, names = config.data, words(config.evaluation.metrics)
    if data.source != "files":
        raise ConfigError(f"data.source {data.source!r}: tagging reads files of CoNLL columns")
    _check_figures(names)
    train = read_conll(Path(data.train))
    labels = words(data.labels) or find_tags(train, data.label)
    tag = functools.partial(
        make_tagged, tokenizer=tokenizer, length=config.length, words=data.text_a, labels=labels
    )
    examples = tag(train, tags=data.label).examples
    splits = {name: tag(read_conll(Path(name)), tags="") for name in words(data.test)}
    validation = {
        name: tag(read_conll(Path(name)), tags=data.label) for name in words(data.validation)
    }
    expected = {name: tagged.conll.column(data.label) for name, tagged in validation.items()}
    return Task(
        outputs=len(labels),
        train=examples,
        validation={name: tagged.examples for name, tagged in validation.items()},
        test={name: tagged.examples for name, tagged in splits.items()},
        logits=functools.partial(token_logits, config.model.head_dropout),
        terms=tag_terms,
        score=functools.partial(_score, names, validation, expected, labels),
        predictions=functools.partial(_predictions, splits, labels),
        suffix=".txt",
        selection=names[0],
        columns=(Column("loss", 8, "loss", "{:.3f}".format),)
        + tuple(Column(name, 11, name, "{:.4f}".format) for name in names),
        record={"labels": list(labels), "outputs": len(labels)},
    )


def _check_figures(names: Sequence[str]) -> None:
    for name in names:
        if name not in FIGURES:
            raise ConfigError(
                f"evaluation.metrics: {name!r} is no figure of tagging; it has {', '.join(FIGURES)}"
            )
    try:
        import seqeval  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "tagging needs seqeval; install the extra: pip install 'bert-jax[finetune]'"
        ) from error


def tag_terms(logits: jax.Array, batch: Batch, row_weights: jax.Array) -> Terms:
    """Cross entropy and accuracy over words: the tokens with a `tag`, int32 [batch, length]."""
    known = batch["tag"] >= 0
    weights = jnp.where(known, row_weights[:, None].astype(logits.dtype), 0)
    loss, hits = cross_entropy(logits, jnp.where(known, batch["tag"], 0))
    total = jnp.sum(weights)
    return {
        "loss": (jnp.sum(loss * weights), total),
        "word_accuracy": (jnp.sum(hits * weights), total),
    }


def _tags(tagged: Tagged, labels: Sequence[str], outputs: Outputs) -> list[list[str]]:
    """The likeliest tag of every word of every sentence."""
    best = [logits.argmax(axis=-1) for logits in outputs]
    return [[labels[best[sequence][place]] for sequence, place in where] for where in tagged.places]


def _score(
    names: Sequence[str],
    splits: Mapping[str, Tagged],
    expected: Mapping[str, list[list[str]]],
    labels: Sequence[str],
    split: str,
    outputs: Outputs,
) -> dict[str, float]:
    return tag_figures(names, expected[split], _tags(splits[split], labels, outputs))


def tag_figures(
    names: Sequence[str], expected: list[list[str]], predicted: list[list[str]]
) -> dict[str, float]:
    """Figures of predicted tags, sentence by sentence; all lie in [0, 1]."""
    from seqeval import metrics

    functions = {
        "f1": functools.partial(metrics.f1_score, zero_division=0),
        "precision": functools.partial(metrics.precision_score, zero_division=0),
        "recall": functools.partial(metrics.recall_score, zero_division=0),
        "accuracy": metrics.accuracy_score,
    }
    return {name: float(functions[name](expected, predicted)) for name in names}


def _predictions(
    splits: Mapping[str, Tagged], labels: Sequence[str], split: str, outputs: Outputs
) -> dict[str, str]:
    """The file with the tags as its last column."""
    conll: Conll = splits[split].conll
    return {"": with_tags(conll, _tags(splits[split], labels, outputs))}
