# SPDX-License-Identifier: Apache-2.0
"""A model from whatever directory the user has: a run of ours, or a Hugging Face directory."""

from collections.abc import Collection
from pathlib import Path

from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.huggingface import load_huggingface
from bert_jax.convert.huggingface_tokenizer import read_tokenizer
from bert_jax.convert.mapping import Parameters
from bert_jax.convert.runs import load_run
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer


def load_model(
    directory: Path, optional_heads: Collection[str] = ()
) -> tuple[BertConfig, Parameters, Tokenizer]:
    """Model, parameters and tokenizer of a run or of a Hugging Face directory.

    Args:
        directory: the run (newest good checkpoint), or the directory with config.json and
            model.safetensors.
        optional_heads: heads that may be absent, and then are absent from the parameters too.

    Raises:
        DataError: the directory holds neither, or something damaged.
    """
    if not (directory / "config.json").exists():
        raise DataError(
            f"{directory} holds no model: expected a run directory or a Hugging Face directory, "
            "both with a config.json"
        )
    if "model_type" not in read_json(directory / "config.json"):
        return load_run(directory)
    config, params = load_huggingface(directory, optional_heads)
    tokenizer = read_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} entries, the model only "
            f"{config.vocab_size}: they do not belong together"
        )
    return config, params, tokenizer
