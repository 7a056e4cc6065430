# SPDX-License-Identifier: Apache-2.0
"""A store of random text of any size, made in seconds, for benchmarks of what reads stores."""

from pathlib import Path

import numpy as np

from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.store_writer import StoreWriter
from data_pipeline.wordpiece import WordPieceTokenizer

_BLOCK_DOCUMENTS = 20_000


def write_random_store(path: Path, tokens: int) -> None:
    """A store of Zipf-distributed words in sentences and documents as long as Wikipedia's."""
    vocabulary = [*SPECIAL_NAMES, *(f"word{number}" for number in range(22_000))]
    vocabulary += [f"##piece{number}" for number in range(30_522 - len(vocabulary))]
    random = np.random.default_rng(0)
    weights = 1 / (np.arange(len(vocabulary) - 5) + 10)
    ids = 5 + random.permutation(len(weights))  # pieces among the frequent words too
    words = ids[random.choice(len(weights), 1 << 24, p=weights / weights.sum())].astype(np.uint16)
    with StoreWriter(path, WordPieceTokenizer(vocabulary, lower_case=True)) as writer:
        left = {"train": tokens, "validation": tokens // 100}
        for split, wanted in left.items():
            while wanted > 0:
                documents = random.geometric(1 / 24, _BLOCK_DOCUMENTS)
                lengths = 1 + random.negative_binomial(3, 3 / 24, documents.sum())
                total = int(lengths.sum())
                first = int(random.integers(len(words) - 1))
                text = np.take(words, np.arange(first, first + total), mode="wrap")
                writer.add_documents(split, text, lengths, documents)
                wanted -= total
        writer.finish({"name": "random text", "licence": "none needed"})
