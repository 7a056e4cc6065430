# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models behind the tokenizer interface, ours and those of others."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from data_pipeline.errors import DataError
from data_pipeline.sentencepieces import SentencePieceTokenizer
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import load_tokenizer
from data_pipeline.vocab import train_sentencepiece

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    text = (ROOT / "demo" / "corpus" / "natsume-botchan.txt").read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line][:600]


def train(sentences: list[str], path: Path, **options: object) -> Path:
    """Trains a model with the library itself, as somebody else would have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=200,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def foreign(sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(sentences, tmp_path_factory.mktemp("foreign") / "spiece.model")


def test_missing_special_tokens_come_after_the_pieces(foreign: Path, sentences: list[str]) -> None:
    tokenizer = SentencePieceTokenizer(foreign)
    special = tokenizer.special
    assert (special.unk, special.pad, special.cls, special.sep, special.mask) == (
        0,
        *range(200, 204),
    )
    assert tokenizer.vocab_size == 204
    assert tokenizer.tokens[200:] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(foreign))
    assert tokenizer.encode_batch(sentences[:50]) == processor.encode(sentences[:50])
    assert tokenizer.tokens[:200] == [processor.id_to_piece(number) for number in range(200)]


def test_a_model_of_ours_has_the_special_tokens_first(sentences: list[str], tmp_path: Path) -> None:
    path = tmp_path / "ours.model"
    path.write_bytes(train_sentencepiece(sentences, 300, lower_case=True))
    tokenizer = SentencePieceTokenizer(path)
    assert tokenizer.tokens[:5] == list(SPECIAL_NAMES)
    assert vars(tokenizer.special) == dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert tokenizer.vocab_size == 300
    assert tokenizer.encode_batch(["The Sea"]) == tokenizer.encode_batch(["the sea"])


def test_text_that_looks_like_a_special_token_stays_text(
    sentences: list[str], tmp_path: Path
) -> None:
    """A model may even have been trained to find [MASK] in raw text."""
    options = {"user_defined_symbols": ["[MASK]"], "control_symbols": ["[CLS]", "[SEP]"]}
    tokenizer = SentencePieceTokenizer(train(sentences, tmp_path / "m.model", **options))
    assert tokenizer.special.mask < 200
    (ids,) = tokenizer.encode_batch(["the [MASK] of [CLS]"])
    assert not {tokenizer.special.mask, tokenizer.special.cls} & set(ids)
    masked = tokenizer.encode_with_mask("the [MASK] of")
    assert masked.count(tokenizer.special.mask) == 1
    assert tokenizer.decode(masked) == "the [MASK] of"


def test_a_saved_model_comes_back_the_same(foreign: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(foreign, lower_case=True)
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert (tmp_path / "saved" / "sentencepiece.model").read_bytes() == foreign.read_bytes()
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.fingerprint != load_tokenizer(foreign).fingerprint
    assert loaded.encode_batch(["The SEA"]) == load_tokenizer(foreign).encode_batch(["the sea"])


def test_accents_can_be_dropped(foreign: Path) -> None:
    plain = load_tokenizer(foreign)
    dropping = load_tokenizer(foreign, strip_accents=True)
    assert dropping.encode_batch(["café"]) == plain.encode_batch(["cafe"])


def test_continuation_marks_pieces_without_the_blank(foreign: Path) -> None:
    tokenizer = SentencePieceTokenizer(foreign)
    marked = tokenizer.continuation()
    assert marked.dtype == bool and marked.shape == (204,)
    assert not marked[[0, 1, 2, 200, 201, 202, 203]].any()
    text = "the master of the school"
    (ids,) = tokenizer.encode_batch([text])
    assert int(np.sum(~marked[ids])) == len(text.split())


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.model is no SentencePiece model"):
        load_tokenizer(path)


def test_a_directory_without_its_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_settings.json").write_text('{"kind": "sentencepiece"}')
    with pytest.raises(DataError, match="not a regular file"):
        load_tokenizer(tmp_path)
