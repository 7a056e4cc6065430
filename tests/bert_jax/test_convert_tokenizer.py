# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files for `transformers`: equal to our tokenizer, which is equal to the original."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers

from bert_jax.convert.huggingface_tokenizer import read_tokenizer, tokenizer_json, write_tokenizer
from data_pipeline.errors import DataError
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.bert_jax.tiny_model import tiny_tokenizer

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "wordpiece.json").read_text())
# Python 3.11 files these otherwise than the Unicode tables inside `tokenizers`.
MOVED = {0x1171E, 0x11938}
SETTINGS = [
    {"lower_case": True},
    {"lower_case": False},
    {"lower_case": True, "strip_accents": False},
    {"lower_case": False, "strip_accents": True},
]


def theirs(tokenizer):
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer)))


@pytest.mark.parametrize("name", GOLDENS)
def test_hard_strings_become_the_tokens_of_the_original(name):
    golden = GOLDENS[name]
    tokenizer = WordPieceTokenizer(golden["vocabulary"], lower_case=golden["lower_case"])
    rust = theirs(tokenizer)
    for case in golden["cases"]:
        text = case["text"]
        # Rust has no lone surrogates, and takes special tokens for what they stand for.
        if any(0xD800 <= ord(c) < 0xE000 for c in text) or "[MASK]" in text or "[CLS]" in text:
            continue
        assert rust.encode(text, add_special_tokens=False).tokens == case["tokens"], ascii(text)


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_every_character_is_treated_as_by_our_tokenizer(tmp_path, settings):
    tokenizer = tiny_tokenizer(tmp_path, **settings)
    rust = theirs(tokenizer)
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cn", "Cs") or code in MOVED:
            continue
        text = f"xA{character}y{character} "
        words = rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(text))
        assert [word for word, _ in words] == tokenizer.words(text), hex(code)


def test_sigma_takes_its_final_form_where_python_gives_it(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    normalizer = theirs(tokenizer).normalizer
    texts = ["ΟΔΟΣ", "ΑΣ ΣΑΣ Σ ΑΣ'Α Α'Σ ΑΣ' ΑΣ. 1Σ ʰΣ Α'''Σ", "ΑΣ中", "aΣ", "Α\u0301Σ\u0301"]
    for text in texts:
        expected = "".join(
            c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn"
        )
        assert normalizer.normalize_str(text) == expected


def test_pairs_get_special_tokens_and_segments(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    special = tokenizer.special
    first, second = tokenizer.encode_batch(["The ship sailed", "the wide sea."])
    pair = theirs(tokenizer).encode("The ship sailed", "the wide sea.")
    assert pair.ids == [special.cls, *first, special.sep, *second, special.sep]
    assert pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    masked = theirs(tokenizer).encode("the [MASK] sea", add_special_tokens=False)
    assert masked.ids == tokenizer.encode_with_mask("the [MASK] sea")


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_export_is_a_tokenizer_directory_of_ours(tmp_path, settings):
    tokenizer = tiny_tokenizer(tmp_path, **settings)
    write_tokenizer(tokenizer, tmp_path / "out", max_length=40)
    assert read_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["model_max_length"] == 40 and written["mask_token"] == "[MASK]"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_directories_of_others_are_read(tmp_path, settings):
    tokenizer = tiny_tokenizer(tmp_path, **settings)
    write_tokenizer(tokenizer, tmp_path / "out", max_length=40)
    (tmp_path / "out" / "tokenizer_settings.json").unlink()
    assert read_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
    (tmp_path / "out" / "vocab.txt").unlink()
    assert read_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint


def test_a_bare_vocabulary_is_lower_cased_as_bert_tokenizer_does(tmp_path):
    (tmp_path / "bare").mkdir()
    tokenizer = tiny_tokenizer(tmp_path / "bare", lower_case=False)
    assert read_tokenizer(tmp_path / "bare").settings["lower_case"] is True
    assert tokenizer.settings["lower_case"] is False


def test_other_kinds_of_tokenizer_are_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(DataError, match="of type BPE; only WordPiece can be imported"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="tokenizer.json is missing"):
        read_tokenizer(tmp_path)
