# SPDX-License-Identifier: Apache-2.0
"""One store, or several mixed by weight: where training and evaluation get their examples.

    mixture = open_mixture("stores/wiki:0.7,stores/books:0.3")
    stream = mixture.stream("train", length=128, seed=0, options=ExampleOptions())

The weights are shares of the examples, exact in every BLOCK of them: of each thousand places a
store has a fixed number, a permutation of the block's own says which. So which store stands at a
place, and which of its examples, follows from the place alone. Each store has epochs of its own.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import Batch
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.files import is_remote
from data_pipeline.random_bits import Purpose, bits, permute
from data_pipeline.source import ExampleOptions, ExampleStream, Stream
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.store import Store, open_store
from data_pipeline.tokenizers import Tokenizer

BLOCK = 1000  # examples; so weights count in thousandths


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Stores of one vocabulary.

    Attributes:
        stores: at least one.
        quotas: of each store, its examples in every BLOCK; they add up to it.
    """

    stores: tuple[Store, ...]
    quotas: tuple[int, ...]

    @property
    def path(self) -> Path:
        """Of the first store: what all have in common is read there."""
        return self.stores[0].path

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.stores[0].vocab_size

    @property
    def special(self) -> SpecialTokens:
        """Ids of the special tokens."""
        return self.stores[0].special

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids of all stores."""
        return self.stores[0].tokenizer

    @property
    def tokenizer_fingerprint(self) -> str:
        """Of the tokenizer that made the ids of all stores."""
        return self.stores[0].tokenizer_fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names the content of all stores and their shares; of a single store, its own."""
        if len(self.stores) == 1:
            return self.stores[0].fingerprint
        content = [[store.fingerprint, quota] for store, quota in self._members()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _members(self) -> list[tuple[Store, int]]:
        return list(zip(self.stores, self.quotas, strict=True))

    def stream(self, split: str, *, length: int, seed: int, options: ExampleOptions) -> Stream:
        """The endless stream of examples of one split, "train" or "validation".

        Args:
            split: name of the split.
            length: tokens of an example.
            seed: any integer; order, partners, truncation and masks depend on it.
            options: how examples are made.

        Raises:
            DataError: a store is damaged or holds nothing in this split.
            ConfigError: the length is too short.
        """
        continuation = self.tokenizer.continuation() if options.whole_word else None
        streams = []
        for number, store in enumerate(self.stores):
            documents = store.split(split)
            if not documents.documents:
                raise DataError(
                    f"{store.path}: the {split} split holds no documents, so there are no examples"
                )
            own_seed = seed if len(self.stores) == 1 else int(bits(seed, Purpose.MIXTURE, number))
            streams.append(
                ExampleStream(
                    documents,
                    store.special,
                    store.vocab_size,
                    length=length,
                    seed=own_seed,
                    options=options,
                    continuation=continuation,
                )
            )
        return streams[0] if len(streams) == 1 else MixedStream(streams, self.quotas, seed)


class MixedStream:
    """The endless stream of examples from several streams in fixed shares."""

    def __init__(self, streams: Sequence[Stream], quotas: Sequence[int], seed: int) -> None:
        self._streams = streams
        self._quotas = np.array(quotas)
        self._ends = np.cumsum(self._quotas)
        self._seed = seed
        self.length = streams[0].length
        self.examples = max(
            1,
            min(
                stream.examples * BLOCK // quota
                for stream, quota in zip(streams, quotas, strict=True)
            ),
        )

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number of the stream, and place within it, at the places `numbers`; int64 [batch]."""
        blocks, place = np.divmod(numbers, BLOCK)
        place = permute(place, BLOCK, self._seed, Purpose.MIXTURE, blocks)
        which = np.searchsorted(self._ends, place, side="right")
        quota = self._quotas[which]
        return which, blocks * quota + place - (self._ends[which] - quota)

    def batch(self, numbers: NDArray[np.int64]) -> Batch:
        """The examples at the places `numbers` (int64 [batch], from 0), as `BatchSpec` declares."""
        which, place = self.locate(np.asarray(numbers, np.int64))
        batch: Batch = {}
        for number in np.unique(which).tolist():
            rows = np.flatnonzero(which == number)
            for name, feature in self._streams[number].batch(place[rows]).items():
                if name not in batch:
                    batch[name] = np.empty((which.size, *feature.shape[1:]), feature.dtype)
                batch[name][rows] = feature
        return batch


def open_mixture(text: str) -> Mixture:
    """Opens the stores that `text` names: a path, or several as path:weight,path:weight.

    Raises:
        ConfigError: a weight is missing, no positive number or too small to count; or a store is
            in an object store, where nothing can be mapped into memory.
        DataError: a store cannot be used, or the stores were made with different vocabularies.
    """
    if is_remote(text):
        raise ConfigError(
            f"data.store: {text} is in an object store, and has to be a path: copy it to a disk of "
            "every host, or mount the bucket there (docs/tpu.md; launch does so)"
        )
    if "," not in text:
        return Mixture((open_store(text),), (BLOCK,))
    paths, weights = zip(*(_read_member(member) for member in text.split(",")), strict=True)
    stores = tuple(open_store(path) for path in paths)
    for store in stores[1:]:
        theirs, ours = store.tokenizer_fingerprint, stores[0].tokenizer_fingerprint
        if (theirs, store.special) != (ours, stores[0].special):
            raise DataError(
                f"{store.path} and {stores[0].path} were made with different vocabularies "
                f"({theirs[:12]} and {ours[:12]}), so their token ids mean different things: "
                "prepare them with the same --tokenizer"
            )
    return Mixture(stores, _quotas(paths, np.array(weights)))


def _read_member(member: str) -> tuple[str, float]:
    path, _, weight = member.strip().rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not path or not 0 < value < float("inf"):
        raise ConfigError(
            f"data.store: {member.strip()!r} has no weight; several stores are written with their "
            "weights, as in stores/wiki:0.7,stores/books:0.3"
        )
    return path, value


def _quotas(paths: Sequence[str], weights: NDArray[np.float64]) -> tuple[int, ...]:
    """Splits BLOCK in proportion to the weights; what rounding leaves goes to the largest rests."""
    exact = BLOCK * weights / weights.sum()
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: BLOCK - quotas.sum()]] += 1
    for path, quota in zip(paths, quotas, strict=True):
        if quota == 0:
            raise ConfigError(
                f"data.store: the weight of {path} is less than one example in {BLOCK:,}; raise it "
                "or leave the store out"
            )
    return tuple(quotas.tolist())
