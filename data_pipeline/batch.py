# SPDX-License-Identifier: Apache-2.0
"""The border between the two packages: what a batch of pre-training examples holds.

`data_pipeline` makes host-local batches, dictionaries of NumPy arrays with exactly the features
declared here; `bert_jax` trains on them. Anything that yields such batches can feed training.
Names follow `create_pretraining_data.py` and `run_pretraining.py` of google-research/bert, without
their `_lm` and plural forms.
"""

import dataclasses

import numpy as np

from data_pipeline.errors import DataError

Batch = dict[str, np.ndarray]

IS_NEXT = 0  # next_sentence_label of a pair whose B follows A in the text (as in the original)
IS_RANDOM = 1  # of a pair whose B comes from a random document, or whose A and B were swapped
NO_LABEL = -1  # of a row that holds no pair; it counts in no next-sentence figure


def max_predictions(length: int) -> int:
    """Prediction slots of a sequence: 15% of `length`, rounded up (128 -> 20, 512 -> 77).

    The only place where this number is made: data, model and FLOP counts all ask here, so that it
    cannot be set twice and differently (google-research/bert#516).
    """
    return -(-15 * length // 100)


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """Shape of a batch: `batch_size` rows of `length` tokens.

    Features, all with `batch_size` rows:
        input_ids: int32 [batch, length], [CLS] A [SEP] B [SEP] after masking, then [PAD].
        input_mask: int32 [batch, length], 1 on tokens and 0 on padding.
        segment_ids: int32 [batch, length], 0 on [CLS] A [SEP], 1 on B [SEP], 0 on padding; rows
            without pairs, [CLS] text [SEP] text [SEP] ..., are 0 throughout.
        masked_positions: int32 [batch, predictions], ascending, unused slots 0.
        masked_ids: int32 [batch, predictions], the tokens before masking, unused slots 0.
        masked_weights: float32 [batch, predictions], 1 on used slots and 0 on unused ones.
        next_sentence_label: int32 [batch], IS_NEXT or IS_RANDOM, or NO_LABEL in all rows.
    """

    batch_size: int
    length: int

    @property
    def predictions(self) -> int:
        """Prediction slots of a row."""
        return max_predictions(self.length)

    def features(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Name -> (shape, dtype) of every feature."""
        tokens = (self.batch_size, self.length)
        slots = (self.batch_size, self.predictions)
        return {
            "input_ids": (tokens, np.int32),
            "input_mask": (tokens, np.int32),
            "segment_ids": (tokens, np.int32),
            "masked_positions": (slots, np.int32),
            "masked_ids": (slots, np.int32),
            "masked_weights": (slots, np.float32),
            "next_sentence_label": ((self.batch_size,), np.int32),
        }


def validate(batch: Batch, spec: BatchSpec, vocab_size: int) -> None:
    """Checks names, shapes, dtypes and ranges of a batch.

    A token id outside the embedding table would be gathered as garbage or NaN without a word
    (google-research/bert#82), hence the range checks.

    Raises:
        DataError: naming the feature and what it should be.
    """
    features = spec.features()
    if set(batch) != set(features):
        raise DataError(f"batch has features {sorted(batch)}, expected {sorted(features)}")
    for name, (shape, dtype) in features.items():
        array = batch[name]
        if array.shape != shape or array.dtype != dtype:
            raise DataError(
                f"batch feature {name} is {array.dtype}{list(array.shape)}, "
                f"expected {np.dtype(dtype)}{list(shape)}"
            )
    unlabelled = np.all(batch["next_sentence_label"] == NO_LABEL)
    limits = {
        "input_ids": (0, vocab_size),
        "masked_ids": (0, vocab_size),
        "masked_positions": (0, spec.length),
        "segment_ids": (0, 2),
        "next_sentence_label": (NO_LABEL, 0) if unlabelled else (0, 2),
    }
    for name, (smallest, limit) in limits.items():
        low, high = int(batch[name].min()), int(batch[name].max())
        if low < smallest or high >= limit:
            raise DataError(
                f"batch feature {name} holds values from {low} to {high}, allowed are {smallest} "
                f"to {limit - 1}: the store and the model's vocabulary do not belong together"
            )
