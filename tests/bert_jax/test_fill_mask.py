# SPDX-License-Identifier: Apache-2.0
"""Filling blanks: probabilities against a plain softmax, batches, several blanks, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.convert.huggingface import export_huggingface
from bert_jax.fill_mask import fill_mask
from bert_jax.model import apply_pretraining
from data_pipeline.errors import DataError
from tests.bert_jax.tiny_model import VOCABULARY, random_params, tiny_config, tiny_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path):
    return tiny_config(), random_params(tiny_config()), tiny_tokenizer(tmp_path)


def plain(model, text, place):
    """Probabilities at one position of one unpadded row."""
    config, params, tokenizer = model
    special = tokenizer.special
    ids = np.array([[special.cls, *tokenizer.encode_with_mask(text), special.sep]], np.int32)
    batch = {
        "input_ids": ids,
        "input_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
        "masked_positions": np.array([[place]], np.int32),
    }
    logits = np.asarray(apply_pretraining(config, params, batch).mlm, np.float64)[0, 0]
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def test_probabilities_are_the_softmax_over_the_vocabulary(model):
    (result,) = fill_mask(*model, ["The ship [MASK] the sea."], top=len(VOCABULARY))
    expected = plain(model, "The ship [MASK] the sea.", 3)
    assert sum(p["probability"] for p in result["predictions"]) == pytest.approx(1, abs=1e-5)
    for prediction in result["predictions"]:
        wanted = expected[VOCABULARY.index(prediction["token"])]
        assert prediction["probability"] == pytest.approx(wanted, rel=1e-4)
    probabilities = [p["probability"] for p in result["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_every_blank_of_every_text_in_order(model):
    texts = ["[MASK]", "the [MASK] [MASK] sea [MASK].", "it is not [MASK]"]
    results = fill_mask(*model, texts, top=1)
    assert [(r["text"], r["mask"]) for r in results] == [
        (texts[0], 0),
        (texts[1], 0),
        (texts[1], 1),
        (texts[1], 2),
        (texts[2], 0),
    ]
    for result, place in zip(results, (1, 2, 3, 5, 4), strict=True):
        expected = plain(model, result["text"], place)
        assert result["predictions"][0]["token"] == VOCABULARY[expected.argmax()]


def test_answers_do_not_depend_on_the_company(model):
    texts = [f"{'the wide sea ' * (number % 9)}[MASK] ship" for number in range(70)]
    together = fill_mask(*model, texts, top=3)
    assert len(together) == 70
    for number in (0, 31, 32, 69):
        (alone,) = fill_mask(*model, [texts[number]], top=3)
        assert [p["token"] for p in alone["predictions"]] == [
            p["token"] for p in together[number]["predictions"]
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the ship", "no [MASK] in 'the ship'"),
        ("the [mask]", "no [MASK] in"),
        ("", "no [MASK] in ''"),
        ("[MASK]" + " the" * 38, "text of 41 tokens, the model takes 40 at most"),
    ],
)
def test_texts_that_cannot_be_filled(model, text, message):
    with pytest.raises(DataError) as raised:
        fill_mask(*model, ["a [MASK]", text])
    assert message in str(raised.value)
    assert len(fill_mask(*model, ["[MASK]" + " the" * 37])) == 1


def command(*arguments, **options):
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.fill_mask", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_command_answers_arguments_and_lines(model, tmp_path):
    config, params, tokenizer = model
    export_huggingface(config, params, tokenizer, "", tmp_path / "export")
    source = f"--checkpoint={tmp_path / 'export'}"
    text = "the [MASK] sailed across [MASK]"
    given = command(source, "--top=2", f"--json={tmp_path / 'out.json'}", text)
    assert given.returncode == 0, given.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == fill_mask(*model, [text], 2)
    assert given.stdout.splitlines()[0] == "the ▢ sailed across [MASK]"
    assert given.stdout.splitlines()[3] == "the [MASK] sailed across ▢"
    read = command(source, "--top=2", input=f"{text}\n\nno blank\n")
    assert read.stdout == given.stdout
    assert (read.returncode, "no [MASK] in 'no blank'" in read.stderr) == (65, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a [MASK]"], 64, "--checkpoint=DIRECTORY is needed"),
        (["--checkpoint=nowhere", "a [MASK]"], 65, "nowhere holds no model: expected a run"),
        (["--checkpoint=x", "--top=0"], 64, "top"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, code, message):
    done = command(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
