# SPDX-License-Identifier: Apache-2.0
"""Which module makes the task that a recipe names."""

from bert_jax.finetune import classification, question_answering, tagging
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.task import Task
from data_pipeline.errors import ConfigError
from data_pipeline.tokenizers import Tokenizer


def build_task(config: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """The task of a recipe, with its data read.

    Raises:
        DataError: the data cannot be used; with the place.
        ConfigError: settings that contradict each other.
    """
    match config.task:
        case "classification" | "regression" | "multiple_choice":
            return classification.build(config, tokenizer)
        case "question_answering":
            return question_answering.build(config, tokenizer)
        case "tagging":
            return tagging.build(config, tokenizer)
        case _:
            raise ConfigError(f"task {config.task!r} is not known")
