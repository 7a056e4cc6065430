# SPDX-License-Identifier: Apache-2.0
"""A store in a language that can be learnt within seconds: every document has its own few words."""

import numpy as np

from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import load_tokenizer

TOPIC = 4  # words in a document; who sees its context can guess one in four


def write_topics_store(folder, *, topics=15, seed=0):
    """Ninety documents in the words of one of the topics each, a third of them held out."""
    words = [*SPECIAL_NAMES, *(f"word{number}" for number in range(TOPIC * topics))]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    random = np.random.default_rng(seed)
    with StoreWriter(folder / "store", load_tokenizer(folder / "vocab.txt")) as writer:
        for number in range(90):
            first = len(SPECIAL_NAMES) + TOPIC * (number % topics)
            sentences = random.integers(first, first + TOPIC, (12, 7)).tolist()
            writer.add_document("validation" if number < 30 else "train", sentences)
        writer.finish({"name": "topics", "licence": "none needed"})
    return folder / "store"
