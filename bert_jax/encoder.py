# SPDX-License-Identifier: Apache-2.0
"""The encoder's layers, and how they are run one after the other.

The parameters of all layers are stacked along a leading axis `layers`. `BertConfig.unroll` and
`remat` change speed and memory, never values.

Source: `transformer_model` in `modeling.py` of google-research/bert.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.attention import attend
from bert_jax.config import BertConfig
from bert_jax.dropout import dropout, split, split_key
from bert_jax.layer_norm import LayerNorm
from bert_jax.layers import Dense, activation, dense, dense_parts, truncated_normal

Params = dict[str, Any]


class Exchange(Protocol):
    """What devices that share the rows of a batch do about parameters that are spread over them."""

    def fetch(self, params: Params, *part: str) -> Params:
        """Brings the parameters of a part of the model together; `part` is its path in the tree.

        Those of `encoder` have no axis `layers`: they are one layer's.
        """

    def hold(self, x: jax.Array, param: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both as they are; the gradient of `x` waits until that of `param` has arrived."""


class QueryKeyValue(nnx.Module):
    """The three dense layers of self-attention, multiplied as one.

    The kernel is [3, all_heads, hidden], outputs first and heads side by side: a device's shard is
    whole rows, unless `tensor` has them, and TPUs gather and multiply those as they lie.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.heads = (config.num_heads, config.head_dim)
        shape = (3, config.num_heads * config.head_dim, config.hidden_size)
        self.kernel = nnx.Param(truncated_normal(rngs, shape, config.initializer_range))
        self.bias = nnx.Param(jnp.zeros(shape[:2], jnp.float32))

    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, ...]:
        """Maps [batch, length, hidden] to three times [batch, length, heads, head_dim]."""
        kernel = self.kernel[...].reshape(3, *self.heads, hidden.shape[-1])
        return dense_parts(hidden, kernel, self.bias[...].reshape(3, *self.heads))


class HeadsOutput(Dense):
    """Affine map of what all heads made of a token."""

    def __call__(self, context: jax.Array) -> jax.Array:
        """Maps [batch, length, heads, head_dim] to [batch, length, hidden]."""
        # Heads are set apart in the kernel, not put together in the context, which is larger.
        kernel = self.kernel[...].reshape(*context.shape[-2:], -1)
        return dense(context, kernel, self.bias[...], context.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention and its output projection, then residual and LayerNorm."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.qkv = QueryKeyValue(config, rngs)
        all_heads = config.num_heads * config.head_dim
        self.output = HeadsOutput(all_heads, config.hidden_size, config, rngs)
        self.norm = LayerNorm(config)

    def context(self, hidden: jax.Array, input_mask: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [batch, length, hidden] to the heads' [batch, length, heads, head_dim]."""
        query, key_, value = self.qkv(hidden)
        return attend(query, key_, value, input_mask, self.config.attention_dropout, key)

    def __call__(self, hidden: jax.Array, context: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [batch, length, hidden] and what the heads made of it to [batch, length, hidden]."""
        update = dropout(self.output(context), self.config.hidden_dropout, key)
        return self.norm(hidden + update)


class Mlp(nnx.Module):
    """Two dense layers with GELU between them, then residual and LayerNorm."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.up = Dense(config.hidden_size, config.mlp_size, config, rngs)
        self.down = Dense(config.mlp_size, config.hidden_size, config, rngs)
        self.norm = LayerNorm(config)

    def __call__(self, hidden: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [batch, length, hidden] to the same."""
        inner = activation(self.config.activation)(self.up(hidden))
        update = dropout(self.down(inner), self.config.hidden_dropout, key)
        return self.norm(hidden + update)


class EncoderLayer(nnx.Module):
    """One Transformer layer, LayerNorm after each residual sum."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.attention = SelfAttention(config, rngs)
        self.mlp = Mlp(config, rngs)


def run_layers(
    encoder: EncoderLayer,
    config: BertConfig,
    embedded: jax.Array,
    input_mask: jax.Array,
    key: jax.Array | None,
    all_layers: bool,
    exchange: Exchange | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Last hidden states, and the embeddings with every layer's output if asked for.

    Args:
        encoder: all layers, stacked.
        config: shape and numerics.
        embedded: [batch, length, hidden].
        input_mask: [batch, length].
        key: one key, or [batch] keys of the rows; None for no dropout.
        all_layers: whether to return [layers + 1, batch, length, hidden], too.
        exchange: of parameters that are spread over devices.
    """

    def run_next(hidden: jax.Array, layer: tuple[Params, Any]) -> tuple[jax.Array, Any]:
        hidden = _run_layer(encoder, exchange, input_mask, hidden, *layer)
        return hidden, hidden if all_layers else None

    if config.remat:
        run_next = jax.checkpoint(run_next, prevent_cse=False)
    # Keyed by layer, not drawn in order, so that unrolling and remat leave the masks alone.
    keys = None if key is None else split(key, config.num_layers)
    stacked = nnx.to_pure_dict(nnx.state(encoder)), keys
    hidden, outputs = jax.lax.scan(run_next, embedded, stacked, unroll=config.unroll)
    return hidden, jnp.concatenate([embedded[None], outputs]) if all_layers else None


def _run_layer(
    encoder: EncoderLayer,
    exchange: Exchange | None,
    input_mask: jax.Array,
    hidden: jax.Array,
    params: Params,
    key: jax.Array | None,
) -> jax.Array:
    """Output of the layer that has these parameters.

    Over several devices the gradients of the MLP travel while attention is differentiated. Without
    a word about it the TPU compiler puts off all products for weights to the end of the backward
    pass, and with them what is to travel. They are waited for at the context, whose gradient XLA
    stores in any case: nothing that it computes in one pass is torn apart.
    """
    attention_params, mlp_params = params["attention"], params["mlp"]
    attention_key, mlp_key = split_key(key, 2)
    probability_key, output_key = split_key(attention_key, 2)
    if exchange:
        attention_params = exchange.fetch(attention_params, "encoder", "attention")
    attention = nnx.merge(nnx.graphdef(encoder.attention), attention_params)
    context = attention.context(hidden, input_mask, probability_key)
    if exchange:
        for name in ("up", "down"):  # backwards, as they become ready; vectors are summed together
            context, kernel = exchange.hold(context, mlp_params[name]["kernel"])
            mlp_params = mlp_params | {name: mlp_params[name] | {"kernel": kernel}}
        mlp_params = exchange.fetch(mlp_params, "encoder", "mlp")
    hidden = attention(hidden, context, output_key)
    return nnx.merge(nnx.graphdef(encoder.mlp), mlp_params)(hidden, mlp_key)
