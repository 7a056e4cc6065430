# SPDX-License-Identifier: Apache-2.0
"""Tagging: entities counted as conlleval does, and a run that learns them."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.seeds import finetune_seeds
from bert_jax.finetune.tagging import build, tag_figures, tag_terms
from configs import finetune
from data_pipeline.errors import ConfigError, DataError
from tests.bert_jax.labelled_task import write_model
from tests.bert_jax.tiny_model import tiny_tokenizer

TAGS = {"ship": "B-X", "wide": "B-Y", "sea": "I-Y"}


def test_figures_count_whole_entities() -> None:
    expected = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"]]
    predicted = [["B-X", "I-X", "O", "B-X"], ["O", "O"]]
    figures = tag_figures(("f1", "precision", "recall", "accuracy"), expected, predicted)
    assert figures == pytest.approx(
        {"f1": 0.4, "precision": 1 / 2, "recall": 1 / 3, "accuracy": 4 / 6}
    )
    nothing = tag_figures(("f1",), expected, [["O"] * 4, ["O"] * 2])
    assert nothing == {"f1": 0.0}


def test_the_loss_is_over_words() -> None:
    logits = jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[5.0, 5.0], [0.0, 3.0]]])
    batch = {"tag": jnp.array([[0, -1], [-1, 1]])}
    terms = tag_terms(logits, batch, jnp.ones(2))
    losses = [np.log(np.exp([2, 0]).sum()) - 2, np.log(np.exp([0, 3]).sum()) - 3]
    assert [float(value) for value in terms["loss"]] == pytest.approx([sum(losses), 2])
    assert float(terms["word_accuracy"][0]) == 2
    only = tag_terms(logits, batch, jnp.array([1.0, 0.0]))["loss"]
    assert [float(value) for value in only] == pytest.approx([losses[0], 1])


def write_conll(path, count, seed, tagged=True):
    """The ship is an X, "wide sea" a Y; words without entities between them."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        words = [str(word) for word in random.choice(["is", "it", "was", "not"], 6)]
        words.insert(int(random.integers(7)), "ship")
        place = int(random.integers(8))
        words[place:place] = ["wide", "sea"]
        lines += [f"{word} {TAGS.get(word, 'O')}" if tagged else word for word in words] + [""]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conll")
    write_conll(folder / "train.txt", 40, seed=0)
    write_conll(folder / "valid.txt", 10, seed=1)
    write_conll(folder / "test.txt", 3, seed=2, tagged=False)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("pretrained") / "run")


def make_config(model, files, **changes):
    recipe = copy.deepcopy(finetune.get_config("conll"))
    names = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
    recipe.data.update({split: str(files / name) for split, name in names.items()})
    recipe.update(length=8, batch_size=8, epochs=4.0, log_every=10)
    recipe.evaluation.update(batch_size=8, every=100)
    recipe.optimizer.learning_rate = 3e-3
    recipe.update_from_flattened_dict(changes)
    return FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": str(model)})


def test_a_run_learns_the_entities_and_writes_them_beside_the_words(model, files, tmp_path) -> None:
    """Sentences are longer than the sequences: they are split, and put together again."""
    summary = finetune_seeds(make_config(model, files), tmp_path / "run")
    (figures,) = summary["validation"].values()
    assert figures["f1"] > 0.95
    written = (tmp_path / "run" / "predictions" / "test.txt").read_text().split("\n")
    words = (files / "test.txt").read_text().split("\n")
    assert len(written) >= len(words)
    found = [tuple(line.split()) for line in written if line]
    assert [word for word, _ in found] == [word for word in words if word]
    right = [tag == TAGS.get(word, "O") for word, tag in found]
    assert sum(right) > 0.95 * len(right)


def test_what_does_not_fit_is_refused(model, files, tmp_path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    with pytest.raises(
        DataError, match=r"train.txt, line \d+: the tag 'B-Y' is not in the label set"
    ):
        build(make_config(model, files, **{"data.labels": "O,B-X,I-Y"}), tokenizer)
    with pytest.raises(ConfigError, match="'exact' is no figure of tagging"):
        build(make_config(model, files, **{"evaluation.metrics": "f1,exact"}), tokenizer)
    with pytest.raises(DataError, match="nothing in column 3"):
        build(make_config(model, files, **{"data.label": "3"}), tokenizer)
    with pytest.raises(ConfigError, match="CoNLL columns"):
        build(make_config(model, files, **{"data.source": "conll2003"}), tokenizer)
