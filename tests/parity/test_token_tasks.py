# SPDX-License-Identifier: Apache-2.0
"""Tagging and question answering give the logits, losses and gradients of `transformers`."""

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.convert.load import load_pretrained
from bert_jax.finetune.head import token_logits
from bert_jax.finetune.question_answering import span_terms
from bert_jax.finetune.tagging import tag_terms

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(35))]
CONFIG = dict(
    vocab_size=len(WORDS), hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=96, max_position_embeddings=64, initializer_range=0.1,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def save(model, folder):
    """The encoder of a model, with a pooler that the tasks never ask."""
    whole = transformers.BertModel(model.config)
    whole.load_state_dict(model.bert.state_dict(), strict=False)
    whole.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")


def ours(folder, layer):
    """Configuration, and parameters with the head that the layer is."""
    config, params, _, _ = load_pretrained(folder)
    kernel, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()
    return config, params | {"head": {"kernel": kernel, "bias": bias}}


def random_batch(length):
    random = np.random.default_rng(0)
    ids = random.integers(5, len(WORDS), (4, length)).astype(np.int32)
    segments = (np.arange(length) > random.integers(3, length, (4, 1))).astype(np.int32)
    return {"input_ids": ids, "input_mask": np.ones_like(ids), "segment_ids": segments}


def theirs(batch):
    return {
        "input_ids": torch.tensor(batch["input_ids"].astype(int)),
        "attention_mask": torch.tensor(batch["input_mask"].astype(int)),
        "token_type_ids": torch.tensor(batch["segment_ids"].astype(int)),
    }


def compare(model, layer, folder, batch, terms, labels):
    save(model, folder)
    config, params = ours(folder, layer)

    def loss(params):
        logits = token_logits(0.0, config, params, batch, None)
        total, weight = terms(logits, batch, np.ones(4, np.float32))["loss"]
        return total / weight, logits

    (value, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    output = model(**theirs(batch), **labels)
    output.loss.backward()
    assert float(value) == pytest.approx(output.loss.item(), abs=1e-5)
    words = model.bert.embeddings.word_embeddings.weight.grad.numpy()
    found = gradients["embeddings"]["word"][: len(WORDS)]
    assert np.linalg.norm(found - words) <= 1e-4 * np.linalg.norm(words)
    head = layer.weight.grad.numpy().T
    assert np.linalg.norm(gradients["head"]["kernel"] - head) <= 1e-5 * np.linalg.norm(head)
    return np.asarray(logits), output


def test_tagging(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG, num_labels=7, classifier_dropout=0.0)
    model = transformers.BertForTokenClassification(config).train()
    batch = random_batch(20)
    batch["input_mask"][1:, 15:] = 0
    tags = np.random.default_rng(1).integers(-1, 7, (4, 20)).astype(np.int32)
    batch["tag"] = np.where(batch["input_mask"] == 1, tags, -1)
    labels = {"labels": torch.tensor(np.where(batch["tag"] < 0, -100, batch["tag"]).astype(int))}
    logits, output = compare(model, model.classifier, tmp_path, batch, tag_terms, labels)
    np.testing.assert_allclose(logits, output.logits.detach().numpy(), atol=1e-5)


def test_question_answering(tmp_path):
    """Without padding, which the loss of `transformers` counts in and ours does not."""
    torch.manual_seed(1)
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**CONFIG)).train()
    batch = random_batch(24)
    random = np.random.default_rng(2)
    for name in ("start_position", "end_position"):
        batch[name] = random.integers(0, 24, 4).astype(np.int32)
    labels = {
        f"{side}_positions": torch.tensor(batch[f"{side}_position"].astype(int))
        for side in ("start", "end")
    }
    logits, output = compare(model, model.qa_outputs, tmp_path, batch, span_terms, labels)
    np.testing.assert_allclose(logits[..., 0], output.start_logits.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(logits[..., 1], output.end_logits.detach().numpy(), atol=1e-5)
