# SPDX-License-Identifier: Apache-2.0
"""BERT: a post-LayerNorm encoder with its pre-training heads, as flax.nnx modules.

Callers see plain functions on plain dictionaries of arrays: `init_params`, `apply_pretraining` and
`encode`. The layers between embeddings and heads are in `bert_jax.encoder`.

Source: `modeling.py` of google-research/bert; arXiv 1810.04805, section 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import BertConfig
from bert_jax.dropout import dropout, split_key
from bert_jax.encoder import EncoderLayer, Exchange, Params, run_layers
from bert_jax.heads import MlmHead, NspHead, Pooler
from bert_jax.layer_norm import LayerNorm
from bert_jax.layers import compute_dtype, lookup, truncated_normal
from data_pipeline.errors import DataError

# What is left of the parameters without the heads of pre-training.
ENCODER_PARTS = ("embeddings", "encoder", "pooler")


class PretrainingLogits(NamedTuple):
    """`mlm` [batch, predictions, vocab_size] and `nsp` [batch, 2], float32 (float64 in float64)."""

    mlm: jax.Array
    nsp: jax.Array


class EncoderOutput(NamedTuple):
    """What the encoder makes of a batch, in the compute dtype.

    `hidden` [batch, length, hidden] is the last layer, `pooled` [batch, hidden] the pooler's
    output, `layers` [layers + 1, batch, length, hidden] the embeddings and every layer, or None.
    """

    hidden: jax.Array
    pooled: jax.Array
    layers: jax.Array | None


class Embeddings(nnx.Module):
    """Sum of word, position and segment embedding, then LayerNorm and dropout."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.config = config

        def table(rows: int) -> jax.Array:
            return truncated_normal(rngs, (rows, config.hidden_size), config.initializer_range)

        # Drawn at the true size and then padded, so that padding changes no other value.
        padding = config.padded_vocab_size - config.vocab_size
        self.word = nnx.Param(jnp.pad(table(config.vocab_size), ((0, padding), (0, 0))))
        self.position = nnx.Param(table(config.max_positions))
        self.segment = nnx.Param(table(config.num_segments))
        self.norm = LayerNorm(config)

    @jax.named_scope("embeddings")
    def __call__(
        self, input_ids: jax.Array, segment_ids: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Maps [batch, length] to [batch, length, hidden]."""
        length, limit = input_ids.shape[1], self.config.max_positions
        if length > limit:
            raise DataError(f"an input has {length} tokens, the model takes at most {limit}")
        dtype = compute_dtype(self.config)
        x = lookup(self.word[...], input_ids, dtype)
        # By a product: TPUs would add up a table's gradient row by row, and half of all rows here
        # belong to one entry.
        which = jax.nn.one_hot(segment_ids, self.config.num_segments, dtype=x.dtype)
        # A segment that there is not must not pass for none.
        which = jnp.where(which.any(axis=-1, keepdims=True), which, jnp.nan)
        segments = self.segment[...].astype(x.dtype)
        x += jnp.einsum("bls,sh->blh", which, segments, precision="highest")
        x += self.position[:length][None]
        x = self.norm(x).astype(dtype)
        return dropout(x, self.config.hidden_dropout, key)


class Bert(nnx.Module):
    """Encoder, pooler and both pre-training heads; its attributes are the parameter tree."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs, heads: bool = True) -> None:
        self.config = config
        self.embeddings = Embeddings(config, rngs)
        layer_rngs = rngs.split(config.num_layers)
        self.encoder = nnx.vmap(functools.partial(EncoderLayer, config))(layer_rngs)
        self.pooler = Pooler(config, rngs)
        if heads:
            self.mlm = MlmHead(config, rngs)
            self.nsp = NspHead(config, rngs)

    def encode(
        self,
        input_ids: jax.Array,
        input_mask: jax.Array,
        segment_ids: jax.Array,
        key: jax.Array | None,
        all_layers: bool,
        exchange: Exchange | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Last hidden states, and the embeddings with every layer's output if asked for."""
        embedding_key, layers_key = split_key(key, 2)
        embedded = self.embeddings(input_ids, segment_ids, embedding_key)
        return run_layers(
            self.encoder, self.config, embedded, input_mask, layers_key, all_layers, exchange
        )


@functools.cache
def _definition(config: BertConfig, heads: bool) -> nnx.GraphDef[Bert]:
    return nnx.split(nnx.eval_shape(lambda: Bert(config, nnx.Rngs(params=0), heads)))[0]


def _bind(config: BertConfig, params: Params, heads: bool = True) -> Bert:
    return nnx.merge(_definition(config, heads), params)


def init_params(config: BertConfig, key: jax.Array) -> Params:
    """Random float32 parameters: truncated normal 0.02, biases 0, LayerNorm scales 1.

    Returns:
        Nested dictionary of arrays. Kernels are [inputs, outputs], that of query, key and value
        [3, outputs, inputs]; encoder parameters have a leading axis `layers`; rows of
        `embeddings/word` beyond the vocabulary are zero.
    """
    return nnx.to_pure_dict(nnx.state(Bert(config, nnx.Rngs(params=key))))


def apply_pretraining(
    config: BertConfig,
    params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
) -> PretrainingLogits:
    """Logits of both pre-training tasks.

    Args:
        config: shape and numerics.
        params: the tree `init_params` makes.
        batch: features of `data_pipeline.batch`; the labels are not read.
        dropout_key: one key, or [batch] keys of the rows; None for no dropout.
    """
    logits = training_logits(config, params, batch, dropout_key)
    return logits._replace(mlm=logits.mlm[..., : config.vocab_size])


def training_logits(
    config: BertConfig,
    params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
    exchange: Exchange | None = None,
) -> PretrainingLogits:
    """As `apply_pretraining`, but `mlm` keeps the table's padding, with no probability.

    Losses and accuracies are the same with it, and nothing of the logits' size is copied.

    Args:
        config: shape and numerics.
        params: the tree `init_params` makes, or a device's part of it.
        batch: features of `data_pipeline.batch`; the labels are not read.
        dropout_key: one key, or [batch] keys of the rows; None for no dropout.
        exchange: what devices do about parameters that are spread over them.
    """
    if exchange:
        params = {
            part: shards if part == "encoder" else exchange.fetch(shards, part)
            for part, shards in params.items()
        }
    bert = _bind(config, params)
    inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    hidden, _ = bert.encode(*inputs, dropout_key, all_layers=False, exchange=exchange)
    mlm = bert.mlm(hidden, batch["masked_positions"], bert.embeddings.word[...])
    return PretrainingLogits(mlm=mlm, nsp=bert.nsp(bert.pooler(hidden)))


def encode(
    config: BertConfig,
    params: Params,
    input_ids: jax.Array,
    input_mask: jax.Array,
    segment_ids: jax.Array,
    dropout_key: jax.Array | None = None,
    *,
    all_layers: bool = False,
) -> EncoderOutput:
    """Hidden states and pooled vector, for everything but pre-training.

    Args:
        config: shape and numerics.
        params: the tree `init_params` makes; only embeddings, encoder and pooler are needed.
        input_ids: int32 [batch, length].
        input_mask: int32 [batch, length], 1 on tokens and 0 on padding.
        segment_ids: int32 [batch, length].
        dropout_key: None for no dropout.
        all_layers: also return the embeddings and the output of every layer.
    """
    used = {name: params[name] for name in ENCODER_PARTS}
    bert = _bind(config, used, heads=False)
    hidden, layers = bert.encode(input_ids, input_mask, segment_ids, dropout_key, all_layers)
    return EncoderOutput(hidden=hidden, pooled=bert.pooler(hidden), layers=layers)
