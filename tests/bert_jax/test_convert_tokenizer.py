# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files for `transformers`: equal to our tokenizer, which is equal to the original."""

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from bert_jax.convert.huggingface_tokenizer import read_tokenizer, tokenizer_json, write_tokenizer
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import load_tokenizer
from data_pipeline.vocab import train_sentencepiece
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.bert_jax.tiny_model import tiny_tokenizer

ROOT = Path(__file__).parents[2]
GOLDENS = json.loads((ROOT / "tests" / "goldens" / "wordpiece.json").read_text())
# Python 3.11 files these otherwise than the Unicode tables inside `tokenizers`.
MOVED = {0x1171E, 0x11938}
SETTINGS = [
    {"lower_case": True},
    {"lower_case": False},
    {"lower_case": True, "strip_accents": False},
    {"lower_case": False, "strip_accents": True},
]


def theirs(tokenizer):
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer, Path())))


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
    characters = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs") and code not in MOVED
    ]
    for start in range(0, len(characters), 100):
        some = characters[start : start + 100]
        text = " ".join(f"xA{character}y{character}" for character in some)
        words = rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(text))
        assert [word for word, _ in words] == tokenizer.words(text), ascii(some[0])


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
    with pytest.raises(DataError, match="holds no vocabulary: vocab.txt or tok"):
        read_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def lines():
    text = (ROOT / "demo" / "corpus" / "natsume-botchan.txt").read_text("utf-8")
    return [line for line in text.split("\n") if line][:400]


@pytest.fixture(scope="module")
def unigram(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("unigram") / "spiece.model"
    path.write_bytes(train_sentencepiece(lines, 300, lower_case=False))
    return path


HARD = [
    "",
    "  a  b ",
    "a\tb\u00a0c",
    "\ufb01 \u2460 \uff46\uff55\uff4c\uff4c",
    "x\u200by\u2028z",
    "中文 字",
    "ΟΔΟΣ É",
    "a\u2581b",
    "[MASK] the [MASK][MASK] sea",
]


@pytest.mark.parametrize("settings", [{}, {"lower_case": True, "strip_accents": True}], ids=str)
def test_a_sentencepiece_model_cuts_the_same_pieces(lines, unigram, tmp_path, settings):
    tokenizer = load_tokenizer(unigram, **settings)
    write_tokenizer(tokenizer, tmp_path / "out", max_length=40)
    assert read_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    different = 0
    for text in [*lines, *HARD]:
        ours = tokenizer.encode_with_mask(text)
        found = rust.encode(text, add_special_tokens=False).ids
        # Where two ways to cut a word are exactly as probable, the libraries choose differently.
        assert sorted(found) == sorted(ours), text
        different += found != ours
    assert different <= 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model_type": "bpe"}, "it is no unigram model"),
        ({"byte_fallback": True, "vocab_size": 500}, "it falls back to bytes"),
        ({"treat_whitespace_as_suffix": True}, "blanks end its words"),
        ({"user_defined_symbols": ["<x>"]}, "it has user-defined or unused pieces"),
    ],
)
def test_a_model_that_cannot_be_expressed_is_kept_as_it_is(
    lines, tmp_path, caplog, options, problem
):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        minloglevel=2,
        **({"vocab_size": 200} | options),
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path / "spiece.model")
    write_tokenizer(tokenizer, tmp_path / "out", max_length=40)
    assert "AutoTokenizer will not load this export" in caplog.text and problem in caplog.text
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert read_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
