# SPDX-License-Identifier: Apache-2.0
"""Held-out figures: exact averages over exactly the examples that were asked for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig
from bert_jax.evaluate import HeldOut
from bert_jax.model import apply_pretraining, init_params
from bert_jax.train_step import make_eval_step
from data_pipeline.mixture import open_mixture
from data_pipeline.source import ExampleOptions

LENGTH = 32


@pytest.fixture(scope="module")
def store(topics_store):
    return open_mixture(str(topics_store))


def held_out(store, examples, batch_size):
    options = ExampleOptions()
    return HeldOut(store, length=LENGTH, examples=examples, batch_size=batch_size, options=options)


@pytest.fixture(scope="module")
def model(store):
    config = BertConfig(
        vocab_size=store.vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        mlp_size=64,
        max_positions=LENGTH,
        initializer_range=0.5,  # far from uniform predictions
    )
    return config, init_params(config, jax.random.key(0))


def by_hand(store, model, examples):
    """The same figures in NumPy, one example after the other."""
    config, params = model
    batch = held_out(store, examples, examples).stream.batch(np.arange(examples))
    logits = jax.device_get(apply_pretraining(config, params, jax.tree.map(jnp.asarray, batch)))
    totals = dict.fromkeys(("mlm", "hits", "weights", "nsp", "nsp_hits"), 0.0)
    for row in range(examples):
        for slot in np.flatnonzero(batch["masked_weights"][row]):
            scores = logits.mlm[row, slot].astype(np.float64)
            label = batch["masked_ids"][row, slot]
            totals["mlm"] += np.log(np.exp(scores).sum()) - scores[label]
            totals["hits"] += scores.argmax() == label
            totals["weights"] += 1
        scores, label = logits.nsp[row].astype(np.float64), batch["next_sentence_label"][row]
        totals["nsp"] += np.log(np.exp(scores).sum()) - scores[label]
        totals["nsp_hits"] += scores.argmax() == label
    return {
        "mlm_loss": totals["mlm"] / totals["weights"],
        "mlm_accuracy": totals["hits"] / totals["weights"],
        "nsp_loss": totals["nsp"] / examples,
        "nsp_accuracy": totals["nsp_hits"] / examples,
    }


@pytest.mark.parametrize("batch_size", [8, 16, 40])
def test_averages_are_exact_whatever_the_batch_size(store, model, batch_size):
    """21 examples never fill the last batch, and have different numbers of predictions."""
    mesh = partitioning.make_mesh(MeshConfig())
    step = jax.jit(make_eval_step(model[0]))
    figures = held_out(store, 21, batch_size).evaluate(model[1], step, mesh)
    expected = by_hand(store, model, 21)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-5), name
    assert figures["loss"] == pytest.approx(expected["mlm_loss"] + expected["nsp_loss"], rel=1e-5)
    error = math.sqrt(expected["nsp_accuracy"] * (1 - expected["nsp_accuracy"]) / 21)
    assert figures["nsp_standard_error"] == pytest.approx(error)
    assert figures["examples"] == 21


def test_no_guess_without_context_beats_the_unigram_entropy(store):
    """Shares of the masked tokens themselves are the best such guess, and reach it exactly."""
    held = held_out(store, 30, 8)
    batch = held.stream.batch(np.arange(30))
    ids = batch["masked_ids"][batch["masked_weights"] > 0]
    shares = np.bincount(ids, minlength=store.vocab_size) / len(ids)
    assert held.unigram_entropy == pytest.approx(-np.log(shares[ids]).mean())
    for other in (np.full(store.vocab_size, 1 / store.vocab_size), (shares + 0.01) / 2):
        other = other / other.sum()
        assert -np.log(other[ids]).mean() > held.unigram_entropy
    assert held.random_share == batch["next_sentence_label"].mean()


def test_no_more_examples_than_there_are(store):
    held = held_out(store, 10**9, 8)
    assert held.examples == held.stream.examples < 10**4
