# SPDX-License-Identifier: Apache-2.0
r"""Command: the tagger of `bert_jax.finetune` in PyTorch, from the same weights and batches.

    python -m bert_jax.convert --from=orbax --to=huggingface --source=RUN --target=EXPORT
    PYTHONPATH=. python benchmarks/torch_tagging.py --model=EXPORT --train=train.txt \
        --validation=dev.txt --rate=1e-3 --epochs=4 --seeds=3

`BertForTokenClassification` of transformers, trained on the batches that our loop would draw for
the same seeds, with the original's update rule (`optimization.py` of google-research/bert). Only
the fresh layer and the dropout are drawn by another generator.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers

from bert_jax.convert.huggingface_tokenizer import read_tokenizer
from bert_jax.finetune.tagging import tag_figures
from data_pipeline.labelled.conll import Tagged, find_tags, make_tagged, read_conll
from data_pipeline.labelled.examples import at_places

BATCH_SIZE = 32


def logits_of(model: torch.nn.Module, tagged: Tagged, numbers: np.ndarray) -> torch.Tensor:
    """Logits [batch, length, labels]."""
    batch = tagged.examples.batch(numbers, tagged.examples.padded_length(numbers))
    return model(
        input_ids=torch.tensor(batch["input_ids"].astype(int)),
        attention_mask=torch.tensor(batch["input_mask"].astype(int)),
    ).logits


def train(model: torch.nn.Module, tagged: Tagged, seed: int, rate: float, epochs: float) -> None:
    """All steps of a run: warm-up over a tenth of them, then linearly to 0."""
    examples = len(tagged.examples)
    steps = int(examples / BATCH_SIZE * epochs)
    warmup = int(steps / 10)
    slots = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    decayed = {
        id(p)
        for name, p in model.named_parameters()
        if "LayerNorm" not in name and "bias" not in name
    }
    model.train()
    for step in range(steps):
        numbers = at_places(step * BATCH_SIZE + np.arange(BATCH_SIZE), examples, seed)
        logits = logits_of(model, tagged, numbers)
        tags = torch.tensor(tagged.examples.targets["tag"][numbers, : logits.shape[1]].astype(int))
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tags.flatten(), ignore_index=-1
        )
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        now = rate * (step / warmup if step < warmup else 1 - step / steps)
        with torch.no_grad():
            for parameter, first, second in slots:
                if parameter.grad is None:
                    continue
                first.lerp_(parameter.grad, 0.1)
                second.lerp_(parameter.grad**2, 0.001)
                update = first / (second.sqrt() + 1e-6)
                if id(parameter) in decayed:
                    update = update + 0.01 * parameter
                parameter -= now * update


def accuracy(model: torch.nn.Module, tagged: Tagged, labels: tuple[str, ...]) -> float:
    """Share of words with the right tag."""
    model.eval()
    best = []
    with torch.no_grad():
        for first in range(0, len(tagged.examples), BATCH_SIZE):
            numbers = np.arange(first, min(first + BATCH_SIZE, len(tagged.examples)))
            best += list(logits_of(model, tagged, numbers).argmax(dim=-1).numpy())
    predicted = [[labels[best[s][p]] for s, p in where] for where in tagged.places]
    return tag_figures(("accuracy",), tagged.conll.column("last"), predicted)["accuracy"]


def main() -> None:
    """Prints the accuracy of every seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    tokenizer = read_tokenizer(options.model)
    files = read_conll(options.train), read_conll(options.validation)
    labels = find_tags(files[0], "last")
    split, held_out = (
        make_tagged(
            conll, tokenizer, length=options.length, words="first", tags="last", labels=labels
        )
        for conll in files
    )
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = transformers.BertForTokenClassification.from_pretrained(
            options.model, num_labels=len(labels)
        )
        train(model, split, seed, options.rate, options.epochs)
        print(f"seed {seed}: accuracy {accuracy(model, held_out, labels):.4f}", flush=True)


if __name__ == "__main__":
    main()
