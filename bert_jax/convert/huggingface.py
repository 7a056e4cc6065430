# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories, out and in, without PyTorch.

An export is what `transformers` loads offline: `model.safetensors`, `config.json`, the tokenizer's
files and a model card, written whole or not at all. An import accepts the `BertForPreTraining`,
`BertForMaskedLM` and `BertModel` checkpoints of any `transformers` since the first.
"""

import functools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.huggingface_tokenizer import write_tokenizer
from bert_jax.convert.mapping import (
    HEADS,
    HUGGINGFACE,
    Parameters,
    export_tensors,
    import_tensors,
)
from bert_jax.model import init_params
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.tokenizers import Tokenizer

# Ours -> theirs. Their "gelu" is the erf form; "gelu_new" is the original's tanh formula.
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
_KNOWN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
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
_SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size")
# Settings of theirs that change the computation, with the only value that is BERT.
_FIXED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def to_huggingface_config(config: BertConfig, pad_token_id: int = 0) -> dict[str, Any]:
    """The content of their config.json for a model of ours."""
    return {
        "architectures": ["BertForPreTraining"],
        **_FIXED,
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        "hidden_act": ACTIVATIONS[config.activation],
        "classifier_dropout": None,
        "pad_token_id": pad_token_id,
        "use_cache": True,
    }


def from_huggingface_config(content: dict[str, Any], path: Path | str) -> BertConfig:
    """The model that their config.json describes, in float32.

    Args:
        content: the parsed file.
        path: of the file, for messages.

    Raises:
        DataError: no BERT, a size is missing or of a wrong type, or something we do not compute.
    """
    for key, value in _FIXED.items():
        found = content.get(key, None if key == "model_type" else value)
        if found != value:
            raise DataError(f"{path}: {key} is {found!r}; only {value!r} can be converted")
    missing = [FIELDS[name] for name in _SIZES if FIELDS[name] not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}")
    activation = content.get("hidden_act", "gelu")
    if activation not in _KNOWN_ACTIVATIONS:
        raise DataError(
            f"{path}: hidden_act {activation!r} is not known; "
            f"known are {', '.join(_KNOWN_ACTIVATIONS)}"
        )
    values = {ours: content[theirs] for ours, theirs in FIELDS.items() if theirs in content}
    for name, value in values.items():
        kind = BertConfig.__annotations__[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise DataError(f"{path}: {FIELDS[name]} is {value!r}, which is no {kind.__name__}")
    try:
        return BertConfig(**values, activation=_KNOWN_ACTIVATIONS[activation])
    except ConfigError as error:
        raise DataError(f"{path} describes no possible model: {error}") from error


def export_huggingface(
    config: BertConfig, params: Parameters, tokenizer: Tokenizer, card: str, target: Path
) -> None:
    """Writes a directory that `transformers` loads; `target` is made and must be empty.

    Args:
        config: the model.
        params: the tree of `bert_jax.model.init_params`, float32.
        tokenizer: the one the model was trained with.
        card: content of README.md.
        target: directory.

    Raises:
        DataError: model, parameters and tokenizer do not belong together.
    """
    if tokenizer.vocab_size != config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} entries and the model {config.vocab_size}: "
            "they do not belong together"
        )
    tensors = export_tensors(config, params, HUGGINGFACE)
    content = to_huggingface_config(config, tokenizer.special.pad)
    target.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, target, max_length=config.max_positions)
    (target / "config.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    (target / "README.md").write_text(card, "utf-8")
    weights = target / "model.safetensors"
    _save_tensors(tensors, weights)
    weights.chmod((target / "config.json").stat().st_mode)  # safetensors lets the owner alone read


def load_huggingface(
    directory: Path | str, optional: Collection[str] = ()
) -> tuple[BertConfig, Parameters]:
    """Model and float32 parameters of a Hugging Face directory.

    Args:
        directory: holds config.json and model.safetensors.
        optional: heads ("pooler", "mlm", "nsp") that may be absent; an absent one is absent from
            the parameters too, see `add_fresh_heads`.

    Raises:
        DataError: a file is missing or damaged, or tensors and configuration do not fit; lists
            every tensor in question.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = from_huggingface_config(read_json(path), path)
    weights = directory / "model.safetensors"
    tensors = _load_tensors(weights)
    try:
        return config, import_tensors(config, tensors, HUGGINGFACE, optional)
    except DataError as error:
        raise DataError(f"{weights}: {error}") from error


def add_fresh_heads(
    config: BertConfig, params: Parameters, seed: int = 0
) -> tuple[Parameters, list[str]]:
    """Random values for the heads that `params` lack.

    Returns:
        The whole tree, and the heads that are new in it.
    """
    absent = [head for head in HEADS if head not in params]
    if absent:
        fresh = jax.jit(functools.partial(init_params, config))(jax.random.key(seed))
        params = params | {head: jax.tree.map(np.asarray, fresh[head]) for head in absent}
    return params, absent


def _save_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"format": "pt"})


def _load_tensors(path: Path) -> dict[str, np.ndarray]:
    """Their tensors under today's names, widened to float32."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; a pytorch_model.bin or a sharded model has to be saved again with "
            "transformers as one model.safetensors"
        ) from error
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error
    # BertModel saves without the prefix that it has inside BertForPreTraining.
    prefix = "" if any(name.startswith("bert.") for name in stored) else "bert."
    tensors = {}
    for name, array in stored.items():
        name = name if name.startswith("cls.") else prefix + name
        # What TensorFlow called them, and transformers until 2019.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name == "bert.embeddings.position_ids":  # 0, 1, 2, ...: a buffer, no weight
            continue
        if str(array.dtype) not in ("float32", "float16", "bfloat16"):
            raise DataError(
                f"{path}: tensor {name} is {array.dtype}; float32, float16 and bfloat16 can be "
                "converted without loss"
            )
        tensors[name] = array.astype(np.float32)
    return tensors
