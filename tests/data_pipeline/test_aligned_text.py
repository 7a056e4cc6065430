# SPDX-License-Identifier: Apache-2.0
"""Pieces know their characters: through cleaning, case, accents and SentencePiece's own rules."""

import io
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline import aligned_text
from data_pipeline.sentencepieces import SentencePieceTokenizer
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import Tokenizer, word_numbers
from data_pipeline.wordpiece import WordPieceTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzσς"
VOCABULARY = [*SPECIAL_NAMES, "ship", *LETTERS, *(f"##{c}" for c in LETTERS), *"(),.'"]
# Characters that some step drops, expands, reorders or splits at, more often than chance has them.
HARD = "aÀéİΣσǅ½가ﬁ中ｌ\u0301\u0323\u302e\u200d\u00ad\ufffd\x00\x1c\u2028\u202f \t'-("
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(HARD)), max_size=30)


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = Path(__file__).parents[2] / "demo" / "corpus" / "natsume-botchan.txt"
    lines = [line for line in corpus.read_text("utf-8").split("\n") if line][:300]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=150, minloglevel=2
    )
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


def spans(tokenizer: Tokenizer, text: str) -> list[tuple[str, str]]:
    ids, starts, ends = tokenizer.encode_aligned(text)
    places = zip(ids, starts, ends, strict=True)
    return [(tokenizer.tokens[number], text[start:end]) for number, start, end in places]


def wordpiece(**options: bool) -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, **options)


@given(TEXT)
@example("a\u302e\u0323\u0301b")
@settings(max_examples=300, deadline=None)
def test_decomposing_and_lowering_are_those_of_python(text: str) -> None:
    decomposed = aligned_text.decompose(aligned_text.align(text))
    assert decomposed.text == unicodedata.normalize("NFD", text)
    places = zip(decomposed.text, decomposed.starts, decomposed.ends, strict=True)
    for character, start, end in places:
        assert character in unicodedata.normalize("NFD", text[start:end])
    lowered = aligned_text.lower(aligned_text.align(text))
    assert lowered.text == text.lower()
    for character, start, end in zip(lowered.text, lowered.starts, lowered.ends, strict=True):
        assert character.replace("ς", "σ") in text[start:end].lower().replace("ς", "σ")


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_wordpiece_gives_the_same_ids_and_the_characters_behind_them(
    lower_case: bool, strip_accents: bool, text: str
) -> None:
    tokenizer = wordpiece(lower_case=lower_case, strip_accents=strip_accents)
    pieces = tokenizer.encode_aligned(text)
    assert [pieces.ids] == tokenizer.encode_batch([text])
    for number, start, end in zip(*pieces, strict=True):
        assert 0 <= start < end <= len(text)
        if number == tokenizer.special.unk:
            continue
        # The characters alone, made the same way, hold the piece.
        wanted = tokenizer.tokens[number].removeprefix("##")
        made = "".join(tokenizer.words(text[start:end]))
        assert wanted.replace("ς", "σ") in made.replace("ς", "σ")


def test_characters_that_vanish_and_characters_that_multiply() -> None:
    tokenizer = wordpiece(lower_case=True)
    assert spans(tokenizer, "SHIPS") == [("ship", "SHIP"), ("##s", "S")]
    assert spans(tokenizer, "s\u00adhips") == [("ship", "s\u00adhip"), ("##s", "s")]
    assert spans(tokenizer, "Cafe\u0301s") == [
        ("c", "C"), ("##a", "a"), ("##f", "f"), ("##e", "e\u0301"), ("##s", "s"),
    ]  # fmt: skip
    assert spans(tokenizer, "Éa") == [("e", "É"), ("##a", "a")]
    assert spans(tokenizer, "İs") == [("i", "İ"), ("##s", "s")]
    assert spans(tokenizer, " a中b (ship)") == [
        ("a", "a"), ("[UNK]", "中"), ("b", "b"), ("(", "("), ("ship", "ship"), (")", ")"),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"lower_case": True, "strip_accents": True}])
@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_sentencepiece_gives_the_same_ids_and_characters(
    piece_model: Path, options: dict[str, bool], text: str
) -> None:
    tokenizer = SentencePieceTokenizer(piece_model, **options)
    pieces = tokenizer.encode_aligned(text)
    assert [pieces.ids] == tokenizer.encode_batch([text])
    for start, end in zip(pieces.starts, pieces.ends, strict=True):
        assert 0 <= start < end <= len(text)


def test_a_sentence_piece_leaves_out_the_blanks_before_it(piece_model: Path) -> None:
    tokenizer = SentencePieceTokenizer(piece_model)
    text = "  He was   the ½ Ｒed"
    _, starts, ends = tokenizer.encode_aligned(text)
    covered = {
        place for start, end in zip(starts, ends, strict=True) for place in range(start, end)
    }
    assert covered == {place for place, character in enumerate(text) if character != " "}


def test_numbers_of_words() -> None:
    text = " one two,  three "
    assert word_numbers(text, [0, 1, 3, 4, 5, 8, 9, 11, 15, 16, 17]) == [
        0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2,
    ]  # fmt: skip
