# SPDX-License-Identifier: Apache-2.0
"""Filling blanks: probabilities against a plain softmax, batches, whole words, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.convert.conversion import convert
from bert_jax.convert.huggingface import export_huggingface
from bert_jax.fill_mask import BATCH_SIZE, fill_mask, fill_words
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


def test_words_of_several_pieces_are_found_as_by_trying_them_all(model):
    """Against the plain product for every pair of pieces, in a text with a second [MASK]."""
    config, params, tokenizer = model
    text, special = "the [MASK] it [MASK]", tokenizer.special
    found = fill_words(*model, [text], top=400, pieces=2)
    assert [(result["text"], result["mask"]) for result in found] == [(text, 0), (text, 1)]
    words = {p["token"]: p for p in found[0]["predictions"]}
    single = plain(model, text, 2)
    twice = "the [MASK] [MASK] it [MASK]"
    first = plain(model, twice, 2)
    for start in ("sea", "ship"):
        second = plain(model, twice.replace("[MASK]", start, 1), 3)
        place = VOCABULARY.index(start)
        assert words[start]["probability"] == pytest.approx(single[place], rel=1e-4)
        assert words[start]["pieces"] == 1
        for end in ("##s", "##ed"):
            word = words[start + end.removeprefix("##")]
            expected = first[place] * second[VOCABULARY.index(end)]
            assert word["probability"] == pytest.approx(expected, rel=1e-4)
            assert word["pieces"] == 2
    ranks = [p["probability"] ** (1 / p["pieces"]) for p in found[0]["predictions"]]
    assert ranks == sorted(ranks, reverse=True)
    letters = [token for token in VOCABULARY[5:] if "#" not in token]
    endings = 2 * sum(token.isalnum() for token in letters)
    assert len(words) == len(found[0]["predictions"])
    assert len(words) == len(letters) + endings - 1  # "is" is an entry, and i ##s
    assert special.mask not in [VOCABULARY.index(t) for t in words if t in VOCABULARY]


def test_a_narrow_beam_keeps_the_best(model):
    (wide, _) = fill_words(*model, ["the [MASK] it [MASK]"], top=400, pieces=2)
    (narrow, _) = fill_words(*model, ["the [MASK] it [MASK]"], top=3, pieces=2)
    assert len(narrow["predictions"]) == 3
    assert narrow["predictions"][0] == wide["predictions"][0]


def test_no_room_for_longer_words(model):
    (result,) = fill_words(*model, ["[MASK]" + " the" * 37], top=500, pieces=3)
    assert {p["pieces"] for p in result["predictions"]} == {1}


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
    read = command(source, "--top=2", input=f"{text}\n\n")
    assert read.stdout == given.stdout
    many = "".join(f"the [MASK] {'sea ' * (number % 7)}\n" for number in range(BATCH_SIZE + 5))
    read = command(source, "--top=1", input=f"{many}no blank\n")
    assert (read.returncode, "no [MASK] in 'no blank'" in read.stderr) == (65, True)
    assert read.stdout.count("▢") == BATCH_SIZE
    words = command(source, "--top=2", "--pieces=3", text)
    assert (words.returncode, words.stdout.count("▢")) == (0, 2), words.stderr


@pytest.mark.parametrize("target_format", ["google", "orbax"])
def test_every_format_is_asked(model, tmp_path, target_format):
    export_huggingface(*model, "", tmp_path / "export")
    convert(tmp_path / "export", tmp_path / "other", "huggingface", target_format)
    done = command(f"--checkpoint={tmp_path / 'other'}", f"--json={tmp_path / 'a'}", "the [MASK]")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a").read_text()) == fill_mask(*model, ["the [MASK]"])


def test_files_are_not_written_over(tmp_path):
    (tmp_path / "out.json").write_text("mine")
    arguments = ["--checkpoint=x", f"--json={tmp_path / 'out.json'}", "a [MASK]"]
    done = command(*arguments)
    assert (done.returncode, "out.json exists; name another file" in done.stderr) == (73, True)
    assert (tmp_path / "out.json").read_text() == "mine"
    assert "x holds no model" in command(*arguments, "--overwrite").stderr


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
