# SPDX-License-Identifier: Apache-2.0
"""The peer on a pod does the same work as we do: same loss over all devices, dropout in force.

`make pod-peer` runs what needs transformers 4.57 where it is; elsewhere there is no peer.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bert_jax.config import BertConfig, OptimizerConfig
from bert_jax.convert.huggingface import to_huggingface_config
from bert_jax.convert.mapping import export_tensors
from bert_jax.convert.names import HUGGINGFACE
from bert_jax.model import apply_pretraining
from bert_jax.plan.kinds import SCOPES
from bert_jax.tasks import pretraining_loss, pretraining_terms
from data_pipeline.batch import BatchSpec
from tests.bert_jax.tiny_model import random_params

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from pod_peer import NoPeerError, check_peer, with_our_names  # noqa: E402

DEVICES, STEPS = 4, 30


@pytest.fixture(scope="module")
def devices():
    try:
        check_peer()
    except NoPeerError as error:
        pytest.skip(str(error))
    jax.config.update("jax_num_cpu_devices", DEVICES)
    return jax.devices()


def make(config, devices, folder):
    """Their step around random weights of ours, exported by us and loaded by them."""
    from flax_step import FlaxStep
    from safetensors.numpy import save_file
    from transformers import FlaxBertForPreTraining

    params = random_params(config)
    tensors = export_tensors(config, params, HUGGINGFACE)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(to_huggingface_config(config)))
    step = FlaxStep(config, OptimizerConfig(learning_rate=1e-3, warmup_steps=1), 100, devices)
    return step, FlaxBertForPreTraining.from_pretrained(folder).params, params


@pytest.mark.parity
def test_its_loss_is_ours_and_falls(devices, tmp_path):
    from flax_step import their_batch
    from train_step import synthetic_batch

    config = BertConfig.preset("tiny", vocab_size=200, hidden_dropout=0.0, attention_dropout=0.0)
    batch = synthetic_batch(BatchSpec(2 * DEVICES, 32), 200, seed=3)
    step, theirs, params = make(config, devices, tmp_path)
    terms = pretraining_terms(apply_pretraining(config, params, batch), batch)
    state, keys, losses = step.init(theirs), step.dropout_keys(), []
    for _ in range(STEPS):
        state, metrics, keys = step.step(state, their_batch(batch), keys)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(float(pretraining_loss(terms)), rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parity
def test_its_dropout_is_in_force(devices, tmp_path):
    from flax_step import their_batch
    from train_step import synthetic_batch

    config = BertConfig.preset("tiny", vocab_size=200)
    batch = their_batch(synthetic_batch(BatchSpec(2 * DEVICES, 32), 200, seed=3))
    step, theirs, _ = make(config, devices, tmp_path)
    keys, losses = step.dropout_keys(), []
    for _ in range(2):
        state = step.init(jax.tree.map(jnp.copy, theirs))  # which the step takes over
        _, metrics, keys = step.step(state, batch, keys)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.23.0")
    with pytest.raises(NoPeerError, match=r"here is 5\.23\.0: make pod-peer"):
        check_peer()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("attention/self/query/dot_general", None),
        ("attention/self/...qhd,...khd->...hqk/dot_general", "attention"),
        ("attention/self/jit(_bernoulli)/jit(_uniform)/xor", "dropout"),
        ("attention/output/dense/dot_general", None),
        ("attention/output/LayerNorm/mul", "LayerNorm"),
        ("intermediate/dense/dot_general", None),
        ("intermediate/erfc", "GELU"),
        ("output/dropout/mul", "dropout"),
    ],
)
def test_parts_of_their_model_count_as_the_same_parts_of_ours(path, kind):
    before = "jit(_on_device)/shard_map/jvp(FlaxBertForPreTrainingModule)/bert/encoder/layer/0/"
    scopes = with_our_names(f'op_name="{before}{path}"').strip('"').split("/")
    known = [SCOPES[scope] for scope in scopes if scope in SCOPES]
    assert (known or [None])[-1] == kind
