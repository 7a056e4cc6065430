# SPDX-License-Identifier: Apache-2.0
"""What sits on top of the encoder: pooler, masked-LM head and next-sentence head.

Heads return logits; losses are in `bert_jax.tasks`. Source: `BertModel.pooled_output` in
`modeling.py`, `get_masked_lm_output` and `get_next_sentence_output` in `run_pretraining.py` of
google-research/bert.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import BertConfig
from bert_jax.layer_norm import LayerNorm
from bert_jax.layers import (
    Dense,
    activation,
    dense,
    exact_dtype,
)

# Of words that do not exist. exp() of it is 0 beside any other score.
PADDING_SCORE = -1e9


def gather_positions(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """Vectors [batch, predictions, hidden] at `positions` [batch, predictions]."""
    return jnp.take_along_axis(hidden, positions[..., None], axis=1, mode="clip")


class Pooler(Dense):
    """The [CLS] vector through a dense layer and tanh."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        super().__init__(config.hidden_size, config.hidden_size, config, rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps [batch, length, hidden] to [batch, hidden]."""
        return jnp.tanh(super().__call__(hidden[:, 0]))


class MlmHead(nnx.Module):
    """Logits over the vocabulary at masked positions only; its output matrix is the word table."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.dense = Dense(config.hidden_size, config.hidden_size, config, rngs)
        self.norm = LayerNorm(config)
        self.bias = nnx.Param(jnp.zeros(config.padded_vocab_size, jnp.float32))

    def __call__(self, hidden: jax.Array, positions: jax.Array, table: jax.Array) -> jax.Array:
        """Scores every word for every masked position.

        Args:
            hidden: [batch, length, hidden], the last layer.
            positions: int32 [batch, predictions], the masked positions.
            table: [padded_vocab, hidden], the word embeddings.

        Returns:
            [batch, predictions, padded_vocab], float32 at least. The table's padding is scored so
            low that it has no probability: to cut it off would copy all logits.
        """
        gathered = gather_positions(hidden, positions).reshape(-1, hidden.shape[-1])
        x = self.norm(activation(self.config.activation)(self.dense(gathered)))
        word = jnp.arange(table.shape[0]) < self.config.vocab_size
        bias = jnp.where(word, self.bias[...], PADDING_SCORE)
        logits = dense(x, table, bias, exact_dtype(x.dtype), transposed=True)
        return logits.reshape(*positions.shape, -1)


class NspHead(Dense):
    """Two logits on the pooled vector: 0 = B follows A, 1 = B is random."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        super().__init__(config.hidden_size, 2, config, rngs)

    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Maps [batch, hidden] to [batch, 2], float32 at least."""
        return dense(pooled, self.kernel[...], self.bias[...], exact_dtype(pooled.dtype))
