# SPDX-License-Identifier: Apache-2.0
"""Averages between log lines are exact, late by one step, and finite or the run stops."""

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.metrics import Window
from data_pipeline.errors import DataError


def terms(mlm=(6.0, 2.0), nsp=(3.0, 3.0), norm=1.0):
    return {
        "mlm_loss": (jnp.float32(mlm[0]), jnp.float32(mlm[1])),
        "nsp_loss": (jnp.float32(nsp[0]), jnp.float32(nsp[1])),
        "gradient_norm": (jnp.float32(norm), jnp.float32(1)),
    }


BATCH = {"input_ids": np.arange(6, dtype=np.int32).reshape(2, 3)}


def test_averages_are_sums_over_weights(tmp_path):
    """Steps with more predictions weigh more, as in one big batch."""
    window = Window(tmp_path)
    window.add(1, terms(mlm=(6.0, 2.0)), BATCH)
    window.add(2, terms(mlm=(4.0, 8.0), norm=3.0), BATCH)
    window.read()
    assert window.averages() == {
        "loss": 2.0,
        "mlm_loss": 1.0,
        "nsp_loss": 1.0,
        "gradient_norm": 2.0,
    }


def test_the_newest_step_is_not_waited_for(tmp_path):
    window = Window(tmp_path)
    window.add(1, terms(mlm=(1.0, 1.0)), BATCH)
    window.add(2, terms(mlm=(100.0, 1.0)), BATCH)
    assert window.averages()["mlm_loss"] == 1.0
    window.read()
    assert window.averages()["mlm_loss"] == 100.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mlm", "nsp", "norm"])
def test_a_value_that_is_not_finite_stops_and_keeps_the_batch(tmp_path, name, value):
    window = Window(tmp_path / "nonfinite")
    window.add(6, terms(), {"input_ids": np.zeros((2, 3), np.int32)})
    broken = {name: value if name == "norm" else (value, 1.0)}
    window.add(7, terms(**broken), BATCH)
    with pytest.raises(DataError, match="not finite at step 7; its batch is kept in") as caught:
        window.add(8, terms(), BATCH)
    assert caught.value.exit_code == 65
    with np.load(tmp_path / "nonfinite" / "step-7.npz") as kept:
        np.testing.assert_array_equal(kept["input_ids"], BATCH["input_ids"])


def test_a_batch_that_cannot_be_kept_does_not_hide_why_the_run_stops(tmp_path):
    (tmp_path / "file").touch()
    window = Window(tmp_path / "file" / "nonfinite")
    window.add(7, terms(norm=np.nan), BATCH)
    with pytest.raises(DataError, match=r"gradient_norm not finite at step 7; its batch cannot be"):
        window.read()
