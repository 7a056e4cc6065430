# SPDX-License-Identifier: Apache-2.0
"""How documents are cut into chunks, one chunk an example: the walk of the original.

`create_instances_from_document` of google-research/bert (`create_pretraining_data.py`) walks
through a document: it packs sentences into a chunk until the target length is reached or the
document ends, takes a random number of them as A, and either lets the rest be B (a true next pair)
or puts the rest back, to be walked again, and looks for B elsewhere (a random pair). The original
does so `dupe_factor` = 10 times and shuffles what comes out. So there are PASSES walks here, and
pass r of any corpus is the same for every run; partner, truncation and masks differ in each epoch.

With `swaps` the pairs are ALBERT's (its own `create_pretraining_data.py`): the coin lets A and B
change places instead of sending B away, so nothing is put back; a chunk of one sentence has no B of
its own and still gets a random one, as there.

A walk's draws are named by the sentence where a chunk starts, so a chunk can be made again from
that number alone. `pass_starts` walks the whole corpus once, many documents in lock-step, and keeps
every CHECKPOINT-th start: from there any other chunk is a few steps away.

Differs from the original in one thing: a document of more than SECTION_TOKENS tokens is walked in
sections, as if it were several documents, so that one endless document does not make one endless
sequential walk (its target length is therefore drawn anew in each section, and one chunk a section
ends early).
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.mapped import release
from data_pipeline.random_bits import Purpose, bits, uniform, uniform_integers
from data_pipeline.store import Split

PASSES = 10
CHECKPOINT = 8
SECTION_TOKENS = 1 << 17
_BLOCK_SENTENCES = 1 << 20
_VERSION = 1  # of the walk; another one makes other chunks, and forgets the starts that were kept
SECTIONS = "sections-v1"  # the name under which `section_offsets` are kept


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Chunks of sentences; all fields have the shape [chunks].

    Attributes:
        first: int64, the sentence where A starts.
        a_stop: int64, the sentence after A.
        stop: int64, the sentence after the chunk: B is [a_stop, stop) unless the pair is random.
        is_random: bool, B comes from elsewhere and [a_stop, stop) is walked again.
        is_swapped: bool, A and B change places.
        target: int64, the length in tokens that the chunk was to have.
    """

    first: NDArray[np.int64]
    a_stop: NDArray[np.int64]
    stop: NDArray[np.int64]
    is_random: NDArray[np.bool_]
    is_swapped: NDArray[np.bool_]
    target: NDArray[np.int64]

    @property
    def following(self) -> NDArray[np.int64]:
        """The sentence where the walk goes on."""
        return np.where(self.is_random, self.a_stop, self.stop)


@dataclasses.dataclass(frozen=True)
class Walk:
    """The walks over one split at one length; their draws depend on nothing else.

    Attributes:
        sentence_offsets: int64 [sentences + 1], the token where each sentence starts.
        section_offsets: int64 [sections + 1], the sentence where each section starts.
        length: tokens of an example, [CLS] and two [SEP] included.
        short_probability: how often a section's target length is drawn below the longest.
        swaps: whether A and B change places by chance, instead of B coming from elsewhere.
        base: number of the sentence that `sentence_offsets` begins with, if these are a copy of a
            part that fits the cache; None if they are all, perhaps in a mapped file.
    """

    sentence_offsets: NDArray[np.int64]
    section_offsets: NDArray[np.int64]
    length: int
    short_probability: float
    swaps: bool = False
    base: int | None = None

    @property
    def name(self) -> str:
        """Names what the starts of chunks depend on beside the split, as part of a file name."""
        order = "sentence-order" if self.swaps else "next-sentence"
        return f"{order}-{self.length}-short-{self.short_probability!r}-v{_VERSION}"

    def targets(
        self, passes: int | NDArray[np.int64], sections: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Target length in tokens of each section: the longest, or sometimes from 2 to that."""
        longest = self.length - 3
        first = self.section_offsets[sections]
        short = uniform(passes, Purpose.SHORT, first) < self.short_probability
        drawn = 2 + uniform_integers(longest - 1, passes, Purpose.TARGET, first)
        return np.where(short, drawn, longest)

    def chunks(
        self,
        passes: int | NDArray[np.int64],
        first: NDArray[np.int64],
        section_stop: NDArray[np.int64],
        target: NDArray[np.int64],
    ) -> Chunks:
        """The chunks that start at the sentences `first`, each in a section ending as given."""
        # Offsets are the cumulative token counts: the chunk ends with the sentence that reaches
        # the target, or with the section.
        if self.base is None:
            stop = reach(self.sentence_offsets, first, section_stop, target)
        else:
            wanted = self.sentence_offsets[first - self.base] + target
            reached = np.searchsorted(self.sentence_offsets, wanted) + self.base
            stop = np.minimum(reached, section_stop)
        sentences = stop - first
        drawn = bits(passes, Purpose.CHUNK, first)
        # The top bit is the coin, the 32 bits below choose where A ends.
        coin = (drawn >> np.uint64(63)).astype(np.bool_)
        choice = ((drawn >> np.uint64(31)) & np.uint64(0xFFFFFFFF)).astype(np.int64)
        a_sentences = 1 + ((choice * np.maximum(sentences - 1, 0)) >> 32)
        single = sentences == 1
        is_random = single if self.swaps else coin | single
        is_swapped = (coin & ~single) if self.swaps else np.zeros_like(coin)
        return Chunks(first, first + a_sentences, stop, is_random, is_swapped, target)

    def find(
        self, passes: NDArray[np.int64], first: NDArray[np.int64], skip: NDArray[np.int64]
    ) -> Chunks:
        """Walks on from the chunks that start at the sentences `first`, by `skip` chunks each.

        Args:
            passes: int64 [batch], the pass of each chunk.
            first: int64 [batch].
            skip: int64 [batch], in [0, CHECKPOINT).
        """
        first = first.copy()
        section = np.searchsorted(self.section_offsets, first, side="right") - 1
        stop, target = self.section_offsets[section + 1], self.targets(passes, section)
        for step in range(int(skip.max())):
            on = np.flatnonzero(step < skip)
            first[on] = self.chunks(passes[on], first[on], stop[on], target[on]).following
            over = on[first[on] == stop[on]]
            section[over] += 1
            stop[over] = self.section_offsets[section[over] + 1]
            target[over] = self.targets(passes[over], section[over])
        return self.chunks(passes, first, stop, target)

    def pass_starts(self, pass_number: int) -> tuple[NDArray[np.int64], int]:
        """Walks the whole split once.

        Returns:
            the starts of chunks 0, CHECKPOINT, 2 * CHECKPOINT, ... as sentence numbers (int64, or
            uint32 where these suffice), and the number of all chunks.
        """
        small = self.section_offsets[-1] <= np.iinfo(np.uint32).max
        kept, chunks = [], 0
        for low, high in self._blocks():
            starts = self._block_starts(pass_number, low, high)
            kept.append(starts[-chunks % CHECKPOINT :: CHECKPOINT].astype("u4" if small else "i8"))
            chunks += starts.size
            release(self.sentence_offsets)
        return np.concatenate(kept), chunks

    def _blocks(self) -> list[tuple[int, int]]:
        """Ranges of sections of about _BLOCK_SENTENCES sentences: bounded memory for any split."""
        sections = len(self.section_offsets) - 1
        wanted = np.arange(0, int(self.section_offsets[-1]), _BLOCK_SENTENCES)
        bounds = np.unique(np.append(np.searchsorted(self.section_offsets, wanted), sections))
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def _block_starts(self, pass_number: int, low: int, high: int) -> NDArray[np.int64]:
        """Starts of the chunks of the sections [low, high), ascending; walked in lock-step."""
        offsets = np.asarray(self.section_offsets[low : high + 1])
        base = int(offsets[0])
        # A copy of the block's part: the search for a chunk's end stays in the cache.
        sentences = np.array(self.sentence_offsets[base : int(offsets[-1]) + 1])
        check_ascending("sentences", sentences)
        block = dataclasses.replace(self, sentence_offsets=sentences, base=base)
        is_start = np.zeros(int(offsets[-1]) - base, np.bool_)
        target = self.targets(pass_number, np.arange(low, high))
        first, section_stop = offsets[:-1], offsets[1:]
        while first.size:
            is_start[first - base] = True
            first = block.chunks(pass_number, first, section_stop, target).following
            walking = first < section_stop
            first, section_stop, target = first[walking], section_stop[walking], target[walking]
        return np.flatnonzero(is_start) + base


def reach(
    sentence_offsets: NDArray[np.int64],
    first: NDArray[np.int64],
    end: NDArray[np.int64],
    tokens: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The sentence with whose start so many tokens from `first` on are reached, or `end`.

    A search close by: one through all offsets would touch pages all over a mapped file.

    Args:
        sentence_offsets: int64 [sentences + 1].
        first: int64 [batch], before `end`.
        end: int64 [batch].
        tokens: int64 [batch], from 1.
    """
    wanted = sentence_offsets[first] + tokens
    low, high = first + 1, np.minimum(first + tokens, end)  # no sentence is empty
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        reached = np.take(sentence_offsets, middle, mode="clip") >= wanted
        high = np.where(reached, middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return high


def check_ascending(what: str, offsets: NDArray[np.int64]) -> None:
    """Refuses offsets, of "sentences" or "documents", with which a walk might never end.

    Raises:
        DataError: an offset is not larger than the one before.
    """
    if np.any(offsets[1:] <= offsets[:-1]):
        raise DataError(
            f"the {what} do not start one after the other: the offsets of the store are damaged; "
            "copy it again or prepare it again"
        )


def section_offsets(split: Split) -> NDArray[np.int64]:
    """Sentences where sections start: all documents, and cuts at sentence ends in very long ones.

    Returns:
        int64 [sections + 1], ending with the number of sentences.

    Raises:
        DataError: the offsets of the documents are damaged.
    """
    documents = np.asarray(split.document_offsets)
    check_ascending("documents", documents)
    tokens = np.asarray(split.sentence_offsets[documents])
    pieces = -(-np.diff(tokens) // SECTION_TOKENS)
    long = np.flatnonzero(pieces > 1)
    if not long.size:
        return documents
    cuts = [
        np.searchsorted(
            split.sentence_offsets,
            np.linspace(tokens[document], tokens[document + 1], pieces[document] + 1)[1:-1],
        )
        for document in long.tolist()
    ]
    return np.unique(np.concatenate([documents, *cuts]))
