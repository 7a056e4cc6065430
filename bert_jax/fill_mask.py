# SPDX-License-Identifier: Apache-2.0
"""Command: what a model would write in place of [MASK].

    python -m bert_jax.fill_mask --checkpoint=runs/demo "The ship sailed across the [MASK]."
    python -m bert_jax.fill_mask --checkpoint=export --json=filled.json < texts.txt

The checkpoint is a run, a Hugging Face or a Google directory. Without a text the lines of standard
input are answered: one by one as they are typed, or in batches from a file. A text may hold several
[MASK]s; each is filled as if the others stayed masked.

`--pieces=3` fills a [MASK] with whole words of up to three pieces: a word of two is what the model
puts into [MASK] [MASK], piece after piece. Its probability is the product over its pieces; words of
different lengths are ranked by the geometric mean, since a product falls with every piece.
"""

import functools
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from bert_jax.config import BertConfig
from bert_jax.convert.files import check_new_file
from bert_jax.convert.huggingface import add_fresh_heads
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.mapping import Parameters
from bert_jax.model import apply_pretraining
from data_pipeline.errors import DataError, OutputError, UsageError, run_command
from data_pipeline.tokenizers import Tokenizer

BATCH_SIZE = 32
MASK = "[MASK]"
Word = tuple[float, int, list[int]]  # log probability, number of pieces, their ids


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


def fill_words(
    config: BertConfig,
    params: Parameters,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    top: int = 5,
    pieces: int = 3,
) -> list[dict[str, Any]]:
    """The best whole words of up to `pieces` pieces for every [MASK] of every text.

    A beam of `top` words is kept from piece to piece.

    Args:
        config: the model.
        params: its parameters, with the head "mlm".
        tokenizer: its tokenizer.
        texts: each with one [MASK] or more.
        top: words for each [MASK].
        pieces: the longest words.

    Returns:
        As `fill_mask`, by falling geometric mean of the probabilities of a word's pieces; each
        prediction also says its number of "pieces".

    Raises:
        DataError: a text has no [MASK] or is too long for the model; with the text.
    """
    params, _ = add_fresh_heads(config, params)
    results = []
    for text in texts:
        ids = _encode(config, tokenizer, text)
        for number, place in enumerate(np.flatnonzero(np.array(ids) == tokenizer.special.mask)):
            found: list[Word] = []
            for count in range(1, pieces + 1):
                row = [*ids[:place], *[tokenizer.special.mask] * count, *ids[place + 1 :]]
                if len(row) <= config.max_positions:
                    found += _words(config, params, tokenizer, row, int(place), count, top)
            found.sort(key=lambda word: word[0] / word[1], reverse=True)
            predictions: dict[str, dict[str, Any]] = {}
            for score, count, word in found:  # two ways to spell a word: the better one stays
                token = tokenizer.decode(word)
                prediction = {"token": token, "probability": math.exp(score), "pieces": count}
                predictions.setdefault(token, prediction)
            best = list(predictions.values())[:top]
            results.append({"text": text, "mask": number, "predictions": best})
    return results


def _words(
    config: BertConfig,
    params: Parameters,
    tokenizer: Tokenizer,
    row: list[int],
    place: int,
    count: int,
    top: int,
) -> list[Word]:
    """The best words of `count` pieces at `place` of a row that has so many [MASK]s there."""
    continues = tokenizer.continuation()
    starts = ~continues
    starts[list(vars(tokenizer.special).values())] = False
    if count > 1:  # punctuation is a word of its own
        starts &= np.array([token.strip("▁").isalnum() for token in tokenizer.tokens])
    beam: list[Word] = [(0.0, count, [])]
    for piece in range(count):
        rows = [[*row[:place], *word, *row[place + len(word) :]] for _, _, word in beam]
        batch = _batch(rows, tokenizer, config.max_positions)
        batch["masked_positions"] = np.full((len(batch["input_ids"]), 1), place + piece, np.int32)
        values, ids = _predict(config, tokenizer.vocab_size, tokenizer.vocab_size, params, batch)
        allowed = continues if piece else starts
        longer: list[Word] = []
        for (score, _, word), shares, tokens in zip(
            beam, np.asarray(values)[: len(beam), 0], np.asarray(ids)[: len(beam), 0], strict=True
        ):
            fitting = np.flatnonzero(allowed[tokens] & (shares > 0))[:top]
            longer += [
                (score + math.log(shares[i]), count, [*word, int(tokens[i])]) for i in fitting
            ]
        beam = sorted(longer, key=lambda word: word[0], reverse=True)[:top]
    return beam


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
    """The texts of the command line in one go, or standard input: typed, or in batches."""
    if arguments:
        yield list(arguments)
        return
    lines = (line.strip() for line in sys.stdin)
    texts = (line for line in lines if line)
    size = BATCH_SIZE
    if sys.stdin.isatty():
        print(f"one text a line, {MASK} where a word is wanted; end with Ctrl-D", file=sys.stderr)
        size = 1
    while batch := list(itertools.islice(texts, size)):
        yield batch


def main(arguments: Sequence[str]) -> None:
    """Loads the model, answers, prints."""
    values = flags.FLAGS
    if not values.checkpoint:
        raise UsageError(
            "--checkpoint=DIRECTORY is needed: a run, Hugging Face or Google directory"
        )
    check_new_file(values.json, values.overwrite)
    config, params, tokenizer, _ = load_pretrained(values.checkpoint, heads=("mlm",))
    fill = functools.partial(fill_words, pieces=values.pieces) if values.pieces > 1 else fill_mask
    results = []
    for texts in _texts(arguments[1:]):
        try:
            found = fill(config, params, tokenizer, texts, values.top)
        except DataError as error:
            if arguments[1:] or not sys.stdin.isatty():
                raise
            print(f"error: {error}", file=sys.stderr)
            continue
        print("\n".join(_show(result) for result in found), flush=True)
        results += found
    if values.json:
        try:
            Path(values.json).write_text(
                json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8"
            )
        except OSError as error:
            raise OutputError(f"cannot write {values.json}: {error.strerror}") from error


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Run, Hugging Face or Google directory.")
    flags.DEFINE_integer("top", 5, "Predictions for each [MASK].", lower_bound=1)
    flags.DEFINE_integer("pieces", 1, "Above 1: whole words of up to so many.", lower_bound=1)
    flags.DEFINE_string("json", None, "Also write the predictions to this file.")
    flags.DEFINE_bool("overwrite", False, "Replace the file of --json.")
    run_command(main)
