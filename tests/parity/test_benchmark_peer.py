# SPDX-License-Identifier: Apache-2.0
"""The peer that the benchmark times does the same work as we do: same losses, dropout in force."""

import sys
from pathlib import Path

import pytest
import torch

from bert_jax.config import BertConfig
from bert_jax.convert.mapping import import_tensors
from bert_jax.convert.names import HUGGINGFACE
from bert_jax.model import apply_pretraining
from bert_jax.tasks import pretraining_loss, pretraining_terms
from data_pipeline.batch import BatchSpec

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from torch_step import TorchStep  # noqa: E402
from train_step import synthetic_batch  # noqa: E402


@pytest.mark.parametrize("gathered", [True, False])
def test_its_loss_is_ours(gathered):
    torch.set_num_threads(1)  # its threads spin, which is slow where others compute too
    config = BertConfig.preset("tiny", vocab_size=200)
    batch = synthetic_batch(BatchSpec(4, 32), 200, seed=3)
    peer = TorchStep(config, [batch], gathered=gathered)
    first = peer._loss(peer._batches[0]).item()
    assert first != peer._loss(peer._batches[0]).item()  # dropout
    tensors = {name: t.detach().numpy() for name, t in peer._model.state_dict().items()}
    params = import_tensors(config, tensors, HUGGINGFACE)
    ours = float(
        pretraining_loss(pretraining_terms(apply_pretraining(config, params, batch), batch))
    )
    peer._model.eval()
    with torch.no_grad():
        assert peer._loss(peer._batches[0]).item() == pytest.approx(ours, rel=1e-5)
    peer._model.train()
    for _ in range(40):
        peer.dispatch()
    peer._model.eval()
    with torch.no_grad():
        assert peer._loss(peer._batches[0]).item() < ours - 0.1  # it learns
