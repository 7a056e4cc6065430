# SPDX-License-Identifier: Apache-2.0
"""Batches of pre-training examples: each a pure function of (seed, place in the stream).

    stream = ExampleStream(split, special, vocab_size, length=128, seed=0, options=ExampleOptions())
    for batch in batches(stream, batch_size=256, rows=range(64, 128), first_step=900_000, ...):

An example depends on its place alone, not on the size of the batch, the host, the thread or what
was asked before. So a run resumes with one number, its step, on any number of hosts. tf.data
carries the batches where TensorFlow is installed, plain threads where it is not; both call the
same NumPy code, and NumPy lets other threads run while it computes.
"""

import collections
import dataclasses
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import Batch, BatchSpec
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.masking import mask_tokens
from data_pipeline.order import Order
from data_pipeline.pairs import assemble, make_pairs
from data_pipeline.random_bits import bits
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Split

_READERS = ("auto", "tf.data", "threads")
_THREADS = 2
_AHEAD = 4  # batches made ahead of the one in use
_MIN_LENGTH = 5  # [CLS] A [SEP] B [SEP] with one token each


@dataclasses.dataclass(frozen=True)
class ExampleOptions:
    """How examples are made, as the flags of the original's `create_pretraining_data.py`.

    Attributes:
        short_sequence_probability: how often the target length of a document is drawn at random
            below the longest.
        whole_word: all pieces of a word are masked together.
    """

    short_sequence_probability: float = 0.1
    whole_word: bool = False


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
        """Walks the split once (a few seconds for a billion tokens).

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
        if length < _MIN_LENGTH:
            raise ConfigError(f"length {length} is too short, examples need {_MIN_LENGTH} tokens")
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
        self._length = length
        self._seed = seed
        self._continuation = continuation if options.whole_word else None
        self._order = Order(
            self._split,
            length=length,
            short_probability=options.short_sequence_probability,
            seed=seed,
        )
        self.examples = self._order.examples

    def spec(self, batch_size: int) -> BatchSpec:
        """Shape of a batch of that many examples."""
        return BatchSpec(batch_size, self._length)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples at the places `numbers` (int64 [batch], from 0) of the endless stream.

        Returns:
            the features that `BatchSpec` declares.
        """
        numbers = np.asarray(numbers, np.int64)
        keys = bits(self._seed, self._length, numbers)
        chunks = self._order.chunks(numbers)
        pairs = make_pairs(self._split, chunks, self._length, keys)
        batch = assemble(self._split, pairs, self._special, self._length)
        mask_tokens(batch, self._special, self._vocab_size, keys, self._continuation)
        return {name: batch[name] for name in self.spec(len(numbers)).features()}


def batches(
    stream: ExampleStream,
    *,
    batch_size: int,
    rows: range,
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
    wanted = np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)

    def make(step: int) -> Batch:
        return stream.batch(step * batch_size + wanted)

    if reader == "tf.data":
        return _with_tf_data(make, stream.spec(len(wanted)), first_step, last_step)
    return _with_threads(make, first_step, last_step)


def _with_threads(make: Callable[[int], Batch], first_step: int, last_step: int) -> Iterator[Batch]:
    steps = iter(range(first_step, last_step))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="batches") as pool:
        ahead = collections.deque(pool.submit(make, s) for s in itertools.islice(steps, _AHEAD))
        try:
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(make, step) for step in itertools.islice(steps, 1))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _with_tf_data(
    make: Callable[[int], Batch], spec: BatchSpec, first_step: int, last_step: int
) -> Iterator[Batch]:
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        # TensorFlow would take the accelerator, or most of its memory, from JAX.
        tf.config.set_visible_devices([], kind)
    features = spec.features()
    failures: dict[int, Exception] = {}

    def call(step: np.ndarray) -> list[np.ndarray]:
        try:
            batch = make(int(step))
        except Exception as error:
            # Raised below: TensorFlow would replace it by its own and print pages of its account.
            failures[int(step)] = error
            return [np.empty(0, dtype) for _, dtype in features.values()]
        return [batch[name] for name in features]

    def example(step: tf.Tensor) -> dict[str, tf.Tensor]:
        arrays = tf.numpy_function(
            call, [step], [dtype for _, dtype in features.values()], stateful=False
        )
        return dict(zip(features, arrays, strict=True))

    steps = range(first_step, last_step)
    dataset = (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(example, num_parallel_calls=_THREADS, deterministic=True)
        .prefetch(_AHEAD)
    )
    for step, batch in zip(steps, dataset.as_numpy_iterator(), strict=True):
        if step in failures:
            raise failures[step]
        yield batch
