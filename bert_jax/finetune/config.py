# SPDX-License-Identifier: Apache-2.0
"""The typed view of a fine-tuning recipe (`configs/finetune.py`), checked as `RunConfig` is.

A recipe holds the keys that its task reads; the others keep the defaults below.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from bert_jax.config import BertConfig, CheckpointConfig, MeshConfig, OptimizerConfig
from bert_jax.typed_mapping import build, require

TASKS = ("classification", "regression", "multiple_choice", "question_answering", "tagging")


def words(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated setting, such as "accuracy,f1"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Where labelled rows come from, and which columns hold what.

    `source` is "files" or a TFDS name; `train`, `validation` and `test` are then files or splits,
    of the last two several, separated by commas. The first validation split decides which
    checkpoint is the best. `labels` is the label set in the order of the head's outputs, separated
    by commas; empty takes what stands in the training split, in alphabetical order. `choices` are
    the columns of the endings of a multiple-choice task.
    """

    source: str
    train: str
    validation: str
    test: str = ""
    text_a: str = ""
    text_b: str = ""
    label: str = "label"
    id: str = ""
    labels: str = ""
    choices: str = ""
    tfds_data_dir: str = ""

    def __post_init__(self) -> None:
        for name in ("source", "train", "validation"):
            hint = "a file or a split" if name != "source" else "'files' or a name such as glue/rte"
            require(getattr(self, name) != "", f"data.{name} is empty: name {hint}")
        found = words(self.labels)
        require(len(set(found)) == len(found), f"data.labels names a label twice: {self.labels}")
        require(len(found) != 1, f"data.labels names one label ({self.labels}): at least two")


@dataclasses.dataclass(frozen=True)
class QuestionAnswering:
    """Windows and answers of SQuAD (flags of `run_squad.py`).

    A paragraph is read in windows that start every `doc_stride` pieces; questions are cut to
    `max_query_length`. `impossible` learns and predicts that there is no answer (SQuAD 2.0), and
    predicts it where its score is higher than that of the best answer by `null_threshold`.
    """

    doc_stride: int = 128
    max_query_length: int = 64
    n_best: int = 20
    max_answer_length: int = 30
    impossible: bool = False
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("doc_stride", "max_query_length", "n_best", "max_answer_length"):
            require(getattr(self, name) > 0, f"question_answering.{name} must be positive")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Files of predictions and their words for the labels, both separated by commas.

    There is one file for each test split; empty names them after the splits, and writes the labels.
    """

    files: str = ""
    labels: str = ""


@dataclasses.dataclass(frozen=True)
class FinetuneModel:
    """What may be set about a model whose shape and weights are given."""

    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    compute_dtype: str = "float32"
    unroll: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.head_dropout < 1, "model.head_dropout must lie in [0, 1)")

    def applied_to(self, config: BertConfig) -> BertConfig:
        """The pre-trained model's configuration with these settings."""
        settings = dataclasses.asdict(self)
        del settings["head_dropout"]
        return dataclasses.replace(config, **settings)


@dataclasses.dataclass(frozen=True)
class FinetuneOptimizer:
    """Optimiser and learning rate (paper, appendix A.3; `run_classifier.py`).

    `warmup_share` of all steps warm up. `layer_decay` multiplies the rate once for every layer
    between a parameter and the head; 1 gives every parameter the same rate.
    """

    name: str = "bert_adam"
    learning_rate: float = 2e-5
    warmup_share: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.warmup_share < 1, "optimizer.warmup_share must lie in [0, 1)")
        require(0 < self.layer_decay <= 1, "optimizer.layer_decay must lie in (0, 1]")
        self.over(1)

    def over(self, steps: int) -> OptimizerConfig:
        """The settings of pre-training's optimiser for a run of `steps` steps."""
        settings = dataclasses.asdict(self)
        del settings["warmup_share"], settings["layer_decay"]
        return OptimizerConfig(**settings, warmup_steps=int(steps * self.warmup_share))


@dataclasses.dataclass(frozen=True)
class FinetuneEvaluation:
    """Evaluation every `every` steps (0: after every epoch) and at the end.

    `metrics` are separated by commas; the first one decides which checkpoint is the best.
    """

    metrics: str
    every: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        require(self.every >= 0, "evaluation.every must not be negative")
        require(self.batch_size > 0, "evaluation.batch_size must be positive")
        require(bool(words(self.metrics)), "evaluation.metrics is empty: name at least one")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """The whole recipe of a fine-tuning run."""

    name: str
    task: str
    init_from: str
    length: int
    batch_size: int
    epochs: float
    data: LabelledData
    optimizer: FinetuneOptimizer
    evaluation: FinetuneEvaluation
    model: FinetuneModel = FinetuneModel()
    predictions: Predictions = Predictions()
    question_answering: QuestionAnswering = QuestionAnswering()
    checkpoint: CheckpointConfig = CheckpointConfig(every=1000, keep_last=1)
    mesh: MeshConfig = MeshConfig()
    seed: int = 0
    seeds: int = 1
    frozen_encoder: bool = False
    random_weights: bool = False
    log_every: int = 10

    def __post_init__(self) -> None:
        require(
            self.task in TASKS, f"task {self.task!r} is not known: use one of {', '.join(TASKS)}"
        )
        require(self.init_from != "", "--init_from is missing: name a run or a model directory")
        for name in ("batch_size", "epochs", "seeds", "log_every"):
            require(getattr(self, name) > 0, f"{name} must be positive")
        require(self.seed >= 0, "seed must not be negative")
        require(self.length >= 8, f"length {self.length} is too short: at least 8 tokens")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Checks a nested mapping against the fields above.

        Raises:
            ConfigError: an unknown or missing key, a wrong type, or values that contradict.
        """
        return build(cls, mapping, "config")

    def steps(self, examples: int) -> int:
        """Updates of a run over so many training examples, as in `run_classifier.py`.

        Raises:
            ConfigError: not even one.
        """
        steps = int(examples / self.batch_size * self.epochs)
        require(
            steps > 0,
            f"{examples} training examples in batches of {self.batch_size} over {self.epochs:g} "
            "epochs make no step: set batch_size lower or epochs higher",
        )
        return steps

    def evaluated_after(self, examples: int) -> frozenset[int]:
        """The steps after which a run over so many training examples is evaluated."""
        steps = self.steps(examples)
        every = self.evaluation.every or examples / self.batch_size
        marks = (round(number * every) for number in range(1, int(steps / every) + 1))
        return frozenset({steps, *(mark for mark in marks if 0 < mark <= steps)})
