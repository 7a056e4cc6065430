# SPDX-License-Identifier: Apache-2.0
"""Directories of google-research/bert, in and out, without TensorFlow.

    bert_config.json   vocab.txt   bert_model.ckpt.index   bert_model.ckpt.data-00000-of-00001

`bert_model.ckpt.meta`, the graph, is neither read nor written: the original builds its own.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.mapping import Parameters, export_tensors, import_tensors
from bert_jax.convert.model_config import FIELDS, SIZES, from_fields, to_fields
from bert_jax.convert.names import GOOGLE
from bert_jax.convert.tensor_bundle import read_bundle, read_index, write_bundle
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer, load_tokenizer

CONFIG = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
# Not in their files: the default of `tf.contrib.layers.layer_norm`.
LAYER_NORM_EPSILON = 1e-12
# A key of ours that the original skips. Its "gelu" was the erf form when BERT was released, and has
# been the tanh formula since 2019-02-07; without the key we take erf, as transformers does.
_FORM = "gelu_form"
_FORMS = {"erf": "gelu", "tanh": "gelu_tanh"}
# What an optimiser of the original leaves in a checkpoint beside the model.
_TRAINING = re.compile(r".*/(adam|lamb)_[mv]|global_step")


def to_google_config(config: BertConfig) -> dict[str, Any]:
    """The content of bert_config.json for a model of ours.

    Raises:
        DataError: the original cannot compute this model.
    """
    if config.layer_norm_epsilon != LAYER_NORM_EPSILON:
        raise DataError(
            f"the model's layer_norm_epsilon is {config.layer_norm_epsilon:g}; the original's code "
            f"has {LAYER_NORM_EPSILON:g} and no setting for it, so it would compute something else"
        )
    fields = to_fields(config)
    del fields[FIELDS["layer_norm_epsilon"]]
    (form,) = [form for form, activation in _FORMS.items() if activation == config.activation]
    return {**fields, "hidden_act": "gelu", _FORM: form}


def from_google_config(content: dict[str, Any], path: Path | str) -> BertConfig:
    """The model that their bert_config.json describes, in float32.

    Args:
        content: the parsed file.
        path: of the file, for messages.

    Raises:
        DataError: a setting is missing, of a wrong type, or not one that we compute.
    """
    activation, form = content.get("hidden_act", "gelu"), content.get(_FORM, "erf")
    if activation != "gelu" or form not in _FORMS:
        raise DataError(
            f"{path}: hidden_act {activation!r} of the form {form!r} is not known; known is 'gelu' "
            f"with {_FORM} {' or '.join(map(repr, _FORMS))}"
        )
    fixed = content | {FIELDS["layer_norm_epsilon"]: LAYER_NORM_EPSILON}
    return from_fields(fixed, path, _FORMS[form], (*SIZES, "max_positions", "num_segments"))


def export_google(
    config: BertConfig, params: Parameters, tokenizer: Tokenizer, card: str, target: Path
) -> None:
    """Writes a directory that the original's scripts take; `target` is made and must be empty.

    Args:
        config: the model.
        params: the tree of `bert_jax.model.init_params`, float32; a head that is absent is left
            out.
        tokenizer: the one the model was trained with.
        card: content of README.md.
        target: directory.

    Raises:
        DataError: the original has no such model or tokenizer.
    """
    write_google(config, export_tensors(config, params, GOOGLE), tokenizer, card, target)


def write_google(
    config: BertConfig,
    tensors: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    card: str,
    target: Path,
) -> None:
    """Writes the files of a Google directory; `target` is made and must be empty.

    Args:
        config: the model.
        tensors: under their names.
        tokenizer: the one the model was trained with.
        card: content of README.md.
        target: directory.

    Raises:
        DataError: the original has no such model or tokenizer.
    """
    if tokenizer.kind != "wordpiece":
        raise DataError(
            f"the model has a {tokenizer.kind} tokenizer, which the original cannot read: it takes "
            "a vocab.txt of WordPieces"
        )
    if tokenizer.vocab_size != config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} entries and the model {config.vocab_size}: "
            "they do not belong together"
        )
    content = to_google_config(config)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(target)
    (target / CONFIG).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    (target / "README.md").write_text(card, "utf-8")
    write_bundle(target / CHECKPOINT, tensors)


def load_google(
    directory: Path | str, optional: Collection[str] = ()
) -> tuple[BertConfig, Parameters]:
    """Model and float32 parameters of a Google directory; what training left is skipped.

    Args:
        directory: holds bert_config.json and one checkpoint.
        optional: heads ("pooler", "mlm", "nsp") that may be absent, and then are absent from the
            parameters too.

    Raises:
        DataError: a file is missing or damaged, or tensors and configuration do not fit; lists
            every tensor in question.
    """
    directory = Path(directory)
    config = from_google_config(read_json(directory / CONFIG), directory / CONFIG)
    prefix = find_checkpoint(directory)
    names = read_index(prefix)[0]
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in names):
        raise DataError(
            f"{prefix} is an object-based checkpoint of TensorFlow 2, whose names are not the "
            "original's; save the variables with tf.compat.v1.train.Saver"
        )
    skipped = [name for name in names if _TRAINING.fullmatch(name)]
    tensors = read_bundle(prefix, lambda name: name not in skipped)
    if skipped:
        logging.warning(
            "%s: %d tensors of the optimiser were left behind (slots, global_step)",
            prefix,
            len(skipped),
        )
    for name, array in tensors.items():
        if str(array.dtype) not in ("float32", "float16", "bfloat16"):
            raise DataError(
                f"{prefix}: tensor {name} is {array.dtype}; float32, float16 and bfloat16 can be "
                "converted without loss"
            )
    widened = {name: array.astype(np.float32) for name, array in tensors.items()}
    try:
        return config, import_tensors(config, widened, GOOGLE, optional)
    except DataError as error:
        raise DataError(f"{prefix}: {error}") from error


def find_checkpoint(directory: Path) -> Path:
    """Prefix of the one checkpoint in a directory: `bert_model.ckpt`, or what training saved.

    Raises:
        DataError: there is none, or more than one and none of that name.
    """
    if (directory / f"{CHECKPOINT}.index").exists():
        return directory / CHECKPOINT
    found = sorted(directory.glob("*.index"))
    if len(found) == 1:
        return found[0].with_suffix("")
    names = ", ".join(path.name for path in found)
    raise DataError(
        f"{directory} holds {'several checkpoints, ' + names if found else 'no checkpoint'}: "
        f"{CHECKPOINT}.index is expected, or one other *.index"
    )


def read_google_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a Google directory.

    Their files do not say whether it lowers case; a vocabulary without capital letters does. An
    export of ours says it in tokenizer_settings.json.

    Raises:
        DataError: there is none.
    """
    if (directory / "tokenizer_settings.json").exists():
        return load_tokenizer(directory)
    return load_tokenizer(directory / "vocab.txt")
