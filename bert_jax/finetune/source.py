# SPDX-License-Identifier: Apache-2.0
"""The encoder that fine-tuning starts from: a pre-trained model, or one fine-tuned before."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax import partitioning
from bert_jax.checkpoint import load_params
from bert_jax.config import BertConfig, MeshConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.load import load_pretrained
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.head import init_head
from bert_jax.model import ENCODER_PARTS, init_params
from bert_jax.run_directory import read_config
from bert_jax.typed_mapping import build
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.tokenizers import Tokenizer, load_tokenizer


def load_encoder(config: FinetuneConfig) -> tuple[BertConfig, dict[str, Any], Tokenizer]:
    """Shape, parameters (embeddings, encoder, pooler) and tokenizer of `config.init_from`.

    The parameters lack a pooler that was never trained; with `config.random_weights` they are
    empty. What is missing is drawn at random, differently for every seed.

    Raises:
        DataError: the directory holds no model, or a damaged one.
        ConfigError: the recipe's length exceeds the model's positions.
    """
    source = Path(config.init_from)
    if (source / "config.json").exists() and "finetune" in read_config(source):
        model, params, tokenizer = _load_finetuned(source)
    else:
        model, params, tokenizer, _ = load_pretrained(source)
    model = config.model.applied_to(model)
    if config.length > model.max_positions:
        raise ConfigError(
            f"length {config.length} exceeds the {model.max_positions} positions of "
            f"{source}: set --config.length={model.max_positions} or lower"
        )
    parts = () if config.random_weights else ENCODER_PARTS
    # On the host: the run lays them out over its own mesh.
    start = jax.device_get({part: params[part] for part in parts if part in params})
    return model, start, tokenizer


def _load_finetuned(source: Path) -> tuple[BertConfig, dict[str, Any], Tokenizer]:
    model, outputs, tokenizer = read_finetuned(source)
    abstract = finetuned_shapes(model, outputs, partitioning.make_mesh(MeshConfig()))
    chosen = source
    if (source / "summary.json").exists():  # else it has not ended: take the newest step
        best = read_json(source / "summary.json")["best_step"]
        chosen = source / "checkpoints" / str(best)
    params, _ = load_params(chosen, abstract)
    return model, params, tokenizer


def read_finetuned(source: Path) -> tuple[BertConfig, int, Tokenizer]:
    """Model, number of the head's outputs and tokenizer of a fine-tuned run.

    Raises:
        DataError: its tokenizer is not the one that it was trained with.
    """
    described = read_config(source)
    tokenizer = load_tokenizer(source / "tokenizer")
    if tokenizer.fingerprint != described["tokenizer_fingerprint"]:
        raise DataError(f"{source / 'tokenizer'} is not the tokenizer this run was trained with")
    model: BertConfig = build(BertConfig, described["model"], "model")
    return model, described["task"]["outputs"], tokenizer


def finetuned_shapes(model: BertConfig, outputs: int, mesh: Mesh) -> dict[str, Any]:
    """Shapes of a fine-tuned model's parameters, with their shardings."""
    shapes = jax.eval_shape(
        lambda key: init_params(model, key) | {"head": init_head(model, outputs, key)},
        jax.random.key(0),
    )
    parts = {part: shapes[part] for part in (*ENCODER_PARTS, "head")}
    return partitioning.with_shardings(mesh, parts)
