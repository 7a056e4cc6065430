# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files that `transformers.AutoTokenizer` loads, and the way back.

`tokenizer.json` spells the original's rules out instead of naming the ready-made `BertNormalizer`,
which differs from them (see `data_pipeline.wordpiece`). Our own files are written beside it, so
that an export is also a tokenizer directory of ours.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from absl import logging

from bert_jax.convert.files import read_json
from bert_jax.convert.huggingface_sentencepiece import InexpressibleError, sentencepiece_steps
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import SpecialTokens, Tokenizer, load_tokenizer

_SPECIAL_KEYS = {
    "pad": "pad_token",
    "unk": "unk_token",
    "cls": "cls_token",
    "sep": "sep_token",
    "mask": "mask_token",
}
# Members of a character class.
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
# The blocks that the original knows; the ready-made normaliser misses the first 256 of one.
_CHINESE = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f"
)
# Python, as the original, gives a capital sigma at the end of a word its final form; characters
# that the casing rules of Unicode pass over (apostrophes, accents) may follow the word's last
# letter, here up to three.
_CASED = r"[\p{Cased}&&\P{Case_Ignorable}]"
_FINAL_SIGMA = (
    "(?<=" + "|".join(_CASED + r"\p{Case_Ignorable}" * skipped for skipped in range(4)) + ")"
    rf"\u03a3(?!\p{{Case_Ignorable}}*{_CASED})"
)


def write_tokenizer(tokenizer: Tokenizer, directory: Path, max_length: int) -> None:
    """Writes ours and theirs into `directory`.

    Only ours where theirs cannot express a SentencePiece model, with a warning.
    """
    tokenizer.save(directory)
    names = {
        key: tokenizer.tokens[getattr(tokenizer.special, name)]
        for name, key in _SPECIAL_KEYS.items()
    }
    settings = {
        # Takes tokenizer.json as it is; BertTokenizer would put its own normaliser in its place.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": True,
        "do_lower_case": tokenizer.settings["lower_case"],
        "strip_accents": tokenizer.settings["strip_accents"],
        "tokenize_chinese_chars": tokenizer.settings.get("chinese_characters", False),
        **names,
    }
    try:
        tokenizer_file = tokenizer_json(tokenizer, directory)
    except InexpressibleError as error:
        logging.warning(
            "AutoTokenizer will not load this export, its weights only: %s; load the tokenizer "
            "with the library `sentencepiece`",
            error,
        )
        return
    files = {
        "tokenizer.json": tokenizer_file,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": names,
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (directory / name).write_text(text + "\n", "utf-8")


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of an export of ours, or of any directory with a WordPiece vocabulary.

    Raises:
        DataError: there is none.
    """
    if (directory / "tokenizer_settings.json").exists():
        return load_tokenizer(directory)
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    lower_case = settings.get("do_lower_case", True)  # as BertTokenizer
    strip_accents = settings.get("strip_accents")
    kept = {
        "kind": "wordpiece",
        "lower_case": lower_case,
        "strip_accents": lower_case if strip_accents is None else strip_accents,
        "chinese_characters": settings.get("tokenize_chinese_chars", True),
    }
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = "".join(f"{token}\n" for token in _read_vocabulary(directory))
        (Path(scratch) / "vocab.txt").write_text(vocabulary, "utf-8", newline="\n")
        (Path(scratch) / "tokenizer_settings.json").write_text(json.dumps(kept), "utf-8")
        return load_tokenizer(scratch)


def _read_vocabulary(directory: Path) -> list[str]:
    """Tokens in the order of their ids, from vocab.txt or, as newer exports have it, the JSON.

    Raises:
        DataError: there is none, or the two disagree.
    """
    plain, packed = directory / "vocab.txt", directory / "tokenizer.json"
    if not packed.exists() and not plain.exists():
        raise DataError(f"{directory} holds no vocabulary: vocab.txt or tokenizer.json")
    tokens = plain.read_text("utf-8").splitlines() if plain.exists() else None
    if not packed.exists():
        return tokens or []
    others = _read_packed_vocabulary(packed)
    for number, (token, other) in enumerate(zip(tokens or others, others, strict=False)):
        if token != other:
            raise DataError(
                f"{directory}: entry {number} is {token!r} in vocab.txt and {other!r} in "
                "tokenizer.json; delete the one that is not the model's"
            )
    return tokens or others


def _read_packed_vocabulary(path: Path) -> list[str]:
    model = read_json(path).get("model", {})
    if model.get("type") != "WordPiece":
        raise DataError(
            f"{path} holds a tokenizer of type {model.get('type')}; only WordPiece can be imported"
        )
    ids: dict[str, int] = model["vocab"]
    if sorted(ids.values()) != list(range(len(ids))):
        raise DataError(f"{path}: the ids of the vocabulary are not 0 to {len(ids) - 1}")
    return sorted(ids, key=ids.__getitem__)


def tokenizer_json(tokenizer: Tokenizer, directory: Path) -> dict[str, Any]:
    """The tokenizer in the format of Hugging Face `tokenizers`.

    Args:
        tokenizer: ours.
        directory: where it has been saved.

    Raises:
        InexpressibleError: a SentencePiece model that this format cannot express.
    """
    special = tokenizer.special
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    before = _case_and_accents(tokenizer.settings)
    if tokenizer.kind == "wordpiece":
        steps = _wordpiece_steps(tokenizer, before)
    else:
        steps = sentencepiece_steps(tokenizer, directory / "sentencepiece.model", before)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": tokenizer.tokens[number], **added, "special": True}
            for number in sorted(vars(special).values())
        ],
        "post_processor": _pair_template(special, tokenizer.tokens),
        **steps,
    }


def _wordpiece_steps(tokenizer: Tokenizer, before: list[dict[str, Any]]) -> dict[str, Any]:
    clean = [_replace(r"[\t\n\r\p{Zs}]", " "), _replace(r"[\uFFFD\p{Cc}\p{Cf}]", "")]
    isolated = _PUNCTUATION + (_CHINESE if tokenizer.settings["chinese_characters"] else "")
    split = {"type": "Split", "pattern": {"Regex": f"[{isolated}]"}, "behavior": "Isolated"}
    return {
        "normalizer": {"type": "Sequence", "normalizers": clean + before},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, split | {"invert": False}],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.tokens[tokenizer.special.unk],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 200,
            "vocab": {token: number for number, token in enumerate(tokenizer.tokens)},
        },
    }


def _case_and_accents(settings: dict[str, bool]) -> list[dict[str, Any]]:
    steps = []
    if settings["lower_case"]:
        steps += [_replace(_FINAL_SIGMA, "\u03c2"), {"type": "Lowercase"}]
    if settings["strip_accents"]:
        steps += [{"type": "NFD"}, _replace(r"\p{Mn}", "")]
    return steps


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _pair_template(special: SpecialTokens, tokens: list[str]) -> dict[str, Any]:
    """[CLS] A [SEP] and [CLS] A [SEP] B [SEP], segments 0 and 1."""

    def token(number: int, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": tokens[number], "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [token(special.cls, 0), text("A", 0), token(special.sep, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), token(special.sep, 1)],
        "special_tokens": {
            tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
            for number in (special.cls, special.sep)
        },
    }
