# SPDX-License-Identifier: Apache-2.0
"""A model of a few kilobytes with random weights in every tensor, and a tokenizer for it."""

import dataclasses

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.convert.mapping import parameter_shapes, unflatten
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import load_tokenizer

WORDS = ("the", "ship", "sailed", "across", "wide", "sea", "is", "was", "not", "it", "##s", "##ed")
VOCABULARY = [*SPECIAL_NAMES, *WORDS, *"abcdefghijklmnopqrstuvwxyzé.,'"]


def tiny_config(**changes):
    """Sizes of which no two are equal; the vocabulary is no multiple of anything."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_layers=2,
        num_heads=3,
        mlp_size=56,
        max_positions=40,
        num_segments=2,
    )
    return dataclasses.replace(config, **changes)


def random_params(config, seed=0):
    """Random numbers everywhere, biases and scales too; zero only in the vocabulary's padding."""
    random = np.random.default_rng(seed)
    flat = {}
    for path, shape in parameter_shapes(config).items():
        flat[path] = random.normal(0, 0.2, shape).astype(np.float32) + path.endswith("scale")
        if path in ("embeddings/word", "mlm/bias"):
            flat[path][config.vocab_size :] = 0
    return unflatten(flat)


def tiny_tokenizer(folder, **settings):
    """A WordPiece tokenizer over `VOCABULARY`."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return load_tokenizer(path, **({"lower_case": True} | settings))
