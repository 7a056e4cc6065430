# SPDX-License-Identifier: Apache-2.0
"""Run directories as a format to convert from and to: Orbax checkpoint, config.json, tokenizer.

Of a fine-tuning run `load_run` takes the encoder; its head goes with `bert_jax.convert.finetuned`.

A run made from imported weights holds them as step 0 and has no recipe. It is there to start from
(`--config.init_from=RUN`), to score and to ask; training cannot be resumed in it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from bert_jax import run_directory
from bert_jax.checkpoint import Checkpoints, load_params
from bert_jax.config import BertConfig
from bert_jax.convert.finetuned import load_finetuned
from bert_jax.convert.mapping import Parameters
from bert_jax.model import ENCODER_PARTS, init_params
from bert_jax.typed_mapping import build
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer, load_tokenizer


def load_run(directory: Path) -> tuple[BertConfig, Parameters, Tokenizer]:
    """Model, parameters of the newest good step (fine-tuned: the best), and tokenizer of a run.

    Heads that the run's record calls random are left out, and that of a fine-tuned model.

    Raises:
        DataError: there is no run, or nothing in it can be trusted.
    """
    described = run_directory.read_config(directory)
    if "finetune" in described:
        config, params, tokenizer, *_ = load_finetuned(directory)
        return config, {part: params[part] for part in ENCODER_PARTS}, tokenizer
    if "model" not in described.get("config", {}):
        raise DataError(
            f"{directory / 'config.json'} describes no run; if this is a Hugging Face directory, "
            "say so with --from=huggingface"
        )
    config = build(BertConfig, described["config"]["model"], "model")
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    device = SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes
    )
    params, _ = load_params(directory, abstract)
    tokenizer = load_tokenizer(directory / "tokenizer")
    if tokenizer.fingerprint != described["tokenizer_fingerprint"]:
        raise DataError(
            f"{directory / 'tokenizer'} is not the tokenizer that this run was trained with"
        )
    fresh = described.get("fresh_heads", ())
    return config, {key: part for key, part in params.items() if key not in fresh}, tokenizer


def save_run(
    config: BertConfig,
    params: Parameters,
    tokenizer: Tokenizer,
    target: Path,
    *,
    source: str,
    fresh_heads: Sequence[str],
) -> None:
    """Writes the parameters as step 0 of a run directory; `target` must be empty.

    Args:
        config: the model.
        params: its parameters.
        tokenizer: its tokenizer.
        target: directory.
        source: where they come from, for the record.
        fresh_heads: those with random values, for the record.
    """
    description: dict[str, Any] = {
        "config": {"model": dataclasses.asdict(config)},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "imported_from": source,
        "fresh_heads": list(fresh_heads),
        "versions": run_directory.versions(),
    }
    tokenizer.save(target / "tokenizer")
    run_directory.write_json(target / "config.json", description)
    checkpoints = Checkpoints(target / "checkpoints", keep_last=1)
    try:
        checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, description)
    finally:
        checkpoints.close()
