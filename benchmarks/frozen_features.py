# SPDX-License-Identifier: Apache-2.0
r"""Command: what a model's features are worth without fine-tuning, beside docs/features.md.

    python benchmarks/frozen_features.py --checkpoint=MODEL --train=train.txt --validation=dev.txt
    python benchmarks/frozen_features.py --checkpoint=MODEL --train=train.tsv \
        --validation=dev.tsv [--text=text --label=label --vectors=mean --layers=-1]

The encoder is never changed: each word or text becomes a vector once, and a logistic regression
(scikit-learn) is fitted to the vectors. Files that end in .txt hold words and tags in columns, as
for `bert_jax.finetune`; others are tables of texts. The paper's tagger on top is a two-layer LSTM
(section 5.3 of arXiv 1810.04805), so this is the lower end of what features can do.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax.convert.load import Pretrained, load_pretrained
from bert_jax.extract_features import check_layers, extract
from bert_jax.finetune.tagging import tag_figures
from data_pipeline.errors import UsageError, run_command
from data_pipeline.labelled.conll import read_conll
from data_pipeline.labelled.tables import read_table


def tagging_figures(
    model: Pretrained, train: Path, validation: Path, layers: Sequence[int], penalty: float
) -> dict[str, float]:
    """F1 of entities and accuracy of a tagger on the vectors of words' first pieces."""
    vectors, tags, _ = _words(model, train, layers)
    classifier = fit(vectors, tags, penalty)
    vectors, _, expected = _words(model, validation, layers)
    found = iter(classifier.predict(vectors).tolist())
    predicted = [[next(found) for _ in sentence] for sentence in expected]
    return tag_figures(("f1", "accuracy"), expected, predicted)


def _words(
    model: Pretrained, path: Path, layers: Sequence[int]
) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Vectors [words, width] of all words, their tags, and the tags of each sentence."""
    conll = read_conll(path)
    sentences, tags = conll.column("first"), conll.column("last")
    rows = []
    lines = (" ".join(words) for words in sentences)
    for words, vectors in zip(sentences, _vectors(model, lines, "words", layers), strict=True):
        places, found = vectors
        # Zeros for words that hold nothing but control characters or did not fit.
        sentence = np.zeros((len(words), found[0].size), np.float32)
        sentence[places] = found.reshape(len(places), -1)
        rows.append(sentence)
    return np.concatenate(rows), [tag for sentence in tags for tag in sentence], tags


def text_figures(
    model: Pretrained,
    train: Path,
    validation: Path,
    columns: tuple[str, str],
    kind: str,
    layers: Sequence[int],
    penalty: float,
) -> dict[str, float]:
    """Accuracy of a classifier on one vector a text."""

    def read(path: Path) -> tuple[np.ndarray, list[str]]:
        table = read_table("files", str(path))
        texts = (text.replace("\n", " ") for text in table.column(columns[0]))
        rows = [vector.ravel() for _, vector in _vectors(model, texts, kind, layers)]
        return np.stack(rows), table.column(columns[1])

    classifier = fit(*read(train), penalty)
    return {"accuracy": float(classifier.score(*read(validation)))}


def _vectors(
    model: Pretrained, lines: Iterable[str], kind: str, layers: Sequence[int]
) -> Iterable[tuple[list[int], np.ndarray]]:
    limit = min(model.config.max_positions, 512)
    for features in extract(model, lines, kind=kind, layers=layers, max_length=limit):
        yield features.words, features.vectors


def fit(vectors: np.ndarray, labels: Sequence[str], penalty: float) -> Any:
    """A logistic regression on standardised vectors; `penalty` is scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=300))
    return classifier.fit(vectors, labels)


def main(arguments: Sequence[str]) -> None:
    """Prints the figures."""
    if len(arguments) > 1 or not (_CHECKPOINT.value and _TRAIN.value and _VALIDATION.value):
        raise UsageError("--checkpoint, --train and --validation are needed, no other arguments")
    model = load_pretrained(_CHECKPOINT.value)
    chosen = [int(part) for part in _LAYERS.value.split(",")] if _LAYERS.value else None
    layers = check_layers(model.config, chosen)
    paths = Path(_TRAIN.value), Path(_VALIDATION.value)
    started = time.monotonic()
    if paths[0].suffix == ".txt":
        figures = tagging_figures(model, *paths, layers, _PENALTY.value)
    else:
        columns = _TEXT.value, _LABEL.value
        figures = text_figures(model, *paths, columns, _VECTORS.value, layers, _PENALTY.value)
    for name, value in figures.items():
        print(f"{name.ljust(10)} {value:.4f}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    _CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, Hugging Face or Google directory.")
    _TRAIN = flags.DEFINE_string("train", None, "File to learn from.")
    _VALIDATION = flags.DEFINE_string("validation", None, "File to compare with.")
    _LAYERS = flags.DEFINE_string("layers", None, "Layers; default the top four.")
    _VECTORS = flags.DEFINE_enum("vectors", "mean", ["mean", "pooled"], "A vector for a text.")
    _TEXT = flags.DEFINE_string("text", "text", "Column of the texts.")
    _LABEL = flags.DEFINE_string("label", "label", "Column of the labels.")
    _PENALTY = flags.DEFINE_float("penalty", 0.01, "scikit-learn's C: small is a strong penalty.")
    run_command(main)
