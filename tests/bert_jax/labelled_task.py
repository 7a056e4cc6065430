# SPDX-License-Identifier: Apache-2.0
"""A pre-trained model of a few kilobytes and labelled files that it learns within seconds."""

import copy
import json
from types import SimpleNamespace

import numpy as np

from bert_jax.checkpoint import Checkpoints
from bert_jax.convert.runs import save_run
from bert_jax.finetune import directory
from bert_jax.finetune.config import FinetuneConfig
from configs import finetune
from tests.bert_jax.tiny_model import random_params, tiny_config, tiny_tokenizer

# Words of the two classes.
KINDS = {"sea": ("ship", "sailed", "sea"), "letters": ("a", "b", "c")}


def write_model(folder):
    """A run directory that holds a tiny model with random weights in every tensor."""
    folder.mkdir()
    config = tiny_config()
    tokenizer = tiny_tokenizer(folder)
    target = folder / "model"
    target.mkdir()
    save_run(config, random_params(config), tokenizer, target, source="test", fresh_heads=())
    return target


def rows(count, seed=0):
    """(text, other text, label, number): words tell the label, the other length the number."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = str(random.choice(list(KINDS)))
        words = [*random.choice(KINDS[label], 4), str(random.choice(["is", "was"]))]
        other = " ".join(random.choice(["the", "not"], random.integers(1, 5)))
        made.append((" ".join(words), other, label, str(len(other) / 4)))
    return made


def write_table(path, made):
    lines = ["\t".join(("text", "other", "label", "number")), *("\t".join(row) for row in made)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_tables(folder):
    """train.tsv (60 rows), dev.tsv (21 rows) and test.tsv (5 rows)."""
    for number, (name, count) in enumerate({"train": 60, "dev": 21, "test": 5}.items()):
        write_table(folder / f"{name}.tsv", rows(count, seed=number))


def make_config(model, tables, **changes):
    """A run of 30 steps of 8 rows over four epochs, evaluated after each; dropout in the head."""
    recipe = copy.deepcopy(finetune.get_config("files"))
    recipe.data.train = str(tables / "train.tsv")
    recipe.data.validation = str(tables / "dev.tsv")
    recipe.update(length=16, batch_size=8, epochs=4.0, log_every=1)
    recipe.evaluation.batch_size = 8
    recipe.optimizer.learning_rate = 3e-3
    recipe.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    recipe.checkpoint.every = 10
    recipe.update_from_flattened_dict(changes)
    return FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": str(model)})


FINETUNED = {  # recipe, labels, outputs of the head
    "classification": ("files", ["letters", "sea"], 2),
    "regression": ("files", [], 1),
    "multiple_choice": ("swag", ["0", "1", "2", "3"], 1),
    "question_answering": ("squad1", [], 2),
    "tagging": ("conll", ["B-SEA", "I-SEA", "O"], 3),
}


def write_finetuned(folder, task):
    """A finished fine-tuning run of random weights; returns its directory, model and parameters."""
    name, labels, outputs = FINETUNED[task]
    recipe = copy.deepcopy(finetune.get_config(name))
    recipe.task = task
    recipe.data.train = recipe.data.validation = "secret/x.tsv"
    recipe = FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": "secret/x"})
    config, tokenizer = tiny_config(), tiny_tokenizer(folder)
    params = random_params(config)
    params = {part: params[part] for part in ("embeddings", "encoder", "pooler")}
    random = np.random.default_rng(1)
    params["head"] = {
        "kernel": random.normal(0, 0.2, (config.hidden_size, outputs)).astype(np.float32),
        "bias": random.normal(0, 0.2, outputs).astype(np.float32),
    }
    record = {"labels": labels, "outputs": outputs}
    fake = SimpleNamespace(record=record, train=SimpleNamespace(fingerprint="0" * 64))
    described = directory.description(recipe, config, tokenizer, fake)
    workdir = folder / "run"
    workdir.mkdir()
    directory.begin(workdir, described, tokenizer)
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=1)
    checkpoints.save(3, {"params": params}, described)
    checkpoints.close()
    validation = {"secret/x.tsv": {"loss": 0.25, "accuracy": 0.875, "examples": 8}}
    summary = {"best_step": 3, "steps": 4, "training_examples": 60, "validation": validation}
    (workdir / "summary.json").write_text(json.dumps(summary))
    return workdir, config, params
