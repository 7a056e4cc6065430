# SPDX-License-Identifier: Apache-2.0
"""SentencePiece behind the same interface as WordPiece, over the C++ library `sentencepiece`."""

import hashlib
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import aligned_text
from data_pipeline.aligned_text import AlignedPieces
from data_pipeline.errors import DataError
from data_pipeline.special_tokens import (
    MAX_TOKENIZER_BYTES,
    SpecialTokens,
    encode_around_masks,
    fingerprint,
    save_settings,
)

WORD_START = "\u2581"  # SentencePiece's sign for the blank before a word


class SentencePieceTokenizer:
    """A trained `.model`; see `data_pipeline.tokenizers.Tokenizer`.

    The model's own pad, unknown, [CLS], [SEP] and [MASK] pieces are used where it has them; missing
    ones get the ids after its last piece.
    """

    kind = "sentencepiece"

    def __init__(self, path: Path, *, lower_case: bool = False, strip_accents: bool = False):
        """Loads a model.

        Args:
            path: the `.model` file.
            lower_case: lower-cases text before the model's own normalisation.
            strip_accents: drops accents before it.

        Raises:
            DataError: no such file, or no SentencePiece model.
        """
        self._model_bytes = _read_model(path)
        self._processor = _load_processor(self._model_bytes, path)
        self.settings = {"lower_case": lower_case, "strip_accents": strip_accents}
        size = self._processor.get_piece_size()
        self.tokens = [self._processor.id_to_piece(number) for number in range(size)]
        self._model_pieces = size
        self.special = SpecialTokens(
            pad=self._special("[PAD]", self._processor.pad_id()),
            unk=self._processor.unk_id(),
            cls=self._special("[CLS]"),
            sep=self._special("[SEP]"),
            mask=self._special("[MASK]"),
        )
        self.vocab_size = len(self.tokens)
        digest = hashlib.sha256(self._model_bytes).hexdigest()
        self.fingerprint = fingerprint(self.kind, self.settings | {"model": digest}, self.tokens)
        specials = {self.special.pad, self.special.cls, self.special.sep, self.special.mask}
        self._reserved = {
            number
            for number in specials
            if number < size and not self._processor.is_control(number)
        }

    def _special(self, name: str, known: int = -1) -> int:
        """Id of a special piece of the model; appends the piece where there is none."""
        if known >= 0:
            return known
        if name in self.tokens:
            return self.tokens.index(name)
        self.tokens.append(name)
        return len(self.tokens) - 1

    def _prepare(self, text: str) -> str:
        if self.settings["lower_case"]:
            text = text.lower()
        if self.settings["strip_accents"]:
            decomposed = unicodedata.normalize("NFD", text)
            text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        return text

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] and [SEP]; "[MASK]" in a text is ordinary text."""
        prepared = [self._prepare(text) for text in texts]
        encoded = self._processor.encode(prepared, out_type=int)
        if self._reserved:
            # A model may define "[MASK]" as a piece that it finds in raw text.
            encoded = [
                [self.special.unk if number in self._reserved else number for number in ids]
                for ids in encoded
            ]
        return encoded

    def encode_aligned(self, text: str) -> AlignedPieces:
        """The ids that `encode_batch` gives, and the characters of `text` behind each.

        A piece stands for one character at least, and never for the blanks before it.
        """
        prepared = aligned_text.align(text)
        if self.settings["lower_case"]:
            prepared = aligned_text.lower(prepared)
        if self.settings["strip_accents"]:
            prepared = aligned_text.drop_marks(aligned_text.decompose(prepared))
        (ids,) = self.encode_batch([text])
        spans = self._processor.encode_as_offset_mapping(prepared.text)["offsets"]
        found = AlignedPieces(ids, [], [])
        for start, end in spans:
            while start < len(prepared.text) - 1 and prepared.text[start].isspace():
                start += 1
            end = max(start + 1, end)
            found.starts.append(prepared.starts[start])
            found.ends.append(max(prepared.ends[start:end]))
        return found

    def encode_with_mask(self, text: str) -> list[int]:
        """Ids of a text in which every "[MASK]" stands for the mask token."""
        return encode_around_masks(self.encode_batch, text, self.special.mask)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the pieces, special tokens by name."""
        special = set(vars(self.special).values())
        words: list[str] = []
        for is_special, group in itertools.groupby(ids, special.__contains__):
            numbers = [int(number) for number in group]
            if is_special:
                words.extend(self.tokens[number] for number in numbers)
            else:
                words.append(self._processor.decode(numbers))
        return " ".join(words)

    def continuation(self) -> np.ndarray:
        """Marks pieces, bool [vocab]: the piece starts without the sign of a blank."""
        special = set(vars(self.special).values())
        return np.array(
            [
                number not in special
                and not token.startswith(WORD_START)
                and not self._processor.is_control(number)
                for number, token in enumerate(self.tokens)
            ]
        )

    def save(self, directory: Path | str) -> None:
        """Writes `sentencepiece.model`, the bytes that were loaded, and the settings."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sentencepiece.model").write_bytes(self._model_bytes)
        save_settings(directory, self.kind, self.settings)


def _read_model(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; expected a SentencePiece .model")
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes: too large for a tokenizer")
    return path.read_bytes()


def _load_processor(model: bytes, path: Path) -> Any:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path} is no SentencePiece model: {error}") from error
    return processor
