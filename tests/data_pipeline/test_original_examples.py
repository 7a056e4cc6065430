# SPDX-License-Identifier: Apache-2.0
"""The oracle of the other tests is the original: same draws, same examples."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from data_pipeline.batch import max_predictions
from tests.data_pipeline.original_examples import Recipe, original_examples

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/original_examples.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_makes_what_the_original_code_made(name: str) -> None:
    case, vocabulary = GOLDEN["cases"][name], GOLDEN["vocabulary"]
    continuations = {i for i, token in enumerate(vocabulary) if token.startswith("##")}
    recipe = Recipe(
        case["length"],
        max_predictions(case["length"]),
        len(vocabulary),
        cls=vocabulary.index("[CLS]"),
        sep=vocabulary.index("[SEP]"),
        mask=vocabulary.index("[MASK]"),
        short_probability=case["short_probability"],
        continuations=continuations if case["whole_word"] else (),
    )
    rng = random.Random(GOLDEN["seed"])
    examples = original_examples(case["documents"], recipe, case["passes"], rng)
    assert len(examples) > 10
    assert [dataclasses.asdict(example) for example in examples] == case["examples"]
