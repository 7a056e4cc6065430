# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece model in the terms of Hugging Face `tokenizers`.

The model file is a protocol buffer (`sentencepiece_model.proto`), read here field by field: the
generated class demands a newer `protobuf` than TensorFlow allows.
"""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer

WORD_START = "\u2581"
_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # types of pieces


class InexpressibleError(DataError):
    """The model does something that `tokenizers` cannot."""


def sentencepiece_steps(
    tokenizer: Tokenizer, path: Path, before: list[dict[str, Any]]
) -> dict[str, Any]:
    """The parts of tokenizer.json that differ from WordPiece's.

    Args:
        tokenizer: ours, over the same model.
        path: the `.model` file.
        before: normalisers that come first.

    Raises:
        InexpressibleError: the model is no plain unigram model.
    """
    pieces, trainer, normalizer = _read(path)
    _check(pieces, trainer, normalizer, path)
    scores = [score for _, score, _ in pieces]
    scores += [0.0] * (tokenizer.vocab_size - len(scores))  # special tokens that we appended
    vocabulary = list(zip(tokenizer.tokens, scores, strict=True))
    metaspace = {
        "type": "Metaspace",
        "replacement": WORD_START,
        "prepend_scheme": "always" if normalizer.get(3, 1) else "never",
        "split": not any(WORD_START in token[1:] for token in tokenizer.tokens),
    }
    steps = list(before)
    if charsmap := normalizer.get(2):
        steps.append(
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
        )
    if normalizer.get(4, 1):
        steps += [
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": metaspace,
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.special.unk,
            "vocab": vocabulary,
            "byte_fallback": False,
        },
    }


def _check(
    pieces: list[tuple[str, float, int]],
    trainer: dict[int, Any],
    normalizer: dict[int, Any],
    path: Path,
) -> None:
    """Fields by number: see `TrainerSpec` and `NormalizerSpec` of the proto."""
    problems = {
        "it is no unigram model": trainer.get(3, _UNIGRAM) != _UNIGRAM,
        "blanks end its words": bool(trainer.get(24, 0)),
        "it falls back to bytes": bool(trainer.get(35, 0)),
        "it does not mark blanks": not normalizer.get(5, 1),
        "it has user-defined or unused pieces": any(
            kind not in (_NORMAL, _UNKNOWN, _CONTROL) for _, _, kind in pieces
        ),
    }
    for problem, present in problems.items():
        if present:
            raise InexpressibleError(f"{path.name}: {problem}")


def _read(path: Path) -> tuple[list[tuple[str, float, int]], dict[int, Any], dict[int, Any]]:
    """Pieces as (text, score, type), the trainer's fields and the normaliser's."""
    pieces = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(path.read_bytes()):
        if number == 1:
            piece = dict(_fields(value))
            (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
            pieces.append((piece[1].decode(), score, piece.get(3, _NORMAL)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    return pieces, trainer, normalizer


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, integer or bytes) of a serialised protocol buffer message."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, wire_type = divmod(varint(), 8)
        if wire_type == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire_type) or varint()
        yield number, message[place : place + size]
        place += size
