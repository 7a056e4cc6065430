# SPDX-License-Identifier: Apache-2.0
"""The typed view of a run's configuration.

A recipe in `configs/` is an `ml_collections` config; `RunConfig.from_mapping` turns it into the
frozen dataclasses below, which are all that the rest of the code sees. Every key has a field here,
so a key that nobody reads cannot exist, and an unknown key or a wrong type is refused by name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from bert_jax.typed_mapping import build
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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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
            _require(getattr(self, name) > 0, f"model.{name} must be positive")
        _require(self.vocab_size >= 0, "model.vocab_size must be positive, or 0 for the store's")
        _require(
            self.hidden_size % self.num_heads == 0,
            f"model.hidden_size {self.hidden_size} is not a multiple of "
            f"model.num_heads {self.num_heads}",
        )
        for name in ("hidden_dropout", "attention_dropout"):
            _require(0 <= getattr(self, name) < 1, f"model.{name} must lie in [0, 1)")
        _require(self.layer_norm_epsilon > 0, "model.layer_norm_epsilon must be positive")
        _require(self.initializer_range > 0, "model.initializer_range must be positive")
        _require(
            self.activation in ("gelu", "gelu_tanh"),
            f"model.activation {self.activation!r} is not known: "
            "use 'gelu' (erf) or 'gelu_tanh' (google-research/bert since 2019-02-07)",
        )
        _require(
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


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the run at one sequence length; `share` of all steps (paper: 0.9 and 0.1)."""

    length: int
    batch_size: int
    share: float

    def __post_init__(self) -> None:
        _require(self.length >= 8, f"phase length {self.length} is too short: at least 8 tokens")
        _require(self.batch_size > 0, "phase batch_size must be positive")
        _require(0 <= self.share <= 1, "phase share must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class PhaseSpan:
    """A phase with its steps: `first_step` up to, not including, `last_step` of the run."""

    length: int
    batch_size: int
    first_step: int
    last_step: int


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser and learning rate (paper, appendix A.2; `optimization.py` of the original).

    `per_replica` treats every data-parallel device as the original treats a TPU core: own loss
    denominator, own clipping, sum of the results.
    """

    name: str = "bert_adam"
    learning_rate: float = 1e-4
    warmup_steps: int = 10_000
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    per_replica: bool = False

    def __post_init__(self) -> None:
        _require(
            self.name in ("bert_adam", "adamw", "lamb"),
            f"optimizer.name {self.name!r} is not known: use 'bert_adam', 'adamw' or 'lamb'",
        )
        for name in ("learning_rate", "epsilon", "clip_norm"):
            _require(getattr(self, name) > 0, f"optimizer.{name} must be positive")
        for name in ("warmup_steps", "weight_decay"):
            _require(getattr(self, name) >= 0, f"optimizer.{name} must not be negative")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name} must lie in [0, 1)")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they are made (`create_pretraining_data.py`).

    `store` is a path, or several with their shares of the examples: "wiki:0.7,books:0.3". `pairs`
    are "next_sentence", "sentence_order" (ALBERT) or "none" (RoBERTa: packed full sentences).
    `dupe_factor` 0 makes masks that never come again; d repeats them every d epochs, as the d
    copies in the original's files do.
    """

    store: str
    pairs: str = "next_sentence"
    short_sequence_probability: float = 0.1
    whole_word: bool = False
    dupe_factor: int = 0
    reader: str = "auto"

    def __post_init__(self) -> None:
        _require(
            self.store != "",
            "data.store is empty: name a directory made by `python -m data_pipeline.prepare`",
        )
        _require(
            0 <= self.short_sequence_probability <= 1,
            "data.short_sequence_probability must lie in [0, 1]",
        )
        _require(
            self.pairs in ("next_sentence", "sentence_order", "none"),
            f"data.pairs {self.pairs!r} is not known: use 'next_sentence', 'sentence_order' or "
            "'none'",
        )
        _require(self.dupe_factor >= 0, "data.dupe_factor must be positive, or 0 for fresh masks")
        _require(
            self.reader in ("auto", "tf.data", "threads"),
            f"data.reader {self.reader!r} is not known: use 'auto', 'tf.data' or 'threads'",
        )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one axis may be -1: whatever the others leave over.

    `data` keeps a copy of the weights on every device, `fsdp` a share of them, `tensor` divides
    heads, inner layer and vocabulary. With `slices` > 1 the three count the devices of one TPU
    slice. `shard_optimizer` spreads the optimiser's slots, and its work, over `data` (ZeRO 1).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1
    shard_optimizer: bool = False


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Held-out evaluation: every `every` steps on the first `examples` validation examples."""

    every: int
    examples: int
    batch_size: int

    def __post_init__(self) -> None:
        for name in ("every", "examples", "batch_size"):
            _require(getattr(self, name) > 0, f"evaluation.{name} must be positive")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saved every `every` steps; the newest `keep_last` and the best on held-out text stay."""

    every: int
    keep_last: int = 3

    def __post_init__(self) -> None:
        _require(self.every > 0, "checkpoint.every must be positive")
        _require(self.keep_last > 0, "checkpoint.keep_last must be positive")


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """Trace `steps` steps from `first_step` on into the run's tensorboard folder; 0: never."""

    first_step: int = 10
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The whole recipe of a pre-training run."""

    name: str
    seed: int
    steps: int
    phases: dict[str, Phase]
    model: BertConfig
    optimizer: OptimizerConfig
    data: DataConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    mesh: MeshConfig = MeshConfig()
    profile: ProfileConfig = ProfileConfig()
    accumulation: int = 1
    log_every: int = 10
    init_from: str = ""

    def __post_init__(self) -> None:
        _require(self.steps > 0, "steps must be positive")
        _require(self.seed >= 0, "seed must not be negative")
        _require(self.accumulation > 0, "accumulation must be positive")
        _require(self.log_every > 0, "log_every must be positive")
        _require(bool(self.phases), "phases is empty: a run needs at least one")
        total = sum(phase.share for phase in self.phases.values())
        _require(abs(total - 1) < 1e-6, f"the shares of the phases add up to {total:g}, not to 1")
        for name, phase in self.phases.items():
            _require(
                phase.length <= self.model.max_positions,
                f"phases.{name}.length {phase.length} exceeds model.max_positions "
                f"{self.model.max_positions}",
            )
            _require(
                phase.batch_size % self.accumulation == 0,
                f"phases.{name}.batch_size {phase.batch_size} is not a multiple of accumulation "
                f"{self.accumulation}",
            )
        _require(
            self.optimizer.warmup_steps < self.steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} leaves nothing of "
            f"{self.steps} steps",
        )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Checks a nested mapping (`ConfigDict.to_dict()`, JSON) against the fields above.

        Raises:
            ConfigError: an unknown or missing key, a wrong type, or values that contradict.
        """
        return build(cls, mapping, "config")

    def spans(self) -> list[PhaseSpan]:
        """The phases in order of length, with the steps each one covers."""
        spans, first_step, share = [], 0, 0.0
        for phase in sorted(self.phases.values(), key=lambda phase: phase.length):
            share += phase.share
            last_step = round(self.steps * share)
            if last_step > first_step:
                spans.append(PhaseSpan(phase.length, phase.batch_size, first_step, last_step))
            first_step = last_step
        return spans

    def token_slots(self, first_step: int) -> int:
        """Tokens of all batches from `first_step` to the end of the run, padding included."""
        return sum(
            max(0, span.last_step - max(span.first_step, first_step))
            * span.batch_size
            * span.length
            for span in self.spans()
        )
