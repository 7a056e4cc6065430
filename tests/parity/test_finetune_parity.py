# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning beside `transformers`, step by step: without dropout the same losses and logits."""

import sys
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from bert_jax.checkpoint import load_params
from bert_jax.convert.finetuned import finetuned_shapes
from bert_jax.convert.huggingface import to_huggingface_config
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.mapping import export_tensors
from bert_jax.convert.names import HUGGINGFACE
from bert_jax.finetune import loop
from bert_jax.finetune.seeds import finetune_seeds
from bert_jax.finetune.setup import prepare
from tests.bert_jax.labelled_task import make_config, write_model, write_tables
from tests.bert_jax.runs import rows_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from torch_finetune import forward, training_losses  # noqa: E402

STEPS = 30
NO_DROPOUT = {f"model.{part}_dropout": 0.0 for part in ("hidden", "attention", "head")}


def peer_of(source, head):
    """`BertForSequenceClassification` with our pre-trained weights and our fresh head."""
    config, params, *_ = load_pretrained(source)
    settings = transformers.BertConfig(**to_huggingface_config(config), num_labels=2)
    model = transformers.BertForSequenceClassification(settings).eval()
    model.bert.embeddings.word_embeddings.padding_idx = None
    tensors = {
        name: torch.tensor(array)
        for name, array in export_tensors(config, params, HUGGINGFACE).items()
        if name.startswith("bert.")
    }
    tensors["classifier.weight"] = torch.tensor(np.asarray(head["kernel"]).T.copy())
    tensors["classifier.bias"] = torch.tensor(np.array(head["bias"]))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert not missing
    return model


def test_losses_and_logits_are_those_of_transformers(tmp_path):
    torch.set_num_threads(1)
    source = write_model(tmp_path / "pretrained")
    write_tables(tmp_path)
    config = make_config(source, tmp_path, **NO_DROPOUT)
    setup = prepare(config)
    head = loop.init_finetune_state(
        setup.model, setup.task, setup.optimizer, setup.encoder, jax.random.key(config.seed)
    )["params"]["head"]
    model = peer_of(source, head)
    losses = training_losses(
        model, setup.task.train, seed=config.seed, rate=3e-3, steps=STEPS, rows=8
    )
    expected = list(losses)
    finetune_seeds(config, tmp_path / "run")
    found = [row["loss"] for row in rows_of(tmp_path / "run")]
    assert found[0] > 2 * min(found)  # something is learnt
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(found[:10], expected[:10], rtol=1e-4)
    abstract = finetuned_shapes(setup.model, setup.task.outputs, setup.mesh)
    params, _ = load_params(tmp_path / "run" / "checkpoints" / str(STEPS), abstract)
    examples = setup.task.train
    logits = np.stack(loop.predict(setup, params, examples)[0])
    with torch.no_grad():
        theirs = forward(model, examples.batch(np.arange(len(examples)), 16)).numpy()
    np.testing.assert_allclose(logits, theirs, atol=2e-2)
