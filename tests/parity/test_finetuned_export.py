# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned models in the hands of `transformers`: the same logits from every kind of head."""

import numpy as np
import pytest
import torch
import transformers

from bert_jax.convert.conversion import convert
from bert_jax.finetune.classification import pooled_logits
from bert_jax.finetune.head import token_logits
from tests.bert_jax.labelled_task import FINETUNED, write_finetuned

torch.set_num_threads(1)
NAMES = {
    "input_ids": "input_ids",
    "input_mask": "attention_mask",
    "segment_ids": "token_type_ids",
}
LOADERS = {
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "tagging": transformers.AutoModelForTokenClassification,
}


def batch_of(config, shape):
    random = np.random.default_rng(0)
    mask = (np.arange(shape[-1]) < random.integers(5, shape[-1], (*shape[:-1], 1))).astype(np.int64)
    return {
        "input_ids": random.integers(5, config.vocab_size, shape) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(shape[-1]) > 6) * mask,
    }


@pytest.mark.parametrize("task", FINETUNED)
def test_logits_are_equal(task, tmp_path):
    workdir, config, params = write_finetuned(tmp_path, task)
    convert(workdir, tmp_path / "export", "orbax", "huggingface")
    model, loaded = LOADERS[task].from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    batch = batch_of(config, (3, 4, 12) if task == "multiple_choice" else (3, 12))
    with torch.no_grad():
        output = model.eval()(**{NAMES[name]: torch.tensor(a) for name, a in batch.items()})
    if task == "question_answering":
        theirs = torch.stack([output.start_logits, output.end_logits], -1).numpy()
    else:
        theirs = output.logits.numpy()
    if task in ("question_answering", "tagging"):
        ours = np.asarray(token_logits(0.0, config, params, batch, None))
        kept = batch["input_mask"] == 1
        ours, theirs = ours[kept], theirs[kept]
    else:
        ours = pooled_logits(0.0, task == "multiple_choice", config, params, batch, None)
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-5)
    assert np.std(theirs) > 0.05


def test_a_pipeline_says_our_labels(tmp_path):
    workdir, config, params = write_finetuned(tmp_path, "classification")
    convert(workdir, tmp_path / "export", "orbax", "huggingface")
    run = transformers.pipeline("text-classification", model=str(tmp_path / "export"))
    found = run("the ship sailed across the sea.", top_k=None)
    scores = {row["label"]: row["score"] for row in found}
    tokenizer = run.tokenizer
    encoded = tokenizer("the ship sailed across the sea.", return_tensors="np")
    batch = {ours: encoded[theirs] for ours, theirs in NAMES.items()}
    logits = np.asarray(pooled_logits(0.0, False, config, params, batch, None))[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    assert scores == pytest.approx(dict(zip(["letters", "sea"], expected, strict=True)), abs=1e-5)
