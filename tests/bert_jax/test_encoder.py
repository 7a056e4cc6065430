# SPDX-License-Identifier: Apache-2.0
"""What a layer asks of the devices that it is spread over; for its values see `test_model`."""

import dataclasses

import jax
import numpy as np
import pytest

from bert_jax.model import init_params, training_logits
from tests.bert_jax.test_model import CONFIG, KEY, make_batch


class Recorder:
    """An `Exchange` of one device that writes down what it is asked for."""

    def __init__(self):
        self.calls = []

    def fetch(self, params, *part):
        self.calls.append(part)
        return params

    def hold(self, x, param):
        self.calls.append((x.shape, param.shape))
        return x, param


@pytest.mark.parametrize("unroll", [1, 2])
def test_weights_are_fetched_by_layer_and_those_of_the_mlp_are_waited_for_at_the_context(unroll):
    config = dataclasses.replace(CONFIG, unroll=unroll)
    params, batch, recorder = init_params(config, KEY), make_batch(), Recorder()
    found = training_logits(config, params, batch, KEY, recorder)
    jax.tree.map(np.testing.assert_array_equal, found, training_logits(config, params, batch, KEY))
    context, inner = (8, 24, 2, 16), config.mlp_size
    layer = [
        ("encoder", "attention"),
        (context, (32, inner)),
        (context, (inner, 32)),
        ("encoder", "mlp"),
    ]
    parts = [("embeddings",), ("mlm",), ("nsp",), ("pooler",)]
    assert sorted(recorder.calls[:4]) == parts
    assert recorder.calls[4:] == layer  # traced once, however many are unrolled
