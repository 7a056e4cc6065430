# SPDX-License-Identifier: Apache-2.0
"""Examples without pairs: full sentences, packed one after the other up to the length.

The FULL-SENTENCES format of RoBERTa (arXiv 1907.11692, section 4.2): [CLS] text [SEP], the text as
many whole sentences as fit, in the order of the corpus. Where a document ends, the next one goes on
after one more [SEP]. There is one segment, and no next-sentence label.

A sentence longer than a row is cut into rows; nothing of the corpus is left out or seen twice. The
packing starts anew every SECTION_TOKENS tokens, so that a store of any size is packed in lock-step;
the row before each such place is short. All epochs have the same rows, as in fairseq; the order and
the masks of each epoch are its own.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import NO_LABEL, Batch
from data_pipeline.mapped import release
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Split
from data_pipeline.walk import CHECKPOINT, SECTION_TOKENS, check_ascending, reach

_SECTIONS_TOGETHER = 1024  # bounded memory for any split
_VERSION = 1  # another one packs otherwise, and forgets the starts that were kept


@dataclasses.dataclass(frozen=True)
class Packs:
    """Token ranges [start, stop) that fill a row each; both int64 [batch]."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]


class Packing:
    """The rows of one split at one length."""

    def __init__(self, split: Split, length: int) -> None:
        """Finds the sections.

        Args:
            split: the documents.
            length: tokens of an example, [CLS] and [SEP]s included.
        """
        self._split = split
        self._room = length - 2
        self.name = f"full-sentences-{length}-v{_VERSION}"
        tokens = len(split.tokens)
        cuts = np.searchsorted(split.sentence_offsets, np.arange(0, tokens, SECTION_TOKENS))
        self._sections = np.unique(np.append(split.sentence_offsets[cuts], tokens))

    def pass_starts(self, pass_number: int) -> tuple[NDArray[np.int64], int]:
        """Packs the whole split; every pass is the same.

        Returns:
            the starts of rows 0, CHECKPOINT, 2 * CHECKPOINT, ... as token numbers (int64, or
            uint32 where these suffice), and the number of all rows.
        """
        del pass_number
        check_ascending("documents", self._split.document_offsets)
        small = len(self._split.tokens) <= np.iinfo(np.uint32).max
        kept, rows = [], 0
        for low in range(0, len(self._sections) - 1, _SECTIONS_TOGETHER):
            starts = self._section_starts(self._sections[low : low + _SECTIONS_TOGETHER + 1])
            kept.append(starts[-rows % CHECKPOINT :: CHECKPOINT].astype("u4" if small else "i8"))
            rows += starts.size
            release(self._split.sentence_offsets, self._split.document_offsets)
        return np.concatenate(kept), rows

    def _section_starts(self, sections: NDArray[np.int64]) -> NDArray[np.int64]:
        """Starts of the rows between the tokens `sections`, ascending; packed in lock-step."""
        sentences = np.searchsorted(self._split.sentence_offsets, sections[[0, -1]])
        check_ascending("sentences", self._split.sentence_offsets[sentences[0] : sentences[1] + 1])
        start, section_stop, found = sections[:-1], sections[1:], []
        while start.size:
            found.append(start)
            sentence = np.searchsorted(self._split.sentence_offsets, start, side="right") - 1
            start = self._stops(start, sentence, section_stop)
            packing = start < section_stop
            start, section_stop = start[packing], section_stop[packing]
        return np.sort(np.concatenate(found))

    def find(
        self, passes: NDArray[np.int64], start: NDArray[np.int64], skip: NDArray[np.int64]
    ) -> Packs:
        """The rows `skip` (int64 [batch], in [0, CHECKPOINT)) after those at the tokens `start`."""
        del passes
        start = start.astype(np.int64)
        sentence = np.searchsorted(self._split.sentence_offsets, start, side="right") - 1
        section_stop = self._section_stop(start)
        for step in range(int(skip.max())):
            on = np.flatnonzero(step < skip)
            start[on] = self._stops(start[on], sentence[on], section_stop[on])
            sentence[on] = self._sentence_at(start[on], sentence[on])
            over = on[start[on] == section_stop[on]]
            section_stop[over] = self._section_stop(start[over])
        return Packs(start, self._stops(start, sentence, section_stop))

    def _sentence_at(self, tokens: NDArray[np.int64], near: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last sentence that starts at each token or before, searched from `near` on."""
        offsets = self._split.sentence_offsets
        end = np.full_like(near, len(offsets))
        return reach(offsets, near, end, tokens + 1 - offsets[near]) - 1

    def _section_stop(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._sections[np.searchsorted(self._sections, tokens, side="right")]

    def _stops(
        self,
        start: NDArray[np.int64],
        sentence: NDArray[np.int64],
        section_stop: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """The token after each row that begins with the token `start`, in that sentence."""
        sentence_offsets, document_offsets = (
            self._split.sentence_offsets,
            self._split.document_offsets,
        )
        document = np.searchsorted(document_offsets, sentence, side="right")
        # Where not even one sentence fits, as much of it as fits.
        stop = np.minimum(start + self._room, sentence_offsets[sentence + 1])
        reached, last = start.copy(), start + self._room
        rows = np.arange(start.size)
        while rows.size:
            # `last` falls by one for the [SEP] of each document that ends in the row.
            end = self._sentence_at(last[rows], sentence[rows])
            end_of_document = document_offsets[document[rows]]
            token = np.minimum(
                sentence_offsets[np.minimum(end, end_of_document)], section_stop[rows]
            )
            on = token > reached[rows]
            stop[rows[on]] = reached[rows[on]] = token[on]
            document[rows] += 1
            last[rows] -= 1
            rows = rows[
                on & (end >= end_of_document) & (token < section_stop[rows]) & (token < last[rows])
            ]
        return stop


def assemble_packs(
    split: Split,
    packs: Packs,
    tokens: np.ndarray,
    places: NDArray[np.int64],
    special: SpecialTokens,
    length: int,
) -> Batch:
    """Gathers the tokens of the packs into rows, before masking.

    Args:
        split: the documents.
        packs: one for each row.
        tokens: of the split, or a copy of some.
        places: int64 [batch], where each pack starts in `tokens`.
        special: ids of the special tokens.
        length: tokens of a row.

    Returns:
        the features of `BatchSpec` that do not concern masking.
    """
    rows = np.arange(packs.start.size)
    sentences = np.searchsorted(
        split.sentence_offsets, np.stack([packs.start, packs.stop - 1]), side="right"
    )
    first, last = np.searchsorted(split.document_offsets, sentences - 1, side="right")
    ends = last - first  # of documents within the row
    row = np.repeat(rows, ends)
    number = np.arange(row.size) - np.repeat(np.cumsum(ends) - ends, ends)
    boundary = split.sentence_offsets[split.document_offsets[first[row] + number]]
    is_separator = np.zeros((rows.size, length), np.bool_)
    is_separator[row, 1 + boundary - packs.start[row] + number] = True
    last_separator = 1 + packs.stop - packs.start + ends
    position = np.arange(length)
    before = np.cumsum(is_separator, axis=1, dtype=np.int64)
    # Positions of special tokens and padding read a neighbour, or past the end, and are set below.
    source = (places - 1)[:, None] + position - before
    input_ids = np.take(tokens, source, mode="clip").astype(np.int32)
    is_token = position <= last_separator[:, None]
    np.copyto(input_ids, special.sep, where=is_separator)
    np.copyto(input_ids, special.pad, where=~is_token)
    input_ids[:, 0] = special.cls
    input_ids[rows, last_separator] = special.sep
    return {
        "input_ids": input_ids,
        "input_mask": is_token.astype(np.int32),
        "segment_ids": np.zeros_like(input_ids),
        "next_sentence_label": np.full(rows.size, NO_LABEL, np.int32),
    }
