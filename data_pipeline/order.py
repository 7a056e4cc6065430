# SPDX-License-Identifier: Apache-2.0
"""The endless stream of chunks: which chunk of the corpus stands at which place.

Epoch e is pass e mod `passes` of the walk, shuffled as a whole by a permutation of its own: the
chunk at any place follows from the place alone. There is no shuffle buffer and no state to save.
"""

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.mapped import release
from data_pipeline.random_bits import Purpose, permute
from data_pipeline.walk import CHECKPOINT


class Chunker(Protocol):
    """Cuts a split into chunks: `walk.Walk` or `packing.Packing`."""

    @property
    def name(self) -> str:
        """Names what the starts depend on beside the split, as part of a file name."""

    def pass_starts(self, pass_number: int) -> tuple[NDArray[np.int64], int]:
        """Starts of the chunks 0, CHECKPOINT, ... of a pass, and the number of all its chunks."""

    def find(
        self, passes: NDArray[np.int64], first: NDArray[np.int64], skip: NDArray[np.int64]
    ) -> Any:
        """The chunks `skip` chunks after those that start at `first`."""


class Order:
    """Order of the chunks of one split at one length; safe to use from many threads."""

    def __init__(self, chunker: Chunker, *, passes: int, seed: int, kept: KeptArrays) -> None:
        """Walks the first pass, unless its starts are among the `kept` arrays.

        Args:
            chunker: cuts the split.
            passes: how many passes there are, of which the epochs take turns.
            seed: names the shuffles.
            kept: where starts are looked for and left.
        """
        self._chunker = chunker
        self._passes = passes
        self._seed = seed
        self._kept = kept
        self._lock = threading.Lock()
        self._starts: dict[int, NDArray[np.int64]] = {}
        self._bounds = [0]
        self._ahead: threading.Thread | None = None
        self._count_passes(1)
        self.examples = self._bounds[1]

    def _count_passes(self, places: int) -> None:
        """Counts the chunks of passes until these hold `places` places, at most of all passes."""
        while len(self._bounds) <= self._passes and self._bounds[-1] < places:
            with self._lock:
                number = len(self._bounds) - 1
                if number < self._passes and self._bounds[-1] < places:
                    chunks = self._kept.number(self._name(number))
                    if chunks is None:
                        chunks = self._walk(number)
                    self._bounds.append(self._bounds[-1] + chunks)

    def _name(self, number: int) -> str:
        return f"{self._chunker.name}-pass-{number}"

    def _walk(self, number: int) -> int:
        starts, chunks = self._chunker.pass_starts(number)
        self._starts[number] = self._kept.keep(self._name(number), starts, chunks)
        return chunks

    def _starts_of(self, number: int) -> NDArray[np.int64]:
        """Starts of a pass that was counted before."""
        if number in self._starts:  # not to wait for the walk of the next pass
            return self._starts[number]
        with self._lock:
            if number not in self._starts:
                starts = self._kept.load(self._name(number))
                if starts is None:
                    self._walk(number)
                else:
                    self._starts[number] = starts
            return self._starts[number]

    def _look_ahead(self, places: int) -> None:
        """Walks the next pass in the background when half of the last one is in use."""
        if len(self._bounds) > self._passes or 2 * places <= sum(self._bounds[-2:]):
            return
        if self._ahead is None or not self._ahead.is_alive():
            self._ahead = threading.Thread(
                target=self._count_passes, args=(self._bounds[-1] + 1,), daemon=True
            )
            self._ahead.start()

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epoch and chunk, within the epoch's pass, at the places `numbers` of the stream.

        Args:
            numbers: int64 [batch], from 0.
        """
        places = int(numbers.max()) + 1
        self._count_passes(places)
        self._look_ahead(places)
        bounds = np.array(self._bounds)
        cycles, rest = np.divmod(numbers, bounds[-1])
        passes = np.searchsorted(bounds, rest, side="right") - 1
        epochs = cycles * self._passes + passes
        chunk = permute(
            rest - bounds[passes], np.diff(bounds)[passes], self._seed, Purpose.ORDER, epochs
        )
        return epochs, chunk

    def find(self, epochs: NDArray[np.int64], chunk: NDArray[np.int64]) -> Any:
        """The chunks that `locate` has named: what `find` of the chunker returns."""
        passes = epochs % self._passes
        first = np.empty(chunk.shape, np.int64)
        for number in range(passes.min(), passes.max() + 1):
            rows = np.flatnonzero(passes == number)
            if rows.size:
                first[rows] = self._starts_of(number)[chunk[rows] // CHECKPOINT]
        return self._chunker.find(passes, first, chunk % CHECKPOINT)

    def release(self) -> None:
        """Gives back the memory of what was read of the kept starts."""
        release(*self._starts.copy().values())
