# SPDX-License-Identifier: Apache-2.0
"""Small texts and tokenizers for the tests of the data pipeline."""

from pathlib import Path

import pytest

from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.wordpiece import WordPieceTokenizer

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "king", "went", "home", "and", "he", "said"]


@pytest.fixture
def vocabulary() -> list[str]:
    return [*SPECIAL_NAMES, *".,!?[]", *LETTERS, *("##" + c for c in LETTERS), *WORDS]


@pytest.fixture
def tokenizer(vocabulary: list[str]) -> WordPieceTokenizer:
    return WordPieceTokenizer(vocabulary, lower_case=True)


@pytest.fixture
def tokenizer_directory(tokenizer: WordPieceTokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"
