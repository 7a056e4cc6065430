# SPDX-License-Identifier: Apache-2.0
"""The typed view of a run's configuration.

A recipe in `configs/` is an `ml_collections` config; `RunConfig.from_mapping` turns it into the
frozen dataclasses below, which are all that the rest of the code sees. Every key has a field here,
so a key that nobody reads cannot exist, and an unknown key or a wrong type is refused by name.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from bert_jax.model_config import BertConfig
from bert_jax.typed_mapping import build, require


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the run at one sequence length; `share` of all steps (paper: 0.9 and 0.1)."""

    length: int
    batch_size: int
    share: float

    def __post_init__(self) -> None:
        require(self.length >= 8, f"phase length {self.length} is too short: at least 8 tokens")
        require(self.batch_size > 0, "phase batch_size must be positive")
        require(0 <= self.share <= 1, "phase share must lie in [0, 1]")


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
        require(
            self.name in ("bert_adam", "adamw", "lamb"),
            f"optimizer.name {self.name!r} is not known: use 'bert_adam', 'adamw' or 'lamb'",
        )
        for name in ("learning_rate", "epsilon", "clip_norm"):
            require(getattr(self, name) > 0, f"optimizer.{name} must be positive")
        for name in ("warmup_steps", "weight_decay"):
            require(getattr(self, name) >= 0, f"optimizer.{name} must not be negative")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name} must lie in [0, 1)")


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
        require(
            self.store != "",
            "data.store is empty: name a directory made by `python -m data_pipeline.prepare`",
        )
        require(
            0 <= self.short_sequence_probability <= 1,
            "data.short_sequence_probability must lie in [0, 1]",
        )
        require(
            self.pairs in ("next_sentence", "sentence_order", "none"),
            f"data.pairs {self.pairs!r} is not known: use 'next_sentence', 'sentence_order' or "
            "'none'",
        )
        require(self.dupe_factor >= 0, "data.dupe_factor must be positive, or 0 for fresh masks")
        require(
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
            require(getattr(self, name) > 0, f"evaluation.{name} must be positive")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Saved every `every` steps; the newest `keep_last` and the best on held-out text stay."""

    every: int
    keep_last: int = 3

    def __post_init__(self) -> None:
        require(self.every > 0, "checkpoint.every must be positive")
        require(self.keep_last > 0, "checkpoint.keep_last must be positive")


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
        require(self.steps > 0, "steps must be positive")
        require(self.seed >= 0, "seed must not be negative")
        require(self.accumulation > 0, "accumulation must be positive")
        require(self.log_every > 0, "log_every must be positive")
        require(bool(self.phases), "phases is empty: a run needs at least one")
        total = sum(phase.share for phase in self.phases.values())
        require(abs(total - 1) < 1e-6, f"the shares of the phases add up to {total:g}, not to 1")
        for name, phase in self.phases.items():
            require(
                phase.length <= self.model.max_positions,
                f"phases.{name}.length {phase.length} exceeds model.max_positions "
                f"{self.model.max_positions}",
            )
            require(
                phase.batch_size % self.accumulation == 0,
                f"phases.{name}.batch_size {phase.batch_size} is not a multiple of accumulation "
                f"{self.accumulation}",
            )
        require(
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
