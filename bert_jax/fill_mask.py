# SPDX-License-Identifier: Apache-2.0
"""Command: what a model would write in place of [MASK].

    python -m bert_jax.fill_mask --checkpoint=runs/demo "The ship sailed across the [MASK]."
    python -m bert_jax.fill_mask --checkpoint=export < texts.txt

The checkpoint is a run directory or a Hugging Face directory. Without a text the lines of standard
input are answered one by one as they come. A text may hold several [MASK]s; each is filled as if
the others stayed masked.
"""

import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging

from bert_jax.config import BertConfig
from bert_jax.convert.huggingface import add_fresh_heads
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.mapping import Parameters
from bert_jax.model import apply_pretraining
from data_pipeline.errors import DataError, OutputError, UsageError, run_command
from data_pipeline.tokenizers import Tokenizer

BATCH_SIZE = 32
MASK = "[MASK]"

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or Hugging Face directory.")
_TOP = flags.DEFINE_integer("top", 5, "Predictions for each [MASK].", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the predictions to this file.")


def fill_mask(
    config: BertConfig,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    top: int = 5,
) -> list[dict[str, Any]]:
    """The most probable tokens for every [MASK] of every text.

    Args:
        config: the model.
        params: its parameters, with the head "mlm".
        tokenizer: its tokenizer.
        texts: each with one [MASK] or more.
        top: tokens for each [MASK].

    Returns:
        For each [MASK] in order: {"text", "mask" (its number in the text, from 0), "predictions":
        [{"token", "probability"}, ...] by falling probability}.

    Raises:
        DataError: a text has no [MASK] or is too long for the model; with the text.
    """
    params, _ = add_fresh_heads(config, params)  # a next-sentence head that nobody will ask
    encoded = [_encode(config, tokenizer, text) for text in texts]
    results = []
    for start in range(0, len(texts), BATCH_SIZE):
        ids = encoded[start : start + BATCH_SIZE]
        batch = _batch(ids, tokenizer, config.max_positions)
        limit = min(top, tokenizer.vocab_size)
        values, tokens = _predict(config, limit, tokenizer.vocab_size, params, batch)
        masks = batch["masked_positions"] > 0  # position 0 holds [CLS]: an unused slot
        for row, slot in np.argwhere(masks):
            pairs = zip(np.asarray(tokens)[row, slot], np.asarray(values)[row, slot], strict=True)
            results.append(
                {
                    "text": texts[start + row],
                    "mask": int(slot),
                    "predictions": [
                        {"token": tokenizer.tokens[token], "probability": float(probability)}
                        for token, probability in pairs
                    ],
                }
            )
    return results


def _encode(config: BertConfig, tokenizer: Tokenizer, text: str) -> list[int]:
    """[CLS] text [SEP]."""
    special = tokenizer.special
    ids = [special.cls, *tokenizer.encode_with_mask(text), special.sep]
    if special.mask not in ids:
        raise DataError(f"no {MASK} in {text!r}: write {MASK} where a word is wanted")
    if len(ids) > config.max_positions:
        raise DataError(
            f"text of {len(ids)} tokens, the model takes {config.max_positions} at most: "
            f"{text[:60]!r}..."
        )
    return ids


def _batch(
    rows: Sequence[Sequence[int]], tokenizer: Tokenizer, max_positions: int
) -> dict[str, np.ndarray]:
    """Rows padded to powers of two, so that few shapes are compiled."""
    pad, mask = tokenizer.special.pad, tokenizer.special.mask
    longest = max(len(row) for row in rows)
    length = min(max(16, 1 << (longest - 1).bit_length()), max_positions)
    height = 1 << (len(rows) - 1).bit_length()
    input_ids = np.full((height, length), pad, np.int32)
    input_mask = np.zeros((height, length), np.int32)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        input_mask[row, : len(ids)] = 1
    masks = (input_ids == mask) & (input_mask == 1)
    slots = 1 << (int(masks.sum(axis=1).max()) - 1).bit_length()
    positions = np.zeros((height, slots), np.int32)
    for row in range(height):
        found = np.flatnonzero(masks[row])
        positions[row, : len(found)] = found
    return {
        "input_ids": input_ids,
        "input_mask": input_mask,
        "segment_ids": np.zeros_like(input_ids),
        "masked_positions": positions,
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _predict(
    config: BertConfig, top: int, tokens: int, params: Parameters, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and ids [batch, predictions, top]; ids without a token get none."""
    logits = apply_pretraining(config, params, dict(batch)).mlm
    values, ids = jax.lax.top_k(jax.nn.softmax(logits)[..., :tokens], top)
    return values, ids


def _show(result: Mapping[str, Any]) -> str:
    """One [MASK] as lines of text."""
    before, after = _split_at(result["text"], result["mask"])
    lines = [f"{before}▢{after}"]
    for prediction in result["predictions"]:
        lines.append(f"  {prediction['probability']:7.2%}  {prediction['token']}")
    return "\n".join(lines)


def _split_at(text: str, number: int) -> tuple[str, str]:
    parts = text.split(MASK)
    return MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])


def _texts(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The texts of the command line in one go, or standard input line by line."""
    if arguments:
        yield list(arguments)
        return
    if sys.stdin.isatty():
        print(f"one text a line, {MASK} where a word is wanted; end with Ctrl-D", file=sys.stderr)
    for line in sys.stdin:
        if line.strip():
            yield [line.strip()]


def main(arguments: Sequence[str]) -> None:
    """Loads the model, answers, prints."""
    if not _CHECKPOINT.value:
        raise UsageError("--checkpoint=DIRECTORY is needed: a run or a Hugging Face directory")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
    model = load_pretrained(_CHECKPOINT.value, heads=("mlm",))[:3]
    results = []
    for texts in _texts(arguments[1:]):
        try:
            found = fill_mask(*model, texts, _TOP.value)
        except DataError as error:
            if arguments[1:] or not sys.stdin.isatty():
                raise
            print(f"error: {error}", file=sys.stderr)
            continue
        print("\n".join(_show(result) for result in found), flush=True)
        results += found
    if _JSON.value:
        try:
            Path(_JSON.value).write_text(
                json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8"
            )
        except OSError as error:
            raise OutputError(f"cannot write {_JSON.value}: {error.strerror}") from error


if __name__ == "__main__":
    run_command(main)
