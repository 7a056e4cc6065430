# SPDX-License-Identifier: Apache-2.0
"""What the directory of a fine-tuning run remembers, and whether a command may continue it.

config.json    recipe, model, label set and fingerprints, written at the start
tokenizer/     the pre-trained model's
checkpoints/ metrics.jsonl tensorboard/   as in pre-training; the best and the newest step stay
predictions/   one file for each test split
summary.json   figures of the finished run
With several seeds these lie in seed-<n>/, and summary.json holds median and spread.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import BertConfig
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.task import Task
from bert_jax.run_directory import read_config, versions, write_json
from bert_jax.typed_mapping import differences
from data_pipeline.errors import ConfigError, DataError, DiskError
from data_pipeline.tokenizers import Tokenizer

# Settings that do not change what a run computes; a resume may differ.
FREE_KEYS = (
    "log_every",
    "checkpoint.",
    "mesh.",
    "init_from",  # the path; the weights are in the checkpoint
    "data.train",  # paths; what is in the training split is held to its fingerprint
    "data.validation",
    "data.test",
    "data.tfds_data_dir",
    "predictions.",
    "evaluation.batch_size",
    "model.unroll",
    "model.remat",
)


def description(
    config: FinetuneConfig, model: BertConfig, tokenizer: Tokenizer, task: Task
) -> dict[str, Any]:
    """What identifies a run: kept in config.json and in every checkpoint."""
    return {
        "finetune": dataclasses.asdict(config),
        "model": dataclasses.asdict(model),
        "task": task.record,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "training_fingerprint": task.train.fingerprint,
        "backend": jax.default_backend(),
        "versions": versions(),
    }


def begin(workdir: Path, current: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Writes config.json and the tokenizer at the first start; at a resume compares.

    Raises:
        ConfigError: the recipe, the model's shape or the label set has changed.
        DataError: the vocabulary or the training data has changed; or this is another kind of run.
        DiskError: the files cannot be written.
    """
    if (workdir / "config.json").exists():
        saved = read_config(workdir)
        if "finetune" not in saved:
            raise DataError(f"{workdir} holds no fine-tuning run: choose another --workdir")
        _check_same(saved, json.loads(json.dumps(current)), workdir)
    try:
        (workdir / "tokenizer").mkdir(parents=True, exist_ok=True)
        tokenizer.save(workdir / "tokenizer")
    except OSError as error:
        raise DiskError(f"cannot write the tokenizer into {workdir}: {error}") from error
    if not (workdir / "config.json").exists():
        write_json(workdir / "config.json", current)


def _check_same(saved: dict[str, Any], current: dict[str, Any], workdir: Path) -> None:
    for key, what in (
        ("tokenizer_fingerprint", "vocabulary of the model"),
        ("training_fingerprint", "training data"),
    ):
        if saved[key] != current[key]:
            raise DataError(
                f"the {what} is not what {workdir} was started with "
                f"({saved[key][:12]} -> {current[key][:12]}); choose another --workdir"
            )
    changed = [
        line
        for part in ("finetune", "model", "task")
        for line in differences(saved[part], current[part])
        if not line.startswith(FREE_KEYS) and not line.startswith(("unroll:", "remat:"))
    ]
    if changed:
        raise ConfigError(
            f"{workdir} was started with another configuration:\n  "
            + "\n  ".join(changed)
            + "\nRun with the old values to resume, or choose another --workdir."
        )
