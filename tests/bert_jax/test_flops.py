# SPDX-License-Identifier: Apache-2.0
"""FLOP counts against published figures and against XLA's own count of the program."""

import jax
import numpy as np
import pytest

from bert_jax.config import BertConfig
from bert_jax.flops import mfu, peak_flops, sequence_flops, step_flops
from bert_jax.model import apply_pretraining, init_params
from bert_jax.tasks import pretraining_loss, pretraining_terms
from data_pipeline.batch import BatchSpec

# GFLOP of a sequence, worked out by hand from the architecture: encoder + attention + head.
WORKED_OUT = [
    ("base", 128, 20, 65.2 + 1.8 + 2.9),
    ("base", 512, 80, 260.9 + 29.0 + 11.5),
    ("large", 128, 20, 231.9 + 4.8 + 3.9),
    ("large", 512, 80, 927.7 + 77.3 + 15.5),
]


@pytest.mark.parametrize(("size", "length", "predictions", "giga"), WORKED_OUT)
def test_agrees_with_figures_worked_out_by_hand(size, length, predictions, giga):
    flops = sequence_flops(BertConfig.preset(size), length, predictions)
    assert flops / 1e9 == pytest.approx(giga, abs=0.11)


def test_a_step_is_its_sequences_with_the_slots_that_the_data_has():
    config = BertConfig.preset("base")
    assert step_flops(config, 256, 512) == 256 * sequence_flops(config, 512, 77)
    assert step_flops(config, 256, 128) / 1e12 == pytest.approx(17.9, abs=0.05)


def test_agrees_with_the_count_of_xla():
    # Unrolled, because XLA counts the body of a loop once. XLA adds what the formula leaves out
    # (softmax, LayerNorm, GELU, the loss): 0.8% at this width, less in wider models.
    config = BertConfig.preset("mini", vocab_size=2000, unroll=4)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    features = BatchSpec(4, 128).features()
    batch = {name: jax.ShapeDtypeStruct(*feature) for name, feature in features.items()}

    def loss(params, batch):
        return pretraining_loss(pretraining_terms(apply_pretraining(config, params, batch), batch))

    counted = jax.jit(jax.grad(loss)).lower(params, batch).cost_analysis()["flops"]
    assert counted == pytest.approx(step_flops(config, 4, 128), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v4 lite", 138),
        ("TPU v4", 275),
        ("TPU7x", 1153.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA L40S", 362),
    ],
)
def test_the_more_specific_chip_is_found(kind, tera):
    assert peak_flops(kind) == tera * 1e12


def test_an_unknown_chip_has_no_mfu():
    assert peak_flops("cpu") is None
    assert mfu(1e12, 1.0, "cpu", 1) is None


def test_mfu_is_a_share_of_all_devices():
    np.testing.assert_allclose(mfu(197e12, 2.0, "TPU v5 lite", 4), 0.125)
