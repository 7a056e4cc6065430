# SPDX-License-Identifier: Apache-2.0
"""Losses and accuracies by hand, and how they add up over parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model import PretrainingLogits
from bert_jax.tasks import loss_weights, pretraining_loss, pretraining_terms


def hand_made():
    """Two examples with two slots each, three words: three predictions count."""
    mlm = np.log([[[1, 2, 1], [8, 1, 1]], [[1, 1, 6], [5, 3, 2]]]).astype(np.float32)
    nsp = np.log([[3, 1], [4, 1]]).astype(np.float32)
    batch = {
        "masked_ids": np.array([[1, 1], [2, 0]], np.int32),
        "masked_weights": np.array([[1, 1], [1, 0]], np.float32),
        "next_sentence_label": np.array([0, 1], np.int32),
    }
    return PretrainingLogits(mlm=mlm, nsp=nsp), batch


def test_terms_by_hand():
    terms = pretraining_terms(*hand_made())
    expected = {
        "mlm_loss": (math.log(4 / 2) + math.log(10 / 1) + math.log(8 / 6), 3),
        "mlm_accuracy": (2, 3),
        "nsp_loss": (math.log(4 / 3) + math.log(5 / 1), 2),
        "nsp_accuracy": (1, 2),
    }
    assert set(terms) == set(expected)
    for name, pair in expected.items():
        np.testing.assert_allclose(terms[name], pair, rtol=1e-6)
        assert terms[name][0].dtype == terms[name][1].dtype == np.float32


def test_loss_is_the_originals_sum_of_means():
    terms = pretraining_terms(*hand_made())
    mlm = math.log(4 / 2 * 10 / 1 * 8 / 6) / (3 + 1e-5)
    nsp = math.log(4 / 3 * 5 / 1) / 2
    np.testing.assert_allclose(pretraining_loss(terms), mlm + nsp, rtol=1e-6)


def test_row_weights_take_rows_out_of_the_next_sentence_task():
    logits, batch = hand_made()
    terms = pretraining_terms(logits, batch, np.array([1, 0], np.float32))
    np.testing.assert_allclose(terms["nsp_loss"], (math.log(4 / 3), 1), rtol=1e-6)
    np.testing.assert_allclose(terms["nsp_accuracy"], (1, 1))
    np.testing.assert_allclose(terms["mlm_loss"][1], 3)


def test_rows_without_a_label_have_no_next_sentence_loss():
    logits, batch = hand_made()
    labelled = pretraining_loss(pretraining_terms(logits, batch), loss_weights(batch))
    nsp = pretraining_terms(logits, batch)["nsp_loss"]
    batch["next_sentence_label"] = np.array([-1, -1], np.int32)
    terms = pretraining_terms(logits, batch)
    assert terms["nsp_loss"] == terms["nsp_accuracy"] == (0, 0)
    np.testing.assert_allclose(
        pretraining_loss(terms, loss_weights(batch)), labelled - nsp[0] / nsp[1], rtol=1e-6
    )
    gradient = jax.grad(
        lambda nsp: pretraining_loss(pretraining_terms(logits._replace(nsp=nsp), batch))
    )(jnp.asarray(logits.nsp))
    assert not np.any(gradient)


def test_batch_without_predictions_gives_numbers():
    logits, batch = hand_made()
    batch["masked_weights"] = np.zeros((2, 2), np.float32)

    def loss(mlm, nsp):
        terms = pretraining_terms(PretrainingLogits(mlm, nsp), batch, np.zeros(2, np.float32))
        return pretraining_loss(terms)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*map(jnp.asarray, logits))
    assert value == 0
    assert not np.any(gradients[0])
    assert not np.any(gradients[1])


def test_impossible_logits_do_not_overflow():
    logits, batch = hand_made()
    huge = PretrainingLogits(mlm=1e30 * logits.mlm, nsp=1e30 * logits.nsp)
    assert np.isfinite(pretraining_loss(pretraining_terms(huge, batch)))


@pytest.mark.parametrize("parts", [2, 4])
def test_losses_of_parts_add_up_to_that_of_the_whole(parts):
    random = np.random.default_rng(0)
    logits = PretrainingLogits(random.normal(size=(8, 3, 5)), random.normal(size=(8, 2)))
    batch = {
        "masked_ids": random.integers(0, 5, (8, 3), dtype=np.int32),
        # Parts with many and with few predictions: a mean of means would be another number.
        "masked_weights": (np.arange(3) < [[3]] * 4 + [[1]] * 4).astype(np.float32),
        "next_sentence_label": random.integers(0, 2, 8, dtype=np.int32),
    }
    with jax.enable_x64(True):
        whole = pretraining_loss(pretraining_terms(logits, batch))
        total = 0.0
        for rows in np.split(np.arange(8), parts):
            part = {name: array[rows] for name, array in batch.items()}
            terms = pretraining_terms(PretrainingLogits(logits.mlm[rows], logits.nsp[rows]), part)
            total += pretraining_loss(terms, loss_weights(batch))
    np.testing.assert_allclose(total, whole, rtol=1e-12)
