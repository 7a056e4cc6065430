# SPDX-License-Identifier: Apache-2.0
"""Held-out evaluation: exact weighted averages over a fixed, finite set of examples.

The examples are the first ones of the validation split's stream under a fixed seed, so every
evaluation of every run on a store sees the same pairs and the same masks. The set is padded to
whole batches by rows of weight 0.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.partitioning import local_rows, to_devices
from data_pipeline.batch import IS_RANDOM, Batch
from data_pipeline.mixture import Mixture
from data_pipeline.source import ExampleOptions

SEED = 0  # of held-out examples, whatever the run's seed is


class HeldOut:
    """The held-out examples of a store, or of several mixed as in training, at one length.

    Attributes:
        examples: how many there are, at most what was asked for.
        unigram_entropy: nats; entropy of the masked tokens of these very examples. No model that
            ignores context can have a lower MLM loss on them, whatever frequencies it has learnt.
        random_share: share of pairs with a random B, what a constant guess of "random" scores;
            None where rows hold no pairs.
    """

    def __init__(
        self,
        store: Mixture,
        *,
        length: int,
        examples: int,
        batch_size: int,
        options: ExampleOptions,
    ) -> None:
        self.stream = store.stream("validation", length=length, seed=SEED, options=options)
        self.length = length
        self.batch_size = batch_size
        self.examples = min(examples, self.stream.examples)
        counts = np.zeros(store.vocab_size, np.int64)
        random_pairs = 0
        for batch, weights in self._batches(np.arange(batch_size)):
            used = batch["masked_weights"] * weights[:, None] > 0
            np.add.at(counts, batch["masked_ids"][used], 1)
            random_pairs += int(np.sum((batch["next_sentence_label"] == IS_RANDOM) * weights))
        shares = counts[counts > 0] / counts.sum()
        self.unigram_entropy = float(-np.sum(shares * np.log(shares)))
        self.random_share = None if options.pairs == "none" else random_pairs / self.examples

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches of the given rows, each with its row weights, float32 [rows]."""
        for first in range(0, self.examples, self.batch_size):
            numbers = first + rows
            weights = (numbers < self.examples).astype(np.float32)
            yield self.stream.batch(np.minimum(numbers, self.examples - 1)), weights

    def evaluate(
        self, params: Any, step: Callable[..., dict[str, Any]], mesh: Mesh
    ) -> dict[str, float]:
        """Averages of `step` (a jitted `make_eval_step`) over the held-out examples.

        Returns:
            mlm_loss and nsp_loss in nats, mlm_accuracy and nsp_accuracy in [0, 1], loss (their
            sum), nsp_standard_error of the accuracy, and this set's unigram_entropy, random_share,
            examples and length. Without pairs, nothing of nsp_ and random_share.
        """
        sums: dict[str, np.ndarray] = {}
        for batch, weights in self._batches(local_rows(mesh, self.batch_size)):
            row_weights = to_devices(mesh, {"row_weights": weights})["row_weights"]
            terms = jax.device_get(step(params, to_devices(mesh, batch), row_weights))
            for name, pair in terms.items():
                sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
        result = {name: float(total / weight) for name, (total, weight) in sums.items() if weight}
        result |= {
            "loss": result["mlm_loss"] + result.get("nsp_loss", 0.0),
            "unigram_entropy": self.unigram_entropy,
            "examples": self.examples,
            "length": self.length,
        }
        if self.random_share is not None:
            accuracy = result["nsp_accuracy"]
            result |= {
                "nsp_standard_error": math.sqrt(accuracy * (1 - accuracy) / self.examples),
                "random_share": self.random_share,
            }
        return result
