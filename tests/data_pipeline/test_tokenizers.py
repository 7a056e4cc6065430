# SPDX-License-Identifier: Apache-2.0
"""Loading tokenizers: directories, bare files, settings."""

import json
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import load_tokenizer
from data_pipeline.wordpiece import WordPieceTokenizer


def write_vocabulary(path: Path, *words: str) -> Path:
    path.write_text("\n".join([*SPECIAL_NAMES, *words]), encoding="utf-8")
    return path


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_a_saved_tokenizer_comes_back_the_same(
    tmp_path: Path, lower_case: bool, strip_accents: bool
) -> None:
    words = ["Café", "café", "Cafe", "cafe"]
    saved = WordPieceTokenizer(
        [*SPECIAL_NAMES, *words], lower_case=lower_case, strip_accents=strip_accents
    )
    saved.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.settings == saved.settings
    assert loaded.encode_batch(["Café"]) == saved.encode_batch(["Café"])


def test_the_fingerprint_tells_settings_and_order_apart() -> None:
    words = [*SPECIAL_NAMES, "a", "b"]
    fingerprints = {
        WordPieceTokenizer(tokens, lower_case=lower_case, strip_accents=strip).fingerprint
        for tokens in (words, [*words[:-2], "b", "a"])
        for lower_case in (True, False)
        for strip in (True, False)
    }
    assert len(fingerprints) == 8


def test_the_case_of_a_bare_vocabulary_is_seen_in_its_words(tmp_path: Path) -> None:
    uncased = write_vocabulary(tmp_path / "uncased.txt", "the", "##s", "[unused0]", "<S>")
    cased = write_vocabulary(tmp_path / "cased.txt", "the", "The")
    assert load_tokenizer(uncased).settings["lower_case"]
    assert not load_tokenizer(cased).settings["lower_case"]
    assert load_tokenizer(cased, lower_case=True).settings == {
        "lower_case": True,
        "strip_accents": True,
        "chinese_characters": True,
    }
    assert not load_tokenizer(uncased, strip_accents=False).settings["strip_accents"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(DataError, match="it has no tokenizer_settings.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "kind must be one of wordpiece, sentencepiece"),
        ('{"kind": "bpe"}', "kind must be one of"),
        ('{"kind": "wordpiece", "lower_case": 1}', "lower_case = 1 is no setting"),
        ('{"kind": "wordpiece", "lowercase": true}', "lowercase = True is no setting"),
        ('{"kind": "sentencepiece", "chinese_characters": true}', "is no setting of a sentencep"),
        ('{"kind": "wordpiece"}', "vocab.txt is not a regular file"),
    ],
)
def test_broken_settings_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    (tmp_path / "tokenizer_settings.json").write_text(settings)
    with pytest.raises(DataError) as raised:
        load_tokenizer(tmp_path)
    assert message in str(raised.value) and raised.value.exit_code == 65


def test_the_settings_file_says_all_that_decides_the_ids(tmp_path: Path) -> None:
    tokenizer = WordPieceTokenizer([*SPECIAL_NAMES, "a"], lower_case=True)
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_settings.json").read_text()) == {
        "kind": "wordpiece",
        "lower_case": True,
        "strip_accents": True,
        "chinese_characters": True,
    }
