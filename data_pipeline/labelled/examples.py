# SPDX-License-Identifier: Apache-2.0
"""Examples of a labelled split: token sequences kept ragged, padded only when a batch is made.

Which example stands at which place of training follows from (seed, place) alone, as in
pre-training: a resumed run needs no other state than its step.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.batch import Batch
from data_pipeline.random_bits import Purpose, permute
from data_pipeline.special_tokens import SpecialTokens

_STEP = 32  # batches are padded to a multiple of this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Examples:
    """Sequences [CLS] A [SEP] or [CLS] A [SEP] B [SEP] of one split, and what is to be predicted.

    Attributes:
        tokens: int32, those of all sequences, one after another.
        offsets: int64 [sequences + 1], where each sequence starts and the last one ends.
        second: int32 [sequences], where B starts in its sequence; its length where there is no B.
        targets: arrays with one row an example; they go into the batch under their names. A target
            of each token, [examples, length], is cut as the tokens are.
        length: the longest a sequence may be.
        pad: id of [PAD].
        choices: sequences an example consists of.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    second: NDArray[np.int32]
    targets: dict[str, np.ndarray]
    length: int
    pad: int
    choices: int = 1

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.choices

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that a batch is made of."""
        digest = hashlib.sha256(f"{self.length} {self.choices}".encode())
        digest.update(self.tokens.tobytes() + self.offsets.tobytes() + self.second.tobytes())
        for target in self.targets.values():
            digest.update(target.tobytes())
        return digest.hexdigest()

    def _sequences(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequences of the examples `numbers`, [examples * choices]."""
        return (numbers[:, None] * self.choices + np.arange(self.choices)).ravel()

    def padded_length(self, numbers: NDArray[np.int64]) -> int:
        """Tokens that a batch of the examples `numbers` is padded to, at most `length`."""
        sequences = self._sequences(numbers)
        longest = int((self.offsets[sequences + 1] - self.offsets[sequences]).max())
        return min(-(-longest // _STEP) * _STEP, self.length)

    def batch(self, numbers: NDArray[np.int64], length: int) -> Batch:
        """The examples `numbers`, padded to `length` tokens.

        Returns:
            input_ids, input_mask and segment_ids, int32 [examples, length], or [examples, choices,
            length] where an example has several sequences; and the targets.
        """
        sequences = self._sequences(numbers)
        starts, columns = self.offsets[sequences, None], np.arange(length)
        mask = columns < self.offsets[sequences + 1, None] - starts
        ids = self.tokens[np.minimum(starts + columns, len(self.tokens) - 1)]
        segments = mask & (columns >= self.second[sequences, None])
        rows = (len(numbers), self.choices) if self.choices > 1 else (len(numbers),)
        shape = (*rows, length)
        batch = {
            "input_ids": np.where(mask, ids, np.int32(self.pad)).reshape(shape),
            "input_mask": mask.astype(np.int32).reshape(shape),
            "segment_ids": segments.astype(np.int32).reshape(shape),
        }
        for name, values in self.targets.items():
            of_tokens = values.ndim == 2 and values.shape[1] == self.length
            batch[name] = values[numbers, :length] if of_tokens else values[numbers]
        return batch


def at_places(places: NDArray[np.int64], examples: int, seed: int) -> NDArray[np.int64]:
    """Which examples stand at `places` of the endless stream: every epoch another permutation."""
    epoch, place = np.divmod(np.asarray(places, np.int64), examples)
    return permute(place, examples, seed, Purpose.ORDER, epoch)


def truncate_pair(first: Sequence[int], second: Sequence[int], room: int) -> tuple[int, int]:
    """How many tokens of two texts stay: the longer one loses its last, until both fit into `room`.

    Source: `_truncate_seq_pair` in `run_classifier.py` of google-research/bert.
    """
    left, right = len(first), len(second)
    while left + right > room:
        if left > right:
            left -= 1
        else:
            right -= 1
    return left, right


def assemble(
    pairs: Sequence[tuple[Sequence[int], Sequence[int] | None]],
    special: SpecialTokens,
    length: int,
    targets: dict[str, np.ndarray],
    choices: int = 1,
) -> Examples:
    """Sequences of token ids, cut to `length`, with their special tokens.

    Args:
        pairs: ids of A and of B (None: there is no B) of every sequence.
        special: ids of the special tokens.
        length: tokens of a sequence at most.
        targets: see `Examples`.
        choices: see `Examples`.
    """
    tokens: list[int] = []
    offsets, second = [0], []
    for a, b in pairs:
        if b is None:
            tokens += [special.cls, *a[: length - 2], special.sep]
            second.append(len(tokens) - offsets[-1])
        else:
            left, right = truncate_pair(a, b, length - 3)
            tokens += [special.cls, *a[:left], special.sep, *b[:right], special.sep]
            second.append(left + 2)
        offsets.append(len(tokens))
    return Examples(
        tokens=np.array(tokens, np.int32),
        offsets=np.array(offsets, np.int64),
        second=np.array(second, np.int32),
        targets=targets,
        length=length,
        pad=special.pad,
        choices=choices,
    )
