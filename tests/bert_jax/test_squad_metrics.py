# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 are what the official scripts say (tests/goldens/make_squad_figures.py)."""

import json
from pathlib import Path

import pytest

from bert_jax.finetune.squad_metrics import f1, squad1_figures, squad2_figures

GOLDENS = json.loads(
    (Path(__file__).parents[1] / "goldens" / "squad_figures.json").read_text("utf-8")
)


@pytest.mark.parametrize("case", GOLDENS["1.1"])
def test_figures_of_squad1(case) -> None:
    assert squad1_figures(case["answers"], case["predictions"]) == pytest.approx(case["figures"])


@pytest.mark.parametrize("case", GOLDENS["2.0"])
def test_figures_of_squad2(case) -> None:
    found = squad2_figures(case["answers"], case["predictions"], case["null_odds"])
    assert found == pytest.approx(case["figures"])


def test_words_count_as_often_as_they_stand() -> None:
    assert f1("the ship ship", "a ship") == pytest.approx(2 / 3)
    assert f1("the", "the") == 0.0  # as in the official script: nothing is left to share
