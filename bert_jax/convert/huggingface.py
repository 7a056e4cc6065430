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
from bert_jax.convert.mapping import HEADS, Parameters, export_tensors, import_tensors
from bert_jax.convert.model_config import from_fields, to_fields
from bert_jax.convert.names import HUGGINGFACE
from bert_jax.convert.pytorch_file import read_pytorch_file
from bert_jax.model import init_params
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer

# Ours -> theirs. Their "gelu" is the erf form; "gelu_new" is the original's tanh formula.
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
# Their classes, richest first, and the heads that each one needs.
_ARCHITECTURES = {
    "BertForPreTraining": {"pooler", "mlm", "nsp"},
    "BertForMaskedLM": {"mlm"},
    "BertForNextSentencePrediction": {"pooler", "nsp"},
    "BertModel": set[str](),
}
_KNOWN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Settings of theirs that change the computation, with the only value that is BERT.
_FIXED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def to_huggingface_config(
    config: BertConfig, pad_token_id: int = 0, heads: Collection[str] = HEADS
) -> dict[str, Any]:
    """The content of their config.json for a model of ours with these heads."""
    names = [name for name, needed in _ARCHITECTURES.items() if needed <= set(heads)]
    return {
        "architectures": names[:1],
        **_FIXED,
        **to_fields(config),
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
    activation = content.get("hidden_act", "gelu")
    if activation not in _KNOWN_ACTIVATIONS:
        raise DataError(
            f"{path}: hidden_act {activation!r} is not known; "
            f"known are {', '.join(_KNOWN_ACTIVATIONS)}"
        )
    return from_fields(content, path, _KNOWN_ACTIVATIONS[activation])


def export_huggingface(
    config: BertConfig, params: Parameters, tokenizer: Tokenizer, card: str, target: Path
) -> None:
    """Writes a directory that `transformers` loads; `target` is made and must be empty.

    Args:
        config: the model.
        params: the tree of `bert_jax.model.init_params`, float32; a head that is absent is left
            out.
        tokenizer: the one the model was trained with.
        card: content of README.md.
        target: directory.

    Raises:
        DataError: model, parameters and tokenizer do not belong together.
    """
    tensors = export_tensors(config, params, HUGGINGFACE)
    content = to_huggingface_config(config, tokenizer.special.pad, params.keys())
    write_huggingface(content, tensors, tokenizer, card, target)


def write_huggingface(
    content: dict[str, Any],
    tensors: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    card: str,
    target: Path,
) -> None:
    """Writes the files of a Hugging Face directory; `target` is made and must be empty.

    Args:
        content: of config.json.
        tensors: under their names.
        tokenizer: the one the model was trained with.
        card: content of README.md.
        target: directory.

    Raises:
        DataError: model and tokenizer do not belong together.
    """
    if tokenizer.vocab_size != content["vocab_size"]:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} entries and the model "
            f"{content['vocab_size']}: they do not belong together"
        )
    target.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, target, max_length=content["max_position_embeddings"])
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
        directory: holds config.json and model.safetensors or pytorch_model.bin.
        optional: heads ("pooler", "mlm", "nsp") that may be absent; an absent one is absent from
            the parameters too, see `add_fresh_heads`.

    Raises:
        DataError: a file is missing or damaged, or tensors and configuration do not fit; lists
            every tensor in question.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = from_huggingface_config(read_json(path), path)
    weights = _find_weights(directory)
    tensors = _load_tensors(weights, config.max_positions)
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


def _find_weights(directory: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (directory / name).exists():
            return directory / name
    if any(directory.glob("*.index.json")):
        raise DataError(
            f"{directory} holds a model in several files; save it again with transformers as one "
            "model.safetensors"
        )
    raise DataError(f"{directory} holds no weights: model.safetensors or pytorch_model.bin")


def _load_tensors(path: Path, max_positions: int) -> dict[str, np.ndarray]:
    """Their tensors under today's names, widened to float32."""
    stored = read_pytorch_file(path) if path.suffix == ".bin" else _read_safetensors(path)
    # BertModel saves without the prefix that it has inside BertForPreTraining.
    prefix = "" if any(name.startswith("bert.") for name in stored) else "bert."
    tensors = {}
    for name, array in stored.items():
        name = name if name.startswith("cls.") else prefix + name
        # What TensorFlow called them, and transformers until 2019.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name == "bert.embeddings.position_ids":  # a buffer, no weight
            if not np.array_equal(array.ravel(), np.arange(max_positions)):
                raise DataError(
                    f"{path}: {name} does not count from 0 to {max_positions - 1}, the positions "
                    "of the configuration"
                )
            continue
        if str(array.dtype) not in ("float32", "float16", "bfloat16"):
            raise DataError(
                f"{path}: tensor {name} is {array.dtype}; float32, float16 and bfloat16 can be "
                "converted without loss"
            )
        tensors[name] = array.astype(np.float32)
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from error
