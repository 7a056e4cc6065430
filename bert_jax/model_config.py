# SPDX-License-Identifier: Apache-2.0
"""Shape and numerics of a BERT, and the published sizes by name."""

import dataclasses
from typing import Any, Self

from bert_jax.typed_mapping import require
from data_pipeline.errors import ConfigError

# name: (num_layers, hidden_size). Heads are hidden_size / 64 and the inner layer is
# 4 * hidden_size wide throughout. README of google-research/bert ("Smaller BERT Models", 2020).
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Shape and numerics of the encoder (`BertConfig` of google-research/bert `modeling.py`).

    `vocab_size` 0 stands for the store's; training fills it in. The embedding table is padded to a
    multiple of `vocab_multiple` rows, which changes no result. `unroll` is the number of layers in
    one iteration of the layer scan; `remat` recomputes each layer's activations backwards.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    max_positions: int = 512
    num_segments: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    layer_norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    compute_dtype: str = "float32"
    vocab_multiple: int = 128
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_layers", "num_heads", "mlp_size", "max_positions", "unroll")
        for name in (*sizes, "num_segments", "vocab_multiple"):
            require(getattr(self, name) > 0, f"model.{name} must be positive")
        require(self.vocab_size >= 0, "model.vocab_size must be positive, or 0 for the store's")
        require(
            self.hidden_size % self.num_heads == 0,
            f"model.hidden_size {self.hidden_size} is not a multiple of "
            f"model.num_heads {self.num_heads}",
        )
        for name in ("hidden_dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name} must lie in [0, 1)")
        require(self.layer_norm_epsilon > 0, "model.layer_norm_epsilon must be positive")
        require(self.initializer_range > 0, "model.initializer_range must be positive")
        require(
            self.activation in ("gelu", "gelu_tanh"),
            f"model.activation {self.activation!r} is not known: "
            "use 'gelu' (erf) or 'gelu_tanh' (google-research/bert since 2019-02-07)",
        )
        require(
            self.compute_dtype in ("float32", "bfloat16", "float64"),
            f"model.compute_dtype {self.compute_dtype!r} is not known: "
            "use 'float32', 'bfloat16' or 'float64'",
        )

    @classmethod
    def preset(cls, size: str, *, vocab_size: int = 30522, **overrides: Any) -> Self:
        """A published size by name: tiny, mini, small, medium, base or large."""
        if size not in SIZES:
            raise ConfigError(f"unknown model size {size!r}: use one of {', '.join(SIZES)}")
        layers, hidden = SIZES[size]
        fields = dict(
            hidden_size=hidden, num_layers=layers, num_heads=hidden // 64, mlp_size=4 * hidden
        )
        return cls(vocab_size=vocab_size, **(fields | overrides))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to `vocab_multiple`."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple
