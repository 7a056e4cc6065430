# SPDX-License-Identifier: Apache-2.0
"""Command: the vectors that a model makes of every line of a text.

    python -m bert_jax.extract_features --checkpoint=runs/demo --input=texts.txt \
        --output=features.jsonl [--layers=-1,-2,-3,-4] [--vectors=tokens|words|pooled|mean]

A line is one text, or two as `first ||| second`. Each line of the input, empty ones too, is one
line or row of the output, in the input's order. The output is JSON lines, .npz or .parquet by its
name (`bert_jax/feature_files.py` says what is in them). Layers count as in the original: -1 is the
top, 0 the first above the embeddings; the embeddings themselves are one below, -13 of 12 layers.

Source: `extract_features.py` of google-research/bert; section 5.3 of arXiv 1810.04805, which
concatenates the top four layers and takes a word's first piece for the word.
"""

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig
from bert_jax.convert.huggingface import add_fresh_heads
from bert_jax.convert.load import Pretrained, load_pretrained
from bert_jax.feature_files import KINDS, Features, check_output, open_writer
from bert_jax.model import ENCODER_PARTS, Params, encode
from data_pipeline.errors import UsageError, run_command
from data_pipeline.labelled.examples import truncate_pair
from data_pipeline.text_files import TextFile
from data_pipeline.tokenizers import Tokenizer, word_numbers

_PAIR = re.compile(r"^(.*) \|\|\| (.*)$")
_SHORTEST = 16  # sequences are padded to this or to a larger power of two
_WINDOW = 8  # batches that are sorted by length together


class EncodedLine(NamedTuple):
    """A line as the model sees it.

    `places` says which of the `words` between blanks each token belongs to, -1 for [CLS] and [SEP];
    those of the second text follow those of the first. `lost` tokens did not fit.
    """

    ids: list[int]
    segments: list[int]
    places: list[int]
    words: list[str]
    lost: int


def encode_line(tokenizer: Tokenizer, line: str, max_length: int) -> EncodedLine:
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP] of a line `A ||| B`, cut to `max_length`."""
    line = line.strip()
    match = _PAIR.match(line)
    first, second = match.groups() if match else (line, "")
    a, b = tokenizer.encode_aligned(first), tokenizer.encode_aligned(second)
    special = tokenizer.special
    specials = 3 if b.ids else 2
    left, right = truncate_pair(a.ids, b.ids, max_length - specials)
    ids = [special.cls, *a.ids[:left], special.sep]
    words = first.split()
    places = [-1, *word_numbers(first, a.starts[:left]), -1]
    segments = [0] * len(ids)
    if b.ids:
        ids += [*b.ids[:right], special.sep]
        places += [*(len(words) + n for n in word_numbers(second, b.starts[:right])), -1]
        words += second.split()
        segments += [1] * (right + 1)
    return EncodedLine(ids, segments, places, words, len(a.ids) - left + len(b.ids) - right)


def extract(
    model: Pretrained,
    lines: Iterable[str],
    *,
    kind: str,
    layers: Sequence[int],
    max_length: int,
    batch_tokens: int = 4096,
) -> Iterator[Features]:
    """Features of every line, in order, in bounded memory.

    Args:
        model: with a trained pooler if `kind` is "pooled".
        lines: any number of them.
        kind: one of `KINDS`: a vector for every token, for every word (that of its first piece),
            the pooler's output, or the mean over all tokens with [CLS] and [SEP].
        layers: those wanted, as in the original; not read if `kind` is "pooled".
        max_length: tokens a line at most; what is beyond is lost and counted.
        batch_tokens: tokens on the device at a time, padding included.
    """
    config, params, tokenizer, missing = model
    if "pooler" in missing:  # nobody will ask it
        params, _ = add_fresh_heads(config, params)
    mesh = partitioning.make_mesh(MeshConfig())
    params = {name: params[name] for name in ENCODER_PARTS}
    params = jax.device_put(params, partitioning.state_shardings(mesh, params))
    vectors = functools.partial(_vectors, config, kind, _from_embeddings(config, layers), params)
    encoded = (encode_line(tokenizer, line, max_length) for line in lines)
    number = 0
    for window in _windows(encoded, _WINDOW * batch_tokens):
        pending = []
        lengths = [len(line.ids) for line in window]
        for chosen, length in _batches(lengths, batch_tokens, max_length):
            rows = [window[place] for place in chosen]
            batch = _pad(rows, length, batch_tokens, mesh, tokenizer.special.pad)
            pending.append((chosen, vectors(**partitioning.to_devices(mesh, batch))))
        found: dict[int, np.ndarray] = {}
        for chosen, array in pending:
            found |= zip(chosen, np.asarray(array), strict=False)  # the rest is padding
        for place, line in enumerate(window):
            yield _features(number + place, line, found.pop(place), kind, tokenizer.tokens)
        number += len(window)


def check_layers(config: BertConfig, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, by default the top four or all there are.

    Raises:
        UsageError: the model has no such layer.
    """
    count = config.num_layers
    if layers is None:
        return tuple(-1 - number for number in range(min(4, count)))
    wrong = [layer for layer in layers if not -count - 1 <= layer < count]
    if wrong or not layers:
        raise UsageError(
            f"--layers: the model has {count} layers, no layer {wrong[0] if wrong else ''}; "
            f"-1 (top) to -{count} are layers and -{count + 1} the embeddings"
        )
    return tuple(layers)


def _from_embeddings(config: BertConfig, layers: Sequence[int]) -> tuple[int, ...]:
    """Layers counted from the embeddings, which are 0."""
    return tuple(layer % (config.num_layers + 1) if layer < 0 else layer + 1 for layer in layers)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _vectors(
    config: BertConfig,
    kind: str,
    layers: tuple[int, ...],
    params: Params,
    *,
    input_ids: jax.Array,
    input_mask: jax.Array,
    segment_ids: jax.Array,
) -> jax.Array:
    """Float32 [batch, length, layers, hidden]; of sentence vectors `length` is 1."""
    whole = kind != "pooled"
    output = encode(config, params, input_ids, input_mask, segment_ids, all_layers=whole)
    if output.layers is None:
        return output.pooled[:, None, None].astype(jnp.float32)
    chosen = jnp.stack([output.layers[layer] for layer in layers], axis=2).astype(jnp.float32)
    if kind == "mean":
        weights = input_mask[:, :, None, None].astype(jnp.float32)
        return (chosen * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    return chosen


def _windows(lines: Iterable[EncodedLine], tokens: int) -> Iterator[list[EncodedLine]]:
    window: list[EncodedLine] = []
    size = 0
    for line in lines:
        window.append(line)
        size += max(len(line.ids), _SHORTEST)
        if size >= tokens:
            yield window
            window, size = [], 0
    if window:
        yield window


def _batches(
    lengths: Sequence[int], batch_tokens: int, max_length: int
) -> Iterator[tuple[list[int], int]]:
    """Places of the lines of each batch, the longest first, and the length they are padded to."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        length = min(max(_SHORTEST, 1 << (lengths[order[0]] - 1).bit_length()), max_length)
        rows = max(1, batch_tokens // length)
        yield order[:rows], length
        order = order[rows:]


def _pad(
    lines: Sequence[EncodedLine], length: int, batch_tokens: int, mesh: Mesh, pad: int
) -> dict[str, np.ndarray]:
    """A batch of one shape for each length: as many rows as `batch_tokens` has room for."""
    rows = max(1, batch_tokens // length)
    shape = (-(-rows // mesh.size) * mesh.size, length)
    ids, mask, segments = (np.full(shape, value, np.int32) for value in (pad, 0, 0))
    for row, line in enumerate(lines):
        ids[row, : len(line.ids)] = line.ids
        mask[row, : len(line.ids)] = 1
        segments[row, : len(line.ids)] = line.segments
    return {"input_ids": ids, "input_mask": mask, "segment_ids": segments}


def _features(
    number: int, line: EncodedLine, vectors: np.ndarray, kind: str, tokens: Sequence[str]
) -> Features:
    if kind in ("pooled", "mean"):
        return Features(number, [], [], [], vectors[0], line.lost)
    rows = list(range(len(line.ids)))
    if kind == "words":
        rows = [row for row in rows if line.places[row] > line.places[row - 1]]
    ids, places = [line.ids[row] for row in rows], [line.places[row] for row in rows]
    names = [line.words[n] for n in places] if kind == "words" else [tokens[n] for n in ids]
    return Features(number, names, ids, places, vectors[rows], line.lost)


def _parse_layers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--layers={text}: write numbers, as in --layers=-1,-2") from error


def main(arguments: Sequence[str]) -> None:
    """Checks the command line, then goes through the input once."""
    if len(arguments) > 1 or not _CHECKPOINT.value or not _OUTPUT.value:
        raise UsageError("--checkpoint=MODEL and --output=FILE are needed, and no other arguments")
    output, kind, wanted = Path(_OUTPUT.value), _VECTORS.value, _parse_layers(_LAYERS.value)
    check_output(output, _OVERWRITE.value)
    model = load_pretrained(Path(_CHECKPOINT.value), heads=("pooler",) if kind == "pooled" else ())
    layers = check_layers(model.config, wanted)
    limit = model.config.max_positions
    max_length = _MAX_LENGTH.value or limit
    if not 3 < max_length <= limit:
        raise UsageError(f"--max_length={max_length}: the model takes 4 to {limit} tokens")
    count = 0
    cut: list[int] = []
    with (
        TextFile(_INPUT.value) as text,
        open_writer(output, kind, layers, model.config.hidden_size) as write,
    ):
        for features in extract(
            model,
            text.lines(whole=True),
            kind=kind,
            layers=layers,
            max_length=max_length,
            batch_tokens=_BATCH_TOKENS.value,
        ):
            write(features)
            count += 1
            if features.lost:
                cut.append(features.line + 1)
    print(f"{output}: {kind} of {count:,} lines", file=sys.stderr)
    if cut:
        print(
            f"{len(cut):,} lines had more than {max_length} tokens and were cut, first line "
            f"{cut[0]}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    _CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, Hugging Face or Google directory.")
    _INPUT = flags.DEFINE_string("input", "/dev/stdin", "Text file, also .gz or .zst.")
    _OUTPUT = flags.DEFINE_string("output", None, "File to write: .jsonl, .npz or .parquet.")
    _LAYERS = flags.DEFINE_string("layers", None, "Layers; default the top four.")
    _VECTORS = flags.DEFINE_enum("vectors", "tokens", KINDS, "A vector for what.")
    _MAX_LENGTH = flags.DEFINE_integer("max_length", None, "Tokens a line; default the model's.")
    _BATCH_TOKENS = flags.DEFINE_integer(
        "batch_tokens", 4096, "Tokens on the device at a time.", lower_bound=1
    )
    _OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace --output if it exists.")
    run_command(main)
