# SPDX-License-Identifier: Apache-2.0
"""The model's settings under the names of the original, which Hugging Face took over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.config import BertConfig
from data_pipeline.errors import ConfigError, DataError

# Our field -> theirs, for every field of `BertConfig` that says what a model computes.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size")


def to_fields(config: BertConfig) -> dict[str, Any]:
    """The settings under their names."""
    return {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}


def from_fields(
    content: dict[str, Any], path: Path | str, activation: str, required: Sequence[str] = SIZES
) -> BertConfig:
    """The model that their settings describe, in float32.

    Args:
        content: the parsed file.
        path: of the file, for messages.
        activation: ours.
        required: our fields that must be there; the others have the defaults of `BertConfig`.

    Raises:
        DataError: a setting is missing or of a wrong type, or the model is impossible.
    """
    missing = [FIELDS[name] for name in required if FIELDS[name] not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    values = {ours: content[theirs] for ours, theirs in FIELDS.items() if theirs in content}
    for name, value in values.items():
        kind = BertConfig.__annotations__[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise DataError(f"{path}: {FIELDS[name]} is {value!r}, which is no {kind.__name__}")
    try:
        return BertConfig(**values, activation=activation)
    except ConfigError as error:
        raise DataError(f"{path} describes no possible model: {error}") from error
