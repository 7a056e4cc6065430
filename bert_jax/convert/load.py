# SPDX-License-Identifier: Apache-2.0
"""A model from whatever directory the user has; the format is told by what lies in it."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.google import CONFIG, load_google, read_google_tokenizer
from bert_jax.convert.huggingface import load_huggingface
from bert_jax.convert.huggingface_tokenizer import read_tokenizer
from bert_jax.convert.mapping import HEADS, Parameters
from bert_jax.convert.runs import load_run
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer

FORMATS = ("orbax", "huggingface", "google")


class Pretrained(NamedTuple):
    """A model as it was found.

    Attributes:
        config: the model.
        params: tree of `bert_jax.model.init_params`, float32, without the heads in `missing`;
            `bert_jax.convert.huggingface.add_fresh_heads` completes it.
        tokenizer: the one the model was trained with.
        missing: heads ("pooler", "mlm", "nsp") that were never trained.
    """

    config: BertConfig
    params: Parameters
    tokenizer: Tokenizer
    missing: tuple[str, ...]


def load_pretrained(
    directory: Path | str, *, heads: Collection[str] = (), source_format: str | None = None
) -> Pretrained:
    """Model, parameters and tokenizer of a run, a Hugging Face or a Google directory.

    Args:
        directory: the model; of a run its newest good checkpoint, of a fine-tuning run the encoder
            of its best one.
        heads: those of `HEADS` that must be there.
        source_format: of `FORMATS`; None finds it out.

    Raises:
        DataError: the directory holds none of these or something damaged, or lacks a head.
    """
    directory = Path(directory)
    source_format = source_format or find_format(directory)
    if source_format == "orbax":
        config, params, tokenizer = load_run(directory)
    elif source_format == "google":
        config, params = load_google(directory, optional=HEADS)
        tokenizer = read_google_tokenizer(directory)
    else:
        config, params = load_huggingface(directory, optional=HEADS)
        tokenizer = read_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} entries, the model only "
            f"{config.vocab_size}: they do not belong together"
        )
    missing = tuple(head for head in HEADS if head not in params)
    lacking = [head for head in missing if head in heads]
    if lacking:
        raise DataError(
            f"{directory} lacks what this needs, a trained head {' and '.join(lacking)}: take a "
            "model that was saved with its pre-training heads, or train them from this one "
            "(--config.init_from)"
        )
    return Pretrained(config, params, tokenizer, missing)


def find_format(directory: Path) -> str:
    """Which of `FORMATS` a directory holds.

    Raises:
        DataError: none.
    """
    has_google, has_other = ((directory / name).exists() for name in (CONFIG, "config.json"))
    if not has_google and not has_other:
        if seeds := sorted(path.parent.name for path in directory.glob("seed-*/config.json")):
            raise DataError(
                f"{directory} holds the runs of several seeds: name one, {' or '.join(seeds)} in it"
            )
        raise DataError(
            f"{directory} holds no model: expected a run directory or a Hugging Face directory, "
            f"both with a config.json, or a Google directory with a {CONFIG}"
        )
    if has_other and {"config", "finetune"} & read_json(directory / "config.json").keys():
        return "orbax"
    return "google" if has_google and not _has_huggingface_weights(directory) else "huggingface"


def _has_huggingface_weights(directory: Path) -> bool:
    return any(directory.glob("model*.safetensors")) or any(directory.glob("pytorch_model*.bin"))
