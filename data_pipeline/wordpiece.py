# SPDX-License-Identifier: Apache-2.0
"""WordPiece, token for token as `tokenization.py` of google-research/bert.

Text is cleaned and cut into words here, with the `unicodedata` of the running Python as in the
original; the greedy longest-match-first search in a word is the Rust `WordPiece` model of Hugging
Face `tokenizers`. Its ready-made `BertNormalizer` is not used because it differs from the original:
it drops private-use characters, knows no punctuation and no marks newer than Unicode 8, and does
not lower-case a word-final Greek sigma to its final form. Remembering the pieces of each word makes
this way also several times faster than the Rust pipeline.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline import aligned_text
from data_pipeline.aligned_text import AlignedPieces, AlignedText
from data_pipeline.errors import DataError
from data_pipeline.special_tokens import (
    MAX_TOKENIZER_BYTES,
    SPECIAL_NAMES,
    SpecialTokens,
    encode_around_masks,
    fingerprint,
    save_settings,
)

MAX_WORD_CHARACTERS = 200  # longer words are [UNK]; Hugging Face's own default is 100
_REMEMBERED_WORDS = 1 << 19  # bounds the memory of the word table to some 150 MB
_CHINESE_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_punctuation(character: str) -> bool:
    """Every ASCII sign that is no letter or digit, and the Unicode categories P*."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


class _CleanTable(dict[int, str | None]):
    """For `str.translate`: what becomes of a code point, worked out when it is first met.

    Control characters are dropped, all white space is made a blank, and Chinese characters get
    blanks around them.
    """

    def __init__(self, chinese_characters: bool) -> None:
        self._chinese_characters = chinese_characters

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            value: str | None = " "
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
            value = None
        elif self._chinese_characters and any(a <= code <= b for a, b in _CHINESE_RANGES):
            value = f" {character} "
        else:
            value = character
        self[code] = value
        return value


class _SplitTable(dict[int, str | None]):
    """For `str.translate`: puts blanks around punctuation and drops accents where asked to."""

    def __init__(self, strip_accents: bool) -> None:
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        if self._strip_accents and unicodedata.category(character) == "Mn":
            value: str | None = None
        elif is_punctuation(character):
            value = f" {character} "
        else:
            value = character
        self[code] = value
        return value


class BasicTokenizer:
    """Cuts text into words and signs: `BasicTokenizer` of the original.

    The original lower-cases and splits word by word; doing it on the whole text is the same because
    white space ends a word for Python's `lower` (final sigma) and for NFD alike.
    """

    def __init__(self, lower_case: bool, strip_accents: bool, chinese_characters: bool) -> None:
        self._lower_case = lower_case
        self._strip_accents = strip_accents
        self._clean = _CleanTable(chinese_characters)
        self._split = _SplitTable(strip_accents)

    def __call__(self, text: str) -> list[str]:
        """The words of `text`, in order."""
        text = text.translate(self._clean)
        if self._lower_case:
            text = text.lower()
        if self._strip_accents and not text.isascii():
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._split).split()

    def aligned(self, text: str) -> Iterator[AlignedText]:
        """The same words, each knowing where in `text` its characters come from."""
        aligned = aligned_text.translate(aligned_text.align(text), self._clean)
        if self._lower_case:
            aligned = aligned_text.lower(aligned)
        if self._strip_accents and not aligned.text.isascii():
            aligned = aligned_text.decompose(aligned)
        return aligned_text.words(aligned_text.translate(aligned, self._split))


class _WordTable(dict[str, tuple[int, ...]]):
    """Word -> ids of its pieces; the Rust model is asked once for each distinct word."""

    def __init__(self, tokens: Sequence[str]) -> None:
        from tokenizers import models

        ids = {token: number for number, token in enumerate(tokens)}
        self._unknown = ids["[UNK]"]
        self._model = models.WordPiece(
            ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS
        )

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(word) > MAX_WORD_CHARACTERS:
            return (self._unknown,)  # not remembered: encoded binaries come as endless words
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        try:
            pieces = tuple(piece.id for piece in self._model.tokenize(word))
        except UnicodeEncodeError:  # half a surrogate pair, which has no UTF-8 for Rust to read
            pieces = (self._unknown,)
        self[word] = pieces
        return pieces


class WordPieceTokenizer:
    """WordPiece over an ordered vocabulary; see `data_pipeline.tokenizers.Tokenizer`."""

    kind = "wordpiece"

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lower_case: bool,
        strip_accents: bool | None = None,
        chinese_characters: bool = True,
    ) -> None:
        """Makes a tokenizer.

        Args:
            tokens: the vocabulary, index = id, continuing pieces marked ##.
            lower_case: lower-cases text first.
            strip_accents: drops accents; None does what `lower_case` says, as the original.
            chinese_characters: makes every Chinese character a word of its own.

        Raises:
            DataError: special tokens are missing.
        """
        self.tokens = list(tokens)
        self.vocab_size = len(self.tokens)
        self.special = _find_special_tokens(self.tokens, "the vocabulary")
        strip_accents = lower_case if strip_accents is None else strip_accents
        self.settings = {
            "lower_case": lower_case,
            "strip_accents": strip_accents,
            "chinese_characters": chinese_characters,
        }
        self.fingerprint = fingerprint(self.kind, self.settings, self.tokens)
        self.words = BasicTokenizer(lower_case, strip_accents, chinese_characters)
        self._pieces: _WordTable | None = None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] and [SEP]; "[MASK]" in a text is ordinary text."""
        if self._pieces is None:
            self._pieces = _WordTable(self.tokens)
        pieces, words = self._pieces, self.words
        return [[piece for word in words(text) for piece in pieces[word]] for text in texts]

    def encode_aligned(self, text: str) -> AlignedPieces:
        """The ids that `encode_batch` gives, and the characters of `text` behind each."""
        if self._pieces is None:
            self._pieces = _WordTable(self.tokens)
        found = AlignedPieces([], [], [])
        for word in self.words.aligned(text):
            place = 0
            for piece in self._pieces[word.text]:
                if piece == self.special.unk:
                    last = len(word.text)
                else:
                    last = place + len(self.tokens[piece]) - 2 * (place > 0)  # without ##
                found.ids.append(piece)
                found.starts.append(min(word.starts[place:last]))
                found.ends.append(max(word.ends[place:last]))
                place = last
        return found

    def encode_with_mask(self, text: str) -> list[int]:
        """Ids of a text in which every "[MASK]" stands for the mask token."""
        return encode_around_masks(self.encode_batch, text, self.special.mask)

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens with blanks between words."""
        return " ".join(self.tokens[number] for number in ids).replace(" ##", "")

    def continuation(self) -> np.ndarray:
        """Marks pieces, bool [vocab]: the piece continues a word."""
        return np.array([token.startswith("##") for token in self.tokens])

    def save(self, directory: Path | str) -> None:
        """Writes `vocab.txt`, one token a line in the order of ids, and the settings."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = "".join(token + "\n" for token in self.tokens)
        (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
        save_settings(directory, self.kind, self.settings)


def _find_special_tokens(tokens: Sequence[str], where: str) -> SpecialTokens:
    ids = {token: number for number, token in enumerate(tokens)}
    missing = [name for name in SPECIAL_NAMES if name not in ids]
    if missing:
        raise DataError(
            f"{where} lacks {', '.join(missing)}; a WordPiece vocabulary needs "
            f"{', '.join(SPECIAL_NAMES)} (make one with python -m data_pipeline.vocab)"
        )
    return SpecialTokens(*(ids[name] for name in SPECIAL_NAMES))


def read_vocabulary(path: Path) -> list[str]:
    """Reads a `vocab.txt`: one token a line, line number = id. BOM and CRLF are accepted.

    One empty line is allowed and takes an id: the published Chinese vocabulary has one. Blank lines
    at the end of the file are left out.

    Raises:
        DataError: no regular file, too large, empty, not UTF-8, a token twice or containing NUL,
            special tokens missing; with the line.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; expected a vocabulary, one token a line")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes: too large for a vocabulary")
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").rstrip().split(b"\n")
    tokens: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            token = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
        if "\0" in token:
            raise DataError(f"{path}, line {number}: the token holds a NUL character")
        if token in first_line:
            raise DataError(
                f"{path}: token {token!r} stands on line {first_line[token]} and again on line "
                f"{number}; every token may occur once"
            )
        first_line[token] = number
        tokens.append(token)
    if tokens == [""]:
        raise DataError(f"{path} is empty; expected a vocabulary, one token a line")
    _find_special_tokens(tokens, str(path))
    return tokens
