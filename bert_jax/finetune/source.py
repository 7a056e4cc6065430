# SPDX-License-Identifier: Apache-2.0
"""The encoder that fine-tuning starts from: a pre-trained model, or one fine-tuned before."""

from pathlib import Path
from typing import Any

import jax

from bert_jax.config import BertConfig
from bert_jax.convert.load import load_pretrained
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.model import ENCODER_PARTS
from data_pipeline.errors import ConfigError
from data_pipeline.tokenizers import Tokenizer


def load_encoder(config: FinetuneConfig) -> tuple[BertConfig, dict[str, Any], Tokenizer]:
    """Shape, parameters (embeddings, encoder, pooler) and tokenizer of `config.init_from`.

    The parameters lack a pooler that was never trained; with `config.random_weights` they are
    empty. What is missing is drawn at random, differently for every seed.

    Raises:
        DataError: the directory holds no model, or a damaged one.
        ConfigError: the recipe's length exceeds the model's positions.
    """
    source = Path(config.init_from)
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
