# SPDX-License-Identifier: Apache-2.0
"""The benchmark of frozen features: what an encoder of random weights can tell is found."""

import sys
from pathlib import Path

import pytest

from bert_jax.convert.load import Pretrained
from tests.bert_jax.labelled_task import write_tables
from tests.bert_jax.tiny_model import random_params, tiny_config, tiny_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from frozen_features import tagging_figures, text_figures  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge")


@pytest.fixture
def model(tmp_path):
    config = tiny_config()
    return Pretrained(config, random_params(config), tiny_tokenizer(tmp_path), ())


def test_words(model, tmp_path) -> None:
    lines = ["ship B-X", "is O", "wide B-Y", "sea I-Y", "\u200b O", "not O", ""] * 20
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    path = tmp_path / "a.txt"
    figures = tagging_figures(model, path, path, (-1, -2), 1.0)
    assert figures == {"f1": 1.0, "accuracy": 1.0}


def test_texts(model, tmp_path) -> None:
    write_tables(tmp_path)
    figures = text_figures(
        model, tmp_path / "train.tsv", tmp_path / "dev.tsv", ("text", "label"), "mean", (-1,), 1.0
    )
    assert figures["accuracy"] > 0.9
