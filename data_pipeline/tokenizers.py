# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back: one small interface, WordPiece and SentencePiece behind it.

A tokenizer directory, as made by `python -m data_pipeline.vocab` and copied into every store, holds
`vocab.txt` or `sentencepiece.model` and `tokenizer_settings.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.aligned_text import AlignedPieces, word_numbers
from data_pipeline.errors import DataError
from data_pipeline.sentencepieces import SentencePieceTokenizer
from data_pipeline.special_tokens import SETTINGS_FILE, SpecialTokens
from data_pipeline.wordpiece import WordPieceTokenizer, read_vocabulary

__all__ = ["AlignedPieces", "SpecialTokens", "Tokenizer", "load_tokenizer", "word_numbers"]


class Tokenizer(Protocol):
    """What the rest of the project may ask of a tokenizer."""

    kind: str  # "wordpiece" or "sentencepiece"
    vocab_size: int
    tokens: list[str]  # index = id
    special: SpecialTokens
    settings: dict[str, bool]
    fingerprint: str  # SHA-256 over kind, settings and the ordered vocabulary

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; adds no special tokens and recognises none in the text."""

    def encode_aligned(self, text: str) -> AlignedPieces:
        """The ids that `encode_batch` gives, and the characters of `text` behind each."""

    def encode_with_mask(self, text: str) -> list[int]:
        """Ids of a text in which every "[MASK]" stands for the mask token."""

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text of a sequence of ids."""

    def continuation(self) -> np.ndarray:
        """Marks pieces, bool [vocab]: the piece continues a word (for whole-word masking)."""

    def save(self, directory: Path | str) -> None:
        """Writes the vocabulary and its settings into a directory."""


def load_tokenizer(
    path: Path | str, lower_case: bool | None = None, strip_accents: bool | None = None
) -> Tokenizer:
    """Loads a directory made by `save`, a WordPiece `vocab.txt` or a SentencePiece `.model`.

    Args:
        path: the directory or file.
        lower_case: None takes the saved setting. A bare `vocab.txt` without one is taken for lower
            case unless it has tokens with capital letters; a bare `.model` normalises by itself.
        strip_accents: None takes the saved setting, and what `lower_case` says without one.

    Raises:
        DataError: nothing usable there.
    """
    path = Path(path)
    settings: dict[str, Any] = {}
    if path.is_dir():
        settings = _read_settings(path / SETTINGS_FILE)
        kind = settings.pop("kind")
        path /= "vocab.txt" if kind == "wordpiece" else "sentencepiece.model"
    elif path.exists():
        kind = "sentencepiece" if path.suffix == ".model" else "wordpiece"
    else:
        raise DataError(
            f"no tokenizer at {path}; expected a directory made by python -m data_pipeline.vocab, "
            "a vocab.txt or a SentencePiece .model"
        )
    if lower_case is not None:
        settings["lower_case"] = lower_case
    if strip_accents is not None:
        settings["strip_accents"] = strip_accents
    if kind == "sentencepiece":
        return SentencePieceTokenizer(path, **settings)
    tokens = read_vocabulary(path)
    settings.setdefault("lower_case", not any(_has_capitals(token) for token in tokens))
    return WordPieceTokenizer(tokens, **settings)


def _has_capitals(token: str) -> bool:
    word = token.removeprefix("##")
    return word.isalpha() and word != word.lower()


def _read_settings(path: Path) -> dict[str, Any]:
    """Reads and checks `tokenizer_settings.json`."""
    allowed = {
        "wordpiece": {"lower_case", "strip_accents", "chinese_characters"},
        "sentencepiece": {"lower_case", "strip_accents"},
    }
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path.parent} is no tokenizer directory: it has no {path.name}; for a vocab.txt or a "
            ".model give the file itself"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict) or settings.get("kind") not in allowed:
        raise DataError(f"{path}: kind must be one of {', '.join(allowed)}")
    for name, value in settings.items():
        if name != "kind" and (name not in allowed[settings["kind"]] or type(value) is not bool):
            raise DataError(
                f"{path}: {name} = {value!r} is no setting of a {settings['kind']} tokenizer; "
                f"allowed are {', '.join(sorted(allowed[settings['kind']]))}, true or false"
            )
    return settings
