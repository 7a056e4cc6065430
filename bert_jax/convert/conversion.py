# SPDX-License-Identifier: Apache-2.0
"""From any format into any: what `python -m bert_jax.convert` does."""

import shutil
from pathlib import Path

from bert_jax.convert.files import new_directory, read_json
from bert_jax.convert.finetuned import (
    check_google,
    finetuned_settings,
    finetuned_tensors,
    load_finetuned,
)
from bert_jax.convert.finetuned_card import finetuned_card
from bert_jax.convert.google import export_google, write_google
from bert_jax.convert.huggingface import (
    add_fresh_heads,
    export_huggingface,
    to_huggingface_config,
    write_huggingface,
)
from bert_jax.convert.load import Pretrained, find_format, load_pretrained
from bert_jax.convert.model_card import SOURCE_CARD, model_card
from bert_jax.convert.names import GOOGLE, HUGGINGFACE
from bert_jax.convert.positions import resize_positions
from bert_jax.convert.runs import save_run
from bert_jax.model import ENCODER_PARTS
from bert_jax.run_directory import read_config
from data_pipeline.errors import DataError


def convert(
    source: Path,
    target: Path,
    source_format: str,
    target_format: str,
    *,
    max_positions: int | None = None,
    overwrite: bool = False,
) -> Pretrained:
    """Makes a directory of one format of a directory of another, whole or not at all.

    Heads that the source lacks stay absent in Hugging Face and Google directories. A run directory
    has to hold all of them, so it gets random ones, and its record says so. Of a fine-tuning run
    the task's head goes along.

    Args:
        source: directory to read.
        target: directory to write.
        source_format: of `bert_jax.convert.load.FORMATS`.
        target_format: of the same.
        max_positions: cut or extend the position table to this many; None keeps it.
        overwrite: replace the model in `target`.

    Returns:
        What was written, without random heads.

    Raises:
        OutputError: `target` exists.
        DataError: the source cannot be converted without loss.
    """
    with new_directory(target, overwrite) as scratch:
        found = _load(source, source_format)
        config, params, tokenizer, missing = found
        if max_positions is not None:
            config, params = resize_positions(config, params, max_positions)
            found = Pretrained(config, params, tokenizer, missing)
        if source_format == "orbax" and "finetune" in read_config(source):
            _export_finetuned(source, found, target, target_format, scratch)
            return found
        card = model_card(source, target, found, target_format)
        if target_format == "huggingface":
            export_huggingface(config, params, tokenizer, card, scratch)
        elif target_format == "google":
            export_google(config, params, tokenizer, card, scratch)
        else:
            params, _ = add_fresh_heads(config, params)
            save_run(config, params, tokenizer, scratch, source=source.name, fresh_heads=missing)
        _keep_source_card(source, scratch, card)
    return found


def _export_finetuned(
    source: Path, found: Pretrained, target: Path, target_format: str, scratch: Path
) -> None:
    """Writes encoder and head of a fine-tuning run; `found` is its encoder as it goes out."""
    if target_format == "orbax":
        raise DataError(f"{source} is a run already, of fine-tuning: copy the directory")
    tuned = load_finetuned(source)
    if target_format == "google":
        check_google(tuned)
    encoder = {part: found.params[part] for part in ENCODER_PARTS}
    tuned = tuned._replace(config=found.config, params=tuned.params | encoder)
    summary = read_json(source / "summary.json") if (source / "summary.json").exists() else {}
    card = finetuned_card(tuned, summary, target.name, target_format)
    if target_format == "google":
        tensors = finetuned_tensors(tuned, GOOGLE)
        write_google(tuned.config, tensors, tuned.tokenizer, card, scratch)
    else:
        content = to_huggingface_config(tuned.config, tuned.tokenizer.special.pad, heads=())
        content |= finetuned_settings(tuned)
        tensors = finetuned_tensors(tuned, HUGGINGFACE)
        write_huggingface(content, tensors, tuned.tokenizer, card, scratch)


def _load(source: Path, source_format: str) -> Pretrained:
    """The source, if it is what the user says and model and tokenizer fit each other."""
    if not source.is_dir():
        raise DataError(f"{source} is no directory that could hold a model")
    holds = find_format(source)
    if holds != source_format and not (source_format == "google" and holds == "huggingface"):
        raise DataError(f"{source} holds a model of another format: say so with --from={holds}")
    found = load_pretrained(source, source_format=source_format)
    if found.tokenizer.vocab_size != found.config.vocab_size:
        raise DataError(
            f"{source}: the tokenizer has {found.tokenizer.vocab_size} entries and the model "
            f"{found.config.vocab_size}: they do not belong together"
        )
    return found


def _keep_source_card(source: Path, target: Path, card: str) -> None:
    """What is known of the source goes along: its licence and data are those of the copy."""
    for name in (SOURCE_CARD, "README.md"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / SOURCE_CARD)
            return
    if not (target / "README.md").exists():
        (target / SOURCE_CARD).write_text(card, "utf-8")
