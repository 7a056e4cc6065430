# SPDX-License-Identifier: Apache-2.0
"""Finds what a corpus holds more than once: documents, nearly equal ones, and sentences.

Text that comes back often is learnt by heart: the loss falls, and stays high where the text is new.
All three searches go over the hashes in the parts (`data_pipeline.parts`), in bounded memory
(`data_pipeline.equal_hashes`), and mark all occurrences but the first in the order of the corpus.
Hashes of 64 bits stand for the text: among a billion different documents a few hundredths of one
are expected to be taken for a copy.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.equal_hashes import group_starts, sorted_hashes
from data_pipeline.near_copies import mark_alike
from data_pipeline.parts import Part

# "Yes." is no boilerplate, however often it is said.
SHORTEST_SENTENCE = 8  # tokens

DUPLICATES = ("keep", "exact", "near")

Marks = list[NDArray[np.bool_]]  # for each part, bool [documents]


@dataclasses.dataclass(frozen=True)
class Drops:
    """What to leave out of each part, besides what is left out already."""

    documents: Marks
    sentences: Callable[[int], NDArray[np.bool_]] | None = None  # part -> bool [sentences]


def find_drops(
    paths: Sequence[Path], duplicates: str, repeated_sentences: int, scratch: Path
) -> Drops:
    """What the options of `data_pipeline.prepare` leave out.

    Args:
        paths: the parts, in the order of the corpus.
        duplicates: one of DUPLICATES.
        repeated_sentences: as `more_than` of `find_repeated_sentences`; 0 keeps all.
        scratch: a place for files that are needed as long as the result is.
    """
    find = {"keep": no_documents, "exact": find_copies, "near": find_near_copies}[duplicates]
    documents = find(paths, scratch)
    if not repeated_sentences:
        return Drops(documents)
    return Drops(documents, find_repeated_sentences(paths, documents, repeated_sentences, scratch))


def no_documents(paths: Sequence[Path], scratch: Path) -> Marks:
    """Marks no document."""
    del scratch
    return [np.zeros(count, np.bool_) for count in _documents(paths)]


def find_copies(paths: Sequence[Path], scratch: Path) -> Marks:
    """Marks exact copies: documents whose token ids have all occurred as a document before.

    Args:
        paths: the parts, in the order of the corpus.
        scratch: a place for temporary files.
    """
    bounds = np.cumsum([0, *_documents(paths)])
    marks = np.zeros(bounds[-1], np.bool_)

    def columns() -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        for path, start in zip(paths, bounds, strict=False):
            with Part(path) as part:
                hashes = part.column("token_hashes")
            yield hashes, np.arange(start, start + len(hashes))

    for hashes, places in sorted_hashes(columns(), len(marks), scratch / "copies"):
        marks[places[1:][hashes[1:] == hashes[:-1]]] = True
    return _split(marks, bounds)


def find_near_copies(paths: Sequence[Path], scratch: Path) -> Marks:
    """Marks documents that are nearly equal to an earlier one (`data_pipeline.near_copies`).

    Args:
        paths: the parts, in the order of the corpus, made with signatures.
        scratch: a place for temporary files.
    """
    bounds = np.cumsum([0, *_documents(paths)])

    def columns() -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint64]]]:
        for path in paths:
            with Part(path) as part:
                for block in range(part.blocks):
                    yield part.array(block, "signatures"), part.array(block, "bands")

    return _split(mark_alike(columns(), int(bounds[-1]), scratch), bounds)


def find_repeated_sentences(
    paths: Sequence[Path], dropped: Marks, more_than: int, scratch: Path
) -> Callable[[int], NDArray[np.bool_]]:
    """Marks sentences of at least eight tokens that occur more often, all but the first time.

    Args:
        paths: the parts, in the order of the corpus, made with hashes of sentences.
        dropped: documents that do not count.
        more_than: a sentence that occurs so often, or less, is not marked.
        scratch: a place for temporary files; the marks stay there.

    Returns:
        From the number of a part to bool [sentences].
    """
    bounds = np.cumsum([0, *_lengths(paths, "sentence_lengths")])
    marks: NDArray[np.bool_] = np.zeros(0, np.bool_)
    if bounds[-1]:
        # Written before it is mapped: a full disk is an error now, and a signal later.
        np.zeros(bounds[-1], np.bool_).tofile(scratch / "repeated")
        marks = np.memmap(scratch / "repeated", np.bool_, "r+")

    def columns() -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        for path, start, gone in zip(paths, bounds, dropped, strict=False):
            with Part(path) as part:
                stay = np.repeat(~gone, part.column("document_lengths"))
                stay &= part.column("sentence_lengths") >= SHORTEST_SENTENCE
                chosen = np.flatnonzero(stay)
                yield part.column("sentence_hashes")[chosen], start + chosen

    for hashes, places in sorted_hashes(columns(), int(bounds[-1]), scratch / "sentences"):
        first = group_starts(hashes)
        often = np.bincount(first, minlength=len(first))[first] > more_than
        marks[places[often & (first != np.arange(len(first)))]] = True
    return lambda number: np.asarray(marks[bounds[number] : bounds[number + 1]])


def _documents(paths: Sequence[Path]) -> list[int]:
    return _lengths(paths, "token_hashes")


def _lengths(paths: Sequence[Path], name: str) -> list[int]:
    """How much each part holds of a column."""
    lengths = []
    for path in paths:
        with Part(path) as part:
            lengths.append(part.length(name))
    return lengths


def _split(marks: NDArray[np.bool_], bounds: NDArray[np.int64]) -> Marks:
    return np.split(marks, bounds[1:-1]) if len(bounds) > 1 else []
