# SPDX-License-Identifier: Apache-2.0
"""The model behind `model.npz`, for the script that makes the file and the tests that read it."""

from bert_jax.config import BertConfig

CONFIG = BertConfig(
    vocab_size=101,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    mlp_size=48,
    max_positions=24,
    compute_dtype="float64",
    vocab_multiple=1,
)
