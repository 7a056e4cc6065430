# SPDX-License-Identifier: Apache-2.0
"""Scores: the same for the same weights in every format, by the run's recipe, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax import partitioning
from bert_jax.config import MeshConfig
from bert_jax.convert.conversion import convert
from bert_jax.convert.huggingface import export_huggingface
from bert_jax.convert.load import FORMATS
from bert_jax.evaluate import HeldOut
from bert_jax.score import score, table
from bert_jax.train import train_and_evaluate
from bert_jax.train_step import make_eval_step
from data_pipeline.errors import DataError
from data_pipeline.mixture import open_mixture
from data_pipeline.source import ExampleOptions
from data_pipeline.store import open_store
from data_pipeline.tokenizers import load_tokenizer
from tests.bert_jax.tiny_model import random_params, tiny_config

ROOT = Path(__file__).parents[2]
SIZES = {"lengths": [32], "examples": 20, "batch_size": 8}


@pytest.fixture(scope="module")
def model(topics_store, tmp_path_factory):
    """A random model over the store's vocabulary, exported."""
    store = open_store(topics_store)
    config = tiny_config(vocab_size=store.vocab_size)
    params = random_params(config)
    directory = tmp_path_factory.mktemp("model") / "huggingface"
    export_huggingface(config, params, store.tokenizer, "", directory)
    return config, params, directory


@pytest.mark.parametrize("source_format", FORMATS)
def test_the_figures_are_those_of_held_out_evaluation(model, topics_store, tmp_path, source_format):
    config, params, directory = model
    convert(directory, tmp_path / "model", "huggingface", source_format)
    found = score(tmp_path / "model", str(topics_store), **SIZES)
    held_out = HeldOut(
        open_mixture(str(topics_store)),
        length=32,
        examples=20,
        batch_size=8,
        options=ExampleOptions(),
    )
    mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
    expected = held_out.evaluate(params, jax.jit(make_eval_step(config)), mesh)
    assert list(found) == ["32"] and found["32"].keys() == expected.keys()
    assert found["32"] == pytest.approx(expected, rel=1e-5)
    assert expected["mlm_loss"] > 1


def test_a_run_is_scored_as_it_was_evaluated(make_recipe, topics_store, tmp_path):
    recipe = make_recipe(**{"data.whole_word": True, "steps": 4, "optimizer.warmup_steps": 1})
    summary = train_and_evaluate(recipe, tmp_path)
    found = score(tmp_path, str(topics_store), examples=20, batch_size=8)
    assert found.keys() == summary["validation_by_length"].keys() == {"32", "64"}
    for length, figures in found.items():
        assert figures == pytest.approx(summary["validation_by_length"][length], rel=1e-5)
    other = score(tmp_path, str(topics_store), lengths=[16], examples=20, batch_size=8)
    assert other["16"]["length"] == 16 and other.keys() == {"16"}


@pytest.fixture
def without(model, topics_store, tmp_path):
    """Exports the model without some heads."""

    def export(*heads):
        config, params, _ = model
        kept = {name: part for name, part in params.items() if name not in heads}
        tokenizer = open_store(topics_store).tokenizer
        export_huggingface(config, kept, tokenizer, "", tmp_path / "less")
        return tmp_path / "less"

    return export


@pytest.mark.parametrize("heads", [("nsp",), ("pooler", "nsp")])
def test_without_a_next_sentence_head_the_rest_is_scored(model, topics_store, without, heads):
    whole = score(model[2], str(topics_store), **SIZES)
    found = score(without(*heads), str(topics_store), **SIZES)
    assert found["32"]["mlm_loss"] == pytest.approx(whole["32"]["mlm_loss"], rel=1e-6)
    assert not [name for name in found["32"] if "nsp" in name or name in ("loss", "random_share")]
    assert "NSP" in table(whole) and "NSP" not in table(found)


def test_without_a_masked_lm_head_there_is_nothing_to_score(topics_store, without):
    with pytest.raises(DataError, match="less lacks what this needs, a trained head mlm"):
        score(without("mlm"), str(topics_store), **SIZES)


def test_too_few_positions(model, topics_store):
    with pytest.raises(DataError, match="takes 40 tokens at most: --length=64 is too long"):
        score(model[2], str(topics_store), lengths=[32, 64], examples=20, batch_size=8)


def other_vocabulary(tokens):
    """How a vocabulary differs -> the changed list, settings and the message."""
    swapped = tokens[:-2] + tokens[-1:] + tokens[-2:-1]
    return {
        "size": (
            [*tokens, "more"],
            True,
            f"{len(tokens) + 1} entries in the model's, {len(tokens)}",
        ),
        "order": (swapped, True, f"entry {len(tokens) - 2} is {tokens[-1]!r} in the model's, "),
        "case": (tokens, False, "wordpiece {'lower_case': False, "),
    }


@pytest.mark.parametrize("kind", ["size", "order", "case"])
def test_another_vocabulary_is_refused(topics_store, tmp_path, kind):
    tokens = open_store(topics_store).tokenizer.tokens
    changed, lower_case, message = other_vocabulary(tokens)[kind]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in changed))
    tokenizer = load_tokenizer(
        tmp_path / "vocab.txt", lower_case=lower_case, strip_accents=lower_case
    )
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    export_huggingface(config, random_params(config), tokenizer, "", tmp_path / "model")
    with pytest.raises(DataError) as raised:
        score(tmp_path / "model", str(topics_store), **SIZES)
    assert message in str(raised.value)
    assert f"again with --tokenizer={tmp_path / 'model'}" in str(raised.value)


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.score", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_command(model, topics_store, tmp_path):
    path = tmp_path / "score.json"
    arguments = [f"--checkpoint={model[2]}", f"--store={topics_store}", "--examples=20"]
    arguments += ["--length=16", "--length=32", f"--json={path}"]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert list(written) == ["16", "32"] and done.stdout == table(written) + "\n"
    loss = written["32"]["mlm_loss"]
    perplexity = next(line for line in done.stdout.splitlines() if "perplexity" in line)
    assert float(perplexity.split()[-1]) == pytest.approx(np.exp(loss), rel=1e-2)
    again = command(*arguments)
    assert (again.returncode, "score.json exists; name another" in again.stderr) == (73, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--store=x"], 64, "--checkpoint=DIRECTORY and --store=STORE are needed"),
        (["--checkpoint=x", "--store=y", "z"], 64, "and nothing else"),
        (["--checkpoint=x", "--store=y"], 65, "x holds no model"),
        (["--checkpoint=x", "--store=y", "--length=4"], 64, "length"),
        (["--checkpoint=x", "--store=y", "--json=no/such.json"], 73, "folder does not exist"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, code, message):
    done = command(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
