# SPDX-License-Identifier: Apache-2.0
"""Parts into the arrays of a store: which documents stay, on which side, and one copy of them.

Everything here is one pass, or a few, over the parts in the order of the corpus, block by block, so
that the store does not depend on who made which part and when.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.parts import Block, Counts, Part
from data_pipeline.store import StoreWriter

HASHES = 1 << 64
_HASHES_AT_ONCE = 1 << 24  # sorting them takes about 600 MB


@dataclasses.dataclass(frozen=True)
class Drops:
    """What to leave out of each part, besides what is left out already."""

    documents: Sequence[np.ndarray]  # for each part, bool [documents]
    sentences: Callable[[int], np.ndarray] | None = None  # part -> bool [sentences]


def find_copies(paths: Sequence[Path]) -> list[np.ndarray]:
    """Marks exact copies: documents whose token ids have all occurred as a document before.

    Hashes of 64 bits stand for the token ids: among a billion different documents a few hundredths
    of one are expected to be taken for a copy. Memory is one byte a document and a fixed amount,
    because only one range of hashes is sorted at a time.

    Returns:
        For each part, bool [documents]; the first in the order of the corpus is not marked.
    """
    sizes = [len(_column(path, "token_hashes")) for path in paths]
    starts = np.cumsum([0, *sizes])
    copies = np.zeros(starts[-1], np.bool_)
    ranges = -(-int(starts[-1]) // _HASHES_AT_ONCE)
    for number in range(ranges):
        low, high = (HASHES * n // ranges for n in (number, number + 1))
        hashes, places = [], []
        for path, start in zip(paths, starts, strict=False):
            found = _column(path, "token_hashes")
            chosen = np.flatnonzero((found >= np.uint64(low)) & (found <= np.uint64(high - 1)))
            hashes.append(found[chosen])
            places.append(start + chosen)
        joined, where = np.concatenate(hashes), np.concatenate(places)
        order = np.argsort(joined, kind="stable")  # equal hashes stay in the order of the corpus
        joined = joined[order]
        copies[where[order[1:]][joined[1:] == joined[:-1]]] = True
    return np.split(copies, starts[1:-1]) if paths else []


def no_drops(paths: Sequence[Path]) -> list[np.ndarray]:
    """Marks no document."""
    return [np.zeros(len(_column(path, "token_hashes")), np.bool_) for path in paths]


def _column(path: Path, name: str) -> np.ndarray:
    with Part(path) as part:
        return part.column(name)


def hash_range(paths: Sequence[Path], drops: Drops) -> tuple[int, int]:
    """Smallest and largest text hash of the documents that stay; (HASHES, -1) if none does."""
    smallest, largest = HASHES, -1
    for path, dropped in zip(paths, drops.documents, strict=True):
        hashes = _column(path, "text_hashes")[~dropped]
        if len(hashes):
            smallest = min(smallest, int(hashes.min()))
            largest = max(largest, int(hashes.max()))
    return smallest, largest


@dataclasses.dataclass
class Totals(Counts):
    """What went into the store, and what did not."""

    characters: int = 0
    unknown_tokens: int = 0
    dropped_documents: int = 0


def write_arrays(
    paths: Sequence[Path], writer: StoreWriter, limit: int, drops: Drops, unknown: int
) -> Totals:
    """Adds the documents of all parts that stay.

    Args:
        paths: the parts, in order.
        writer: of the store.
        limit: documents whose text hash is below it are held out.
        drops: what does not stay. A document that loses all its sentences is gone.
        unknown: the id of the unknown token, to count it.
    """
    totals = Totals()
    for number, (path, dropped) in enumerate(zip(paths, drops.documents, strict=True)):
        with Part(path) as part:
            for name, value in vars(part.counts()).items():
                setattr(totals, name, getattr(totals, name) + value)
            sentences_dropped = drops.sentences(number) if drops.sentences else None
            document = sentence = 0
            for block_number in range(part.blocks):
                block = part.block(block_number)
                documents = ~dropped[document : document + len(block.document_lengths)]
                sentences = np.repeat(documents, block.document_lengths)
                if sentences_dropped is not None:
                    end = sentence + len(sentences)
                    sentences = sentences & ~sentences_dropped[sentence:end]
                document += len(documents)
                sentence += len(sentences)
                _add_block(writer, block, sentences, limit, unknown, totals)
    return totals


def _add_block(
    writer: StoreWriter,
    block: Block,
    stay: np.ndarray,
    limit: int,
    unknown: int,
    totals: Totals,
) -> None:
    """Adds the sentences of a block that `stay` (bool [sentences])."""
    owner = np.repeat(np.arange(len(block.document_lengths)), block.document_lengths)
    left = np.bincount(owner[stay], minlength=len(block.document_lengths))
    held_out = block.text_hashes < np.uint64(limit)
    for split, side in (("train", ~held_out), ("validation", held_out)):
        documents = side & (left > 0)
        sentences = stay & side[owner]
        tokens = block.tokens[np.repeat(sentences, block.sentence_lengths)]
        writer.add_documents(split, tokens, block.sentence_lengths[sentences], left[documents])
        totals.unknown_tokens += int(np.count_nonzero(tokens == unknown))
    totals.characters += int(block.characters[left > 0].sum())
    totals.dropped_documents += int(np.count_nonzero(left == 0))
