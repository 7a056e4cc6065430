# SPDX-License-Identifier: Apache-2.0
"""The table between our parameter tree and the tensor names of other formats, read both ways.

It only says what tensors are called and which are transposed: `bert_jax.convert.mapping` cuts and
merges them. Hugging Face took over the names of the original (`modeling.py`, `run_pretraining.py`
of google-research/bert) with few changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """A parameter of ours and its names elsewhere.

    {part} stands for query, key and value, which we fuse. In front of the names of encoder rows
    comes the format's `Naming.layer`, once for every layer of our stack.
    """

    path: str
    huggingface: str
    google: str


TABLE = (
    Row(
        "embeddings/word",
        "bert.embeddings.word_embeddings.weight",
        "bert/embeddings/word_embeddings",
    ),
    Row(
        "embeddings/position",
        "bert.embeddings.position_embeddings.weight",
        "bert/embeddings/position_embeddings",
    ),
    Row(
        "embeddings/segment",
        "bert.embeddings.token_type_embeddings.weight",
        "bert/embeddings/token_type_embeddings",
    ),
    Row(
        "embeddings/norm/scale",
        "bert.embeddings.LayerNorm.weight",
        "bert/embeddings/LayerNorm/gamma",
    ),
    Row("embeddings/norm/bias", "bert.embeddings.LayerNorm.bias", "bert/embeddings/LayerNorm/beta"),
    Row(
        "encoder/attention/qkv/kernel",
        "attention.self.{part}.weight",
        "attention/self/{part}/kernel",
    ),
    Row("encoder/attention/qkv/bias", "attention.self.{part}.bias", "attention/self/{part}/bias"),
    Row(
        "encoder/attention/output/kernel",
        "attention.output.dense.weight",
        "attention/output/dense/kernel",
    ),
    Row(
        "encoder/attention/output/bias",
        "attention.output.dense.bias",
        "attention/output/dense/bias",
    ),
    Row(
        "encoder/attention/norm/scale",
        "attention.output.LayerNorm.weight",
        "attention/output/LayerNorm/gamma",
    ),
    Row(
        "encoder/attention/norm/bias",
        "attention.output.LayerNorm.bias",
        "attention/output/LayerNorm/beta",
    ),
    Row("encoder/mlp/up/kernel", "intermediate.dense.weight", "intermediate/dense/kernel"),
    Row("encoder/mlp/up/bias", "intermediate.dense.bias", "intermediate/dense/bias"),
    Row("encoder/mlp/down/kernel", "output.dense.weight", "output/dense/kernel"),
    Row("encoder/mlp/down/bias", "output.dense.bias", "output/dense/bias"),
    Row("encoder/mlp/norm/scale", "output.LayerNorm.weight", "output/LayerNorm/gamma"),
    Row("encoder/mlp/norm/bias", "output.LayerNorm.bias", "output/LayerNorm/beta"),
    Row("pooler/kernel", "bert.pooler.dense.weight", "bert/pooler/dense/kernel"),
    Row("pooler/bias", "bert.pooler.dense.bias", "bert/pooler/dense/bias"),
    Row(
        "mlm/dense/kernel",
        "cls.predictions.transform.dense.weight",
        "cls/predictions/transform/dense/kernel",
    ),
    Row(
        "mlm/dense/bias",
        "cls.predictions.transform.dense.bias",
        "cls/predictions/transform/dense/bias",
    ),
    Row(
        "mlm/norm/scale",
        "cls.predictions.transform.LayerNorm.weight",
        "cls/predictions/transform/LayerNorm/gamma",
    ),
    Row(
        "mlm/norm/bias",
        "cls.predictions.transform.LayerNorm.bias",
        "cls/predictions/transform/LayerNorm/beta",
    ),
    Row("mlm/bias", "cls.predictions.bias", "cls/predictions/output_bias"),
    Row("nsp/kernel", "cls.seq_relationship.weight", "cls/seq_relationship/output_weights"),
    Row("nsp/bias", "cls.seq_relationship.bias", "cls/seq_relationship/output_bias"),
)


@dataclasses.dataclass(frozen=True)
class Naming:
    """Another format: its column of the table and what it does differently from us.

    Attributes:
        column: field of `Row` that holds its names.
        layer: what a tensor of the encoder's layer {layer} is called by in front of its name.
        transposed: our paths whose matrix it stores the other way round.
        copies: names that may repeat another tensor (tied weights) -> the name they repeat.
    """

    column: str
    layer: str
    transposed: frozenset[str]
    copies: Mapping[str, str]

    def name(self, row: Row, layer: int, part: str) -> str:
        """The name of one piece of a row."""
        name = str(getattr(row, self.column))
        prefix = self.layer if row.path.startswith("encoder/") else ""
        return (prefix + name).format(layer=layer, part=part)


# Our kernels are [in, out], but these [out, in].
_OUTPUTS_FIRST = frozenset({"encoder/attention/qkv/kernel"})
_KERNELS = frozenset(row.path for row in TABLE if row.path.endswith("/kernel"))
# torch.nn.Linear keeps its weight as [out, in]. The decoder shares the word table and its bias.
HUGGINGFACE = Naming(
    column="huggingface",
    layer="bert.encoder.layer.{layer}.",
    transposed=_KERNELS - _OUTPUTS_FIRST,
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
# `run_pretraining.py` multiplies by the transpose of the next-sentence weights.
GOOGLE = Naming(
    column="google",
    layer="bert/encoder/layer_{layer}/",
    transposed=_OUTPUTS_FIRST | {"nsp/kernel"},
    copies={},
)
