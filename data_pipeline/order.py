# SPDX-License-Identifier: Apache-2.0
"""The endless stream of chunks: which chunk of the corpus stands at which place.

Epoch e is pass e mod PASSES of the walk, shuffled as a whole by a permutation of its own: the
chunk at any place follows from the place alone. There is no shuffle buffer and no state to save.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from data_pipeline.random_bits import Purpose, permute
from data_pipeline.store import Split
from data_pipeline.walk import CHECKPOINT, PASSES, Chunks, Walk, section_offsets


class Order:
    """Order of the chunks of one split at one length; safe to use from many threads."""

    def __init__(self, split: Split, *, length: int, short_probability: float, seed: int) -> None:
        self._walk = Walk(
            np.asarray(split.sentence_offsets), section_offsets(split), length, short_probability
        )
        self._seed = seed
        self._lock = threading.Lock()
        self._starts: list[NDArray[np.int64]] = []
        self._bounds = [0]
        self._walk_passes(1)
        self.examples = self._bounds[1]

    def _walk_passes(self, places: int) -> None:
        """Walks passes until these hold `places` places, at most all: each is walked only once."""
        with self._lock:
            while len(self._starts) < PASSES and self._bounds[-1] < places:
                starts, chunks = self._walk.pass_starts(len(self._starts))
                self._starts.append(starts)
                self._bounds.append(self._bounds[-1] + chunks)

    def chunks(self, numbers: NDArray[np.int64]) -> Chunks:
        """The chunks at the places `numbers` (int64 [batch], from 0) of the stream."""
        self._walk_passes(int(numbers.max()) + 1)
        bounds = np.array(self._bounds)
        cycles, rest = np.divmod(numbers, bounds[-1])
        passes = np.searchsorted(bounds, rest, side="right") - 1
        chunk = permute(
            rest - bounds[passes],
            np.diff(bounds)[passes],
            self._seed,
            Purpose.ORDER,
            cycles * PASSES + passes,
        )
        first = np.empty_like(chunk)
        for number in range(passes.min(), passes.max() + 1):
            rows = passes == number
            first[rows] = self._starts[number][chunk[rows] // CHECKPOINT]
        return self._go_on(passes, first, chunk % CHECKPOINT)

    def _go_on(
        self, passes: NDArray[np.int64], first: NDArray[np.int64], skip: NDArray[np.int64]
    ) -> Chunks:
        """Walks on from the chunks that start at `first`, by `skip` chunks each."""
        walk, offsets = self._walk, self._walk.section_offsets
        section = np.searchsorted(offsets, first, side="right") - 1
        stop, target = offsets[section + 1], walk.targets(passes, section)
        for step in range(CHECKPOINT - 1):
            following = walk.chunks(passes, first, stop, target).following
            first = np.where(step < skip, following, first)
            over = np.flatnonzero(first == stop)
            section[over] += 1
            stop[over] = offsets[section[over] + 1]
            target[over] = walk.targets(passes[over], section[over])
        return walk.chunks(passes, first, stop, target)
