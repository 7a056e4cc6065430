# SPDX-License-Identifier: Apache-2.0
"""Parts: the tokenised documents of one unit of the corpus, on their way into a store.

A part is one file, an uncompressed .npz (whose members carry checksums) of blocks of some million
characters, so that it is written and read in bounded memory. What is decided over the whole corpus
(copies, the validation split) is decided from its small arrays; tokens are read once, at the end.
"""

import contextlib
import dataclasses
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.corpora import CorpusOptions, Unit
from data_pipeline.documents import Document, read_piece
from data_pipeline.errors import DiskError
from data_pipeline.files import open_binary, place, written_whole
from data_pipeline.near_copies import BANDS, SLOTS, signatures
from data_pipeline.output import disk_errors
from data_pipeline.random_bits import bits_of
from data_pipeline.store import token_type
from data_pipeline.store_statistics import sentence_hashes
from data_pipeline.tokenizers import Tokenizer

_CHUNK_CHARACTERS = 1 << 22
_OVERHEAD = 32  # characters that would take as much memory as a sentence or document of none


@dataclasses.dataclass(frozen=True)
class Block:
    """Documents in a row; no document and no sentence is empty."""

    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_lengths: np.ndarray  # int32 [sentences], in tokens
    document_lengths: np.ndarray  # int32 [documents], in sentences
    characters: np.ndarray  # int32 [sentences]
    text_hashes: np.ndarray  # uint64 [documents], of the text: choose the split
    token_hashes: np.ndarray  # uint64 [documents], of the token ids: tell copies
    # Empty where the job does not ask for them.
    signatures: np.ndarray  # uint16 [documents, SLOTS], see `near_copies`
    bands: np.ndarray  # uint64 [documents, BANDS]
    sentence_hashes: np.ndarray  # uint64 [sentences], of the token ids


@dataclasses.dataclass
class Counts:
    """What was handled on the way, to be told to the user."""

    empty_documents: int = 0  # left out: no text, or none after cleaning
    cut_documents: int = 0  # so long that they became several
    nul_characters: int = 0  # dropped


@dataclasses.dataclass(frozen=True)
class PartJob:
    """What it takes to make the part of any unit."""

    directory: str  # where parts are kept
    corpus: CorpusOptions
    tokenizer: Tokenizer
    near_copies: bool = False  # will they be looked for?
    repeated_sentences: bool = False

    def __call__(self, unit: Unit) -> None:
        """Makes one part, unless it is there already."""
        path = part_path(place(self.directory), unit.number)
        if path.exists():
            return
        documents = (d for piece in unit.pieces for d in read_piece(piece, self.corpus))
        counts = Counts()
        with (
            disk_errors(path),
            written_whole(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            for number, chunk in enumerate(_chunks(documents)):
                block = self._with_hashes(encode(chunk, self.tokenizer, counts))
                for name, array in vars(block).items():
                    _add(archive, f"{number}/{name}", array)
            _add(archive, "counts", np.array(dataclasses.astuple(counts), np.int64))

    def _with_hashes(self, block: Block) -> Block:
        """Adds what finds copies that are not exact."""
        lengths = block.sentence_lengths
        if self.near_copies and len(block.document_lengths):
            starts = np.cumsum(block.document_lengths) - block.document_lengths
            slots, bands = signatures(block.tokens, np.add.reduceat(lengths, starts))
            block = dataclasses.replace(block, signatures=slots, bands=bands)
        if self.repeated_sentences:
            hashes = sentence_hashes(block.tokens, np.concatenate([[0], np.cumsum(lengths)]))
            block = dataclasses.replace(block, sentence_hashes=hashes)
        return block


def part_path(directory: Path, number: int) -> Path:
    """Where the part of a unit is kept."""
    return directory / f"{number:06d}.npz"


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups of documents with about four million characters, fewer if they are many."""
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += sum(len(sentence) + _OVERHEAD for sentence in document.sentences) + _OVERHEAD
        if characters > _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode(documents: Sequence[Document], tokenizer: Tokenizer, counts: Counts) -> Block:
    """The block of some documents; empty sentences and documents are left out and counted."""
    ids = iter(tokenizer.encode_batch([s for document in documents for s in document.sentences]))
    tokens: list[np.ndarray] = []
    lengths: list[int] = []
    characters: list[int] = []
    rows: list[tuple[int, int, int]] = []
    for document in documents:
        found = [(text, sentence) for text in document.sentences if (sentence := next(ids))]
        text = "\n".join(document.sentences)
        counts.cut_documents += document.cut
        counts.nul_characters += text.count("\0")
        if not found:
            counts.empty_documents += 1
            continue
        sizes = [len(sentence) for _, sentence in found]
        every = itertools.chain.from_iterable(sentence for _, sentence in found)
        array = np.fromiter(every, np.int64, sum(sizes))
        array = array.astype(token_type(tokenizer.vocab_size))
        tokens.append(array)
        lengths += sizes
        characters += [len(sentence) for sentence, _ in found]
        rows.append((len(sizes), bits_of(text.encode()), bits_of(array.tobytes())))
    columns = list(zip(*rows, strict=True)) or [()] * 3
    return Block(
        np.concatenate(tokens or [np.zeros(0, token_type(tokenizer.vocab_size))]),
        np.array(lengths, np.int32),
        np.array(columns[0], np.int32),
        np.array(characters, np.int32),
        np.array(columns[1], np.uint64),
        np.array(columns[2], np.uint64),
        signatures=np.zeros((0, SLOTS), np.uint16),
        bands=np.zeros((0, BANDS), np.uint64),
        sentence_hashes=np.zeros(0, np.uint64),
    )


class Part:
    """A finished part; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DiskError: it is not as it was written.
        """
        self._path = path
        self._file = open_binary(path)
        with self._reading():
            self._arrays: Any = np.load(self._file, allow_pickle=False)
        self.blocks = sum(name.endswith("/tokens") for name in self._arrays.files)

    def array(self, block: int, name: str) -> np.ndarray:
        """One array of one block."""
        return self._array(f"{block}/{name}")

    def block(self, number: int) -> Block:
        """All arrays of one block."""
        names = [field.name for field in dataclasses.fields(Block)]
        return Block(**{name: self.array(number, name) for name in names})

    def column(self, name: str) -> np.ndarray:
        """One array of all blocks, joined."""
        return np.concatenate(
            [np.zeros(0, np.int32 if name.endswith("lengths") else np.uint64)]
            + [self.array(number, name) for number in range(self.blocks)]
        )

    def length(self, name: str) -> int:
        """Length of a column, which is not read for it."""
        return sum(self._shape(f"{number}/{name}")[0] for number in range(self.blocks))

    def counts(self) -> Counts:
        """What was handled on the way."""
        return Counts(*self._array("counts").tolist())

    def _array(self, name: str) -> np.ndarray:
        with self._reading():
            return self._arrays[name]

    def _shape(self, name: str) -> tuple[int, ...]:
        with self._reading(), self._arrays.zip.open(f"{name}.npy") as member:
            np.lib.format.read_magic(member)  # always 1.0: the dtypes are plain
            return np.lib.format.read_array_header_1_0(member)[0]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DiskError(
                f"{self._path}, made earlier in this preparation, is damaged ({error}); remove it "
                "and start again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
