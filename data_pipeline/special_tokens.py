# SPDX-License-Identifier: Apache-2.0
"""What both kinds of tokenizer share: special tokens, settings and the fingerprint."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SPECIAL_NAMES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS_FILE = "tokenizer_settings.json"
MAX_TOKENIZER_BYTES = 64 << 20  # 60 times the largest published BERT vocabulary


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens in a vocabulary."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


def fingerprint(kind: str, settings: Mapping[str, object], tokens: Sequence[str]) -> str:
    """SHA-256 (hex) over everything that decides which ids a text becomes."""
    content = json.dumps([kind, dict(settings), list(tokens)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def save_settings(directory: Path, kind: str, settings: Mapping[str, bool]) -> None:
    """Writes the settings file of a tokenizer directory."""
    content = json.dumps({"kind": kind, **settings}, indent=2)
    (directory / SETTINGS_FILE).write_text(content + "\n", encoding="utf-8")


def encode_around_masks(
    encode_batch: Callable[[Sequence[str]], list[list[int]]], text: str, mask: int
) -> list[int]:
    """Encodes what stands between the "[MASK]"s of `text` and puts the id `mask` there."""
    first, *others = encode_batch(text.split("[MASK]"))
    return first + [number for part in others for number in (mask, *part)]
