# SPDX-License-Identifier: Apache-2.0
"""The new layer on top of the encoder: one affine map from a vector to a task's logits.

Source: `create_model` in `run_classifier.py` of google-research/bert; `run_squad.py` and the
paper's taggers use the same layer on every token's vector.
"""

from typing import Any

import jax
from flax import nnx

from bert_jax.config import BertConfig
from bert_jax.dropout import dropout, split_key
from bert_jax.layers import Dense, dense, exact_dtype
from bert_jax.model import encode


def init_head(config: BertConfig, outputs: int, key: jax.Array) -> dict[str, jax.Array]:
    """Truncated normal kernel [hidden, outputs] and zero bias [outputs], float32."""
    layer = Dense(config.hidden_size, outputs, config, nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(layer))


def head_logits(
    head: dict[str, Any], vectors: jax.Array, rate: float, key: jax.Array | None
) -> jax.Array:
    """Dropout, then the affine map of [..., hidden] to [..., outputs], float32 at least."""
    vectors = dropout(vectors, rate, key)
    return dense(vectors, head["kernel"], head["bias"], exact_dtype(vectors.dtype))


def token_logits(
    rate: float,
    config: BertConfig,
    params: dict[str, Any],
    batch: dict[str, jax.Array],
    key: jax.Array | None,
) -> jax.Array:
    """Logits of every token of a batch, [batch, length, outputs], float32 at least."""
    encoder_key, head_key = split_key(key, 2)
    inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    hidden = encode(config, params, *inputs, encoder_key).hidden
    return head_logits(params["head"], hidden, rate, head_key)
