# SPDX-License-Identifier: Apache-2.0
"""Parts into the arrays of a store: which documents stay, on which side, and one copy of them.

Everything here is one pass, or a few, over the parts in the order of the corpus, block by block, so
that the store does not depend on who made which part and when.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.copies import Drops
from data_pipeline.errors import DataError
from data_pipeline.parts import Block, Counts, Part
from data_pipeline.store_writer import StoreWriter

HASHES = 1 << 64


def hash_range(paths: Sequence[Path], drops: Drops) -> tuple[int, int]:
    """Smallest and largest text hash of the documents that stay; (HASHES, -1) if none does.

    A document that loses all its sentences does not stay.
    """
    smallest, largest = HASHES, -1
    for number, (path, dropped) in enumerate(zip(paths, drops.documents, strict=True)):
        stay = ~dropped
        with Part(path) as part:
            hashes = part.column("text_hashes")
            if drops.sentences and len(stay):
                lengths = part.column("document_lengths")
                starts = np.cumsum(lengths) - lengths
                stay &= ~np.logical_and.reduceat(drops.sentences(number), starts)
        hashes = hashes[stay]
        if len(hashes):
            smallest = min(smallest, int(hashes.min()))
            largest = max(largest, int(hashes.max()))
    return smallest, largest


def held_out_limit(paths: Sequence[Path], drops: Drops, fraction: float) -> int:
    """The text hash below which documents are held out, so that there are some on each side.

    Raises:
        DataError: there are not two documents.
    """
    smallest, largest = hash_range(paths, drops)
    if largest < 0:
        raise DataError("there is no text in the input")
    if smallest == largest:
        raise DataError(
            "the input holds one document only, and one has to be held out: give more text, or "
            "separate documents by empty lines (--format=lines) or files (--format=prose)"
        )
    limit = round(fraction * HASHES)
    # A small corpus may fall on one side: then the border goes past its nearest document.
    return limit if smallest < limit <= largest else min(max(limit, smallest + 1), largest)


@dataclasses.dataclass
class Totals(Counts):
    """What went into the store, and what did not."""

    characters: int = 0
    unknown_tokens: int = 0
    dropped_documents: int = 0
    dropped_sentences: int = 0  # of documents that stay, or would have stayed


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
                    marks = sentences_dropped[sentence : sentence + len(sentences)]
                    totals.dropped_sentences += int(np.count_nonzero(sentences & marks))
                    sentences = sentences & ~marks
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
    totals.characters += int(block.characters[stay].sum())
    totals.dropped_documents += int(np.count_nonzero(left == 0))
