# SPDX-License-Identifier: Apache-2.0
"""Batches of pre-training examples: each a pure function of (seed, place in the stream).

    stream = ExampleStream(split, special, vocab_size, length=128, seed=0, options=ExampleOptions())
    for batch in batches(stream, batch_size=256, rows=np.arange(64, 128), first_step=900_000, ...):

An example depends on its place alone, not on the size of the batch, the host, the thread or what
was asked before. So a run resumes with one number, its step, on any number of hosts. tf.data
carries the batches where TensorFlow is installed, plain threads where it is not; both call the
same NumPy code, and NumPy lets other threads run while it computes.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import Batch, BatchSpec
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.mapped import RangeReader, release
from data_pipeline.masking import mask_tokens
from data_pipeline.order import Chunker, Order
from data_pipeline.packing import Packing, Packs, assemble_packs
from data_pipeline.pairs import assemble, make_pairs
from data_pipeline.random_bits import bits
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Split
from data_pipeline.walk import PASSES, SECTIONS, Walk, section_offsets

_READERS = ("auto", "tf.data", "threads")
_THREADS = 2
_AHEAD = 4  # blocks made ahead of the one in use
_BLOCK_TOKENS = 1 << 20  # at least, made in one call: on few NumPy only gets started
_MIN_LENGTHS = {"next_sentence": 5, "sentence_order": 5, "none": 3}  # [CLS] A [SEP] B [SEP]
_MAX_MAPPED_BYTES = 512 << 20  # larger files are read so that they do not become resident


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """How examples are made, as the flags of the original's `create_pretraining_data.py`.

    Attributes:
        pairs: what a row holds: "next_sentence", a pair whose B is the next text or a random one;
            "sentence_order", a pair whose halves are swapped half of the time, as in ALBERT; or
            "none", full sentences up to the length and no label, as in RoBERTa.
        short_sequence_probability: how often the target length of a document is drawn at random
            below the longest; rows without pairs are never short.
        whole_word: all pieces of a word are masked together.
        dupe_factor: 0 for partners, truncation and masks that never come again; with d, epochs d
            apart hold the same examples in another order, as d copies in files would.
    """

    pairs: str = "next_sentence"
    short_sequence_probability: float = 0.1
    whole_word: bool = False
    dupe_factor: int = 0

    def __post_init__(self) -> None:
        if self.pairs not in _MIN_LENGTHS:
            raise ConfigError(f"pairs {self.pairs!r} is unknown, use {', '.join(_MIN_LENGTHS)}")
        if self.dupe_factor < 0:
            raise ConfigError(f"dupe_factor {self.dupe_factor} must be positive, or 0")


class Stream(Protocol):
    """An endless stream of examples; the first `examples` are there until a text begins anew."""

    examples: int
    length: int  # tokens of an example

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples at the places `numbers` (int64 [batch], from 0)."""


class ExampleStream:
    """The endless stream of examples from one split at one length."""

    def __init__(
        self,
        split: Split,
        special: SpecialTokens,
        vocab_size: int,
        *,
        length: int,
        seed: int,
        options: ExampleOptions,
        continuation: NDArray[np.bool_] | None = None,
    ) -> None:
        """Walks the split once (some seconds for a billion tokens), if no process did before.

        Args:
            split: documents of token ids, as memory-mapped arrays.
            special: ids of the special tokens.
            vocab_size: number of token ids.
            length: tokens of an example.
            seed: any integer; order, partners, truncation and masks depend on it.
            options: how examples are made.
            continuation: bool [vocab], the pieces that continue a word; for whole words only.

        Raises:
            DataError: the split holds no documents.
            ConfigError: the length is too short, or whole words are asked for and `continuation`
                is missing.
        """
        if not split.documents:
            raise DataError("this split of the store holds no documents, so no examples")
        shortest = _MIN_LENGTHS[options.pairs]
        if length < shortest:
            raise ConfigError(f"length {length} is too short, examples need {shortest} tokens")
        if options.whole_word and continuation is None:
            raise ConfigError("whole-word masking needs to know which pieces continue a word")
        # Plain arrays: each slice of a np.memmap costs as much as a whole step of a walk.
        self._split = Split(
            np.asarray(split.tokens),
            np.asarray(split.sentence_offsets),
            np.asarray(split.document_offsets),
        )
        self._special = special
        self._vocab_size = vocab_size
        self.length = length
        self._seed = seed
        self._continuation = continuation if options.whole_word else None
        self._options = options
        kept = KeptArrays(split.kept)
        chunker, passes = self._make_chunker(kept)
        self._order = Order(chunker, passes=passes, seed=seed, kept=kept)
        offsets = (split.sentence_offsets, split.document_offsets)
        self._is_large = sum(array.nbytes for array in offsets) > _MAX_MAPPED_BYTES
        self._reader = None
        if isinstance(split.tokens, np.memmap) and split.tokens.nbytes > _MAX_MAPPED_BYTES:
            self._reader = RangeReader(split.tokens)
        self.examples = self._order.examples

    def _make_chunker(self, kept: KeptArrays) -> tuple[Chunker, int]:
        """What cuts the split into chunks, and into how many different passes."""
        split, options = self._split, self._options
        if options.pairs == "none":
            return Packing(split, self.length), 1
        sections = kept.load(SECTIONS)
        if sections is None:
            sections = kept.keep(SECTIONS, section_offsets(split))
            release(split.sentence_offsets)
        walk = Walk(
            split.sentence_offsets,
            sections,
            self.length,
            options.short_sequence_probability,
            swaps=options.pairs == "sentence_order",
        )
        return walk, options.dupe_factor or PASSES

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples at the places `numbers` (int64 [batch], from 0) of the endless stream.

        Returns:
            the features that `BatchSpec` declares.

        Raises:
            DataError: the store is damaged.
        """
        numbers = np.asarray(numbers, np.int64)
        epochs, chunk = self._order.locate(numbers)
        copies = self._options.dupe_factor
        name = (epochs % copies, chunk) if copies else (numbers,)
        keys = bits(self._seed, self.length, *name)
        found = self._order.find(epochs, chunk)
        if isinstance(found, Packs):
            tokens, (places,) = self._tokens_of((found.start, found.stop - found.start))
            batch = assemble_packs(self._split, found, tokens, places, self._special, self.length)
        else:
            pairs = make_pairs(self._split, found, self.length, keys)
            tokens, (a, b) = self._tokens_of(
                (pairs.a_start, pairs.a_length), (pairs.b_start, pairs.b_length)
            )
            pairs = dataclasses.replace(pairs, a_start=a, b_start=b)
            batch = assemble(tokens, pairs, self._special, self.length)
        if self._is_large:
            release(self._split.sentence_offsets, self._split.document_offsets)
            self._order.release()
        highest = int(batch["input_ids"].max())
        if highest >= self._vocab_size:
            raise DataError(
                f"the store holds the token id {highest:,}, but its vocabulary has "
                f"{self._vocab_size:,} entries: it is damaged; copy it again or prepare it again"
            )
        mask_tokens(batch, self._special, self._vocab_size, keys, self._continuation)
        return {name: batch[name] for name in BatchSpec(len(numbers), self.length).features()}

    def _tokens_of(
        self, *ranges: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> tuple[np.ndarray, list[NDArray[np.int64]]]:
        """An array that holds these ranges (starts, lengths), and where they start in it."""
        if self._reader is None:
            return self._split.tokens, [starts for starts, _ in ranges]
        starts, lengths = (np.concatenate(parts) for parts in zip(*ranges, strict=True))
        tokens, places = self._reader.read(starts, lengths)
        return tokens, np.split(places, len(ranges))


def batches(
    stream: Stream,
    *,
    batch_size: int,
    rows: Sequence[int] | NDArray[np.int64],
    first_step: int,
    last_step: int,
    reader: str = "auto",
) -> Iterator[Batch]:
    """Batches of the steps from `first_step` up to, not including, `last_step`, made ahead.

    Args:
        stream: where examples come from; step s holds its places s * batch_size + rows.
        batch_size: examples of a global batch, those of all hosts.
        rows: the rows of the global batch that this host wants.
        first_step: first step, counted from the start of the phase.
        last_step: the step to stop before.
        reader: "tf.data", "threads", or "auto" for tf.data where TensorFlow is installed. All
            yield the same.

    Raises:
        ConfigError: the reader is unknown.
    """
    if reader not in _READERS:
        raise ConfigError(f"data reader {reader!r} is unknown, choose from {', '.join(_READERS)}")
    if reader == "auto":
        reader = "tf.data" if importlib.util.find_spec("tensorflow") else "threads"
    wanted = np.asarray(rows, np.int64)
    together = max(1, _BLOCK_TOKENS // (len(wanted) * stream.length))
    starts = range(first_step, last_step, together)

    def make(start: int) -> Batch:
        steps = np.arange(start, min(start + together, last_step))
        return stream.batch((steps[:, None] * batch_size + wanted).ravel())

    blocks = (_with_tf_data if reader == "tf.data" else _with_threads)(make, starts)
    return _cut(blocks, len(wanted))


def _cut(blocks: Generator[Batch, None, None], rows: int) -> Iterator[Batch]:
    """Cuts blocks, of the rows of several steps, into batches of `rows` rows."""
    with contextlib.closing(blocks):
        for block in blocks:
            for first in range(0, len(block["input_ids"]), rows):
                yield {name: feature[first : first + rows] for name, feature in block.items()}


def _with_threads(make: Callable[[int], Batch], starts: range) -> Generator[Batch, None, None]:
    waiting = iter(starts)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="batches") as pool:
        ahead = collections.deque(pool.submit(make, s) for s in itertools.islice(waiting, _AHEAD))
        try:
            while ahead:
                block = ahead.popleft().result()
                ahead.extend(pool.submit(make, start) for start in itertools.islice(waiting, 1))
                yield block
        finally:
            for future in ahead:
                future.cancel()


def _with_tf_data(make: Callable[[int], Batch], starts: range) -> Generator[Batch, None, None]:
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # TensorFlow would take the accelerator, or most of its memory, from JAX.
        tf.config.set_visible_devices([], kind)
    features = BatchSpec(0, 0).features()
    types = [dtype for _, dtype in features.values()]
    failures: dict[int, Exception] = {}

    def call(start: np.ndarray) -> list[np.ndarray]:
        try:
            block = make(int(start))
        except Exception as error:
            # Raised below: TensorFlow would replace it by its own and print pages of its account.
            failures[int(start)] = error
            return [np.empty(0, dtype) for dtype in types]
        return [block[name] for name in features]

    def read(start: tf.Tensor) -> dict[str, tf.Tensor]:
        arrays = tf.numpy_function(call, [start], types, stateful=False)
        return dict(zip(features, arrays, strict=True))

    dataset = (
        tf.data.Dataset.range(starts.start, starts.stop, starts.step)
        .map(read, num_parallel_calls=_THREADS, deterministic=True)
        .prefetch(_AHEAD)
    )
    for start, block in zip(starts, dataset.as_numpy_iterator(), strict=True):
        if start in failures:
            raise failures[start]
        yield block
