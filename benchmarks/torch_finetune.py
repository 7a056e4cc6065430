# SPDX-License-Identifier: Apache-2.0
r"""The same fine-tuning by PyTorch and `transformers`: same weights, examples, order and optimiser.

    python benchmarks/torch_finetune.py --model=EXPORT --train=train.tsv --validation=dev.tsv \
        --seeds=5 --rate=3e-4

EXPORT is a Hugging Face directory (`python -m bert_jax.convert --to=huggingface`). The tables have
the columns `text` and `label`. Prints the validation accuracy of the best epoch of each seed, to be
compared with `python -m bert_jax.finetune --config=configs/finetune.py:files` on the same files.
Only the random numbers differ, of head and dropout. Needs the extra `parity`.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from absl import app, flags

from data_pipeline.batch import Batch
from data_pipeline.labelled.classification import class_targets, find_labels, text_examples
from data_pipeline.labelled.examples import Examples, at_places
from data_pipeline.labelled.tables import read_table
from data_pipeline.tokenizers import load_tokenizer

_MODEL = flags.DEFINE_string("model", None, "Hugging Face directory.", required=True)
_TRAIN = flags.DEFINE_string("train", None, "Table to learn from.", required=True)
_VALIDATION = flags.DEFINE_string("validation", None, "Table to judge by.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds, from 0.")
_RATE = flags.DEFINE_float("rate", 2e-5, "Learning rate.")
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Rows a step.")
_LENGTH = flags.DEFINE_integer("length", 64, "Tokens of a sequence at most.")


class BertAdam:
    """`AdamWeightDecayOptimizer` of google-research/bert: no bias correction; linear schedule."""

    def __init__(self, model: torch.nn.Module, rate: float, steps: int) -> None:
        self._rate, self._steps, self._warmup = rate, steps, int(steps * 0.1)
        self._step = 0
        self._slots = [
            (
                parameter,
                0.0 if "LayerNorm" in name or name.endswith("bias") else 0.01,
                torch.zeros_like(parameter),
                torch.zeros_like(parameter),
            )
            for name, parameter in model.named_parameters()
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Clips all gradients together to norm 1, updates, and clears them."""
        torch.nn.utils.clip_grad_norm_([p for p, *_ in self._slots], 1.0)
        warm = self._step < self._warmup
        factor = self._step / self._warmup if warm else 1 - self._step / self._steps
        self._step += 1
        for parameter, decay, mean, square in self._slots:
            mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
            square.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            update = mean / (square.sqrt() + 1e-6) + decay * parameter
            parameter.sub_(self._rate * factor * update)
            parameter.grad = None


def make_examples(path: str, labels: Sequence[str], tokenizer_path: str, length: int) -> Examples:
    """Our own examples, so that both sides read the same tokens."""
    table = read_table("files", path)
    targets = class_targets(table, "label", labels)
    tokenizer = load_tokenizer(Path(tokenizer_path) / "vocab.txt")
    return text_examples(table, tokenizer, length=length, text_a="text", targets=targets)


def forward(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits [batch, labels]."""
    tensors = {name: torch.from_numpy(array).long() for name, array in batch.items()}
    return model(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["input_mask"],
        token_type_ids=tensors["segment_ids"],
    ).logits


def training_losses(
    model: torch.nn.Module, examples: Examples, *, seed: int, rate: float, steps: int, rows: int
) -> Iterator[float]:
    """Makes one step for every loss that is asked for."""
    optimizer = BertAdam(model, rate, steps)
    for step in range(steps):
        numbers = at_places(step * rows + np.arange(rows), len(examples), seed)
        batch = examples.batch(numbers, examples.padded_length(numbers))
        labels = torch.from_numpy(batch["label"]).long()
        loss = torch.nn.functional.cross_entropy(forward(model, batch), labels)
        loss.backward()
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def accuracy(model: torch.nn.Module, examples: Examples) -> float:
    """Share of examples whose label has the highest logit."""
    model.eval()
    hits = 0
    for first in range(0, len(examples), 64):
        numbers = np.arange(first, min(first + 64, len(examples)))
        batch = examples.batch(numbers, examples.padded_length(numbers))
        hits += int((forward(model, batch).argmax(-1).numpy() == batch["label"]).sum())
    model.train()
    return hits / len(examples)


def main(arguments: Sequence[str]) -> None:
    """Fine-tunes with every seed and prints the accuracies."""
    labels = find_labels(read_table("files", _TRAIN.value), "label")
    train, validation = (
        make_examples(path, labels, _MODEL.value, _LENGTH.value)
        for path in (_TRAIN.value, _VALIDATION.value)
    )
    rows = _BATCH_SIZE.value
    steps = int(len(train) / rows * _EPOCHS.value)
    marks = {round(epoch * len(train) / rows) for epoch in range(1, _EPOCHS.value)} | {steps}
    best = []
    for seed in range(_SEEDS.value):
        torch.manual_seed(seed)
        model = transformers.BertForSequenceClassification.from_pretrained(
            _MODEL.value,
            num_labels=len(labels),
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        ).train()
        losses = training_losses(model, train, seed=seed, rate=_RATE.value, steps=steps, rows=rows)
        found = [accuracy(model, validation) for step, _ in enumerate(losses, 1) if step in marks]
        best.append(max(found))
        print(f"seed {seed}: {found}", flush=True)
    print(json.dumps({"accuracies": best, "median": statistics.median(best)}))


if __name__ == "__main__":
    app.run(main)
