# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning runs: out with the head on top of the encoder, under the names of other formats."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax import partitioning, run_directory
from bert_jax.checkpoint import load_params
from bert_jax.config import BertConfig, MeshConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.mapping import Parameters, export_tensors
from bert_jax.convert.names import GOOGLE, HUGGINGFACE, Naming
from bert_jax.model import ENCODER_PARTS, init_params
from bert_jax.typed_mapping import build
from data_pipeline.errors import DataError
from data_pipeline.tokenizers import Tokenizer, load_tokenizer


class HeadNames(NamedTuple):
    """What a task's head is called elsewhere; both formats keep its matrix as [out, in].

    Attributes:
        architecture: class of `transformers`.
        pipeline: the pipeline of `transformers` that runs it; empty where there is none.
        pooler: whether that class has a pooler.
        huggingface: of weights and bias, without ".weight" and ".bias".
        google: of the same, without "output_weights" and "output_bias", in the checkpoints of
            `run_classifier.py` and `run_squad.py`; None where the original has no such script.
    """

    architecture: str
    pipeline: str
    pooler: bool
    huggingface: str
    google: str | None


HEAD_NAMES = {
    "classification": HeadNames(
        "BertForSequenceClassification", "text-classification", True, "classifier", ""
    ),
    "regression": HeadNames(
        "BertForSequenceClassification", "text-classification", True, "classifier", None
    ),
    "multiple_choice": HeadNames("BertForMultipleChoice", "", True, "classifier", None),
    "question_answering": HeadNames(
        "BertForQuestionAnswering", "question-answering", False, "qa_outputs", "cls/squad/"
    ),
    "tagging": HeadNames(
        "BertForTokenClassification", "token-classification", False, "classifier", None
    ),
}


class Finetuned(NamedTuple):
    """A fine-tuned model.

    Attributes:
        config: the model.
        params: embeddings, encoder, pooler and the task's head, float32 on the host.
        tokenizer: the one it was trained with.
        described: what config.json says of the run.
        step: the step that the parameters are of, the best one.
    """

    config: BertConfig
    params: Parameters
    tokenizer: Tokenizer
    described: dict[str, Any]
    step: int | None

    @property
    def names(self) -> HeadNames:
        """What the head is called elsewhere."""
        return HEAD_NAMES[self.described["finetune"]["task"]]


def load_finetuned(directory: Path) -> Finetuned:
    """The best checkpoint of a finished run; of one that has not ended, the newest.

    Raises:
        DataError: nothing in it can be trusted, or the tokenizer is another one.
    """
    described = run_directory.read_config(directory)
    tokenizer = load_tokenizer(directory / "tokenizer")
    if tokenizer.fingerprint != described["tokenizer_fingerprint"]:
        raise DataError(
            f"{directory / 'tokenizer'} is not the tokenizer that this run was trained with"
        )
    config: BertConfig = build(BertConfig, described["model"], "model")
    mesh = partitioning.make_mesh(MeshConfig(), jax.local_devices()[:1])
    shapes = finetuned_shapes(config, described["task"]["outputs"], mesh)
    chosen, step = directory, None
    if (directory / "summary.json").exists():
        step = read_json(directory / "summary.json")["best_step"]
        chosen = directory / "checkpoints" / str(step)
    params, _ = load_params(chosen, shapes)
    return Finetuned(config, jax.device_get(params), tokenizer, described, step)


def finetuned_shapes(config: BertConfig, outputs: int, mesh: Mesh) -> dict[str, Any]:
    """Shapes of a fine-tuned model's parameters, with their shardings."""
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    head = {
        "kernel": jax.ShapeDtypeStruct((config.hidden_size, outputs), np.float32),
        "bias": jax.ShapeDtypeStruct((outputs,), np.float32),
    }
    parts = {part: shapes[part] for part in ENCODER_PARTS}
    return partitioning.with_shardings(mesh, parts | {"head": head})


def check_google(found: Finetuned) -> None:
    """Refuses a task that no script of the original reads.

    Raises:
        DataError: naming those that do.
    """
    if found.names.google is None:
        raise DataError(
            f"the original has no script for the task {found.described['finetune']['task']}, only "
            "run_classifier.py and run_squad.py: use --to=huggingface"
        )


def finetuned_tensors(found: Finetuned, naming: Naming) -> dict[str, np.ndarray]:
    """All tensors of a fine-tuned model under the names of a format.

    A pooler that the class of `transformers` does not have is left out; the task never asked it.
    """
    names, params = found.names, found.params
    kept = [part for part in ENCODER_PARTS if part != "pooler" or names.pooler or naming is GOOGLE]
    tensors = export_tensors(found.config, {part: params[part] for part in kept}, naming)
    if naming is HUGGINGFACE:
        weights, bias = f"{names.huggingface}.weight", f"{names.huggingface}.bias"
    else:
        weights, bias = f"{names.google}output_weights", f"{names.google}output_bias"
    head = params["head"]
    return tensors | {
        weights: np.array(head["kernel"].T, order="C"),
        bias: np.array(head["bias"]),
    }


def finetuned_settings(found: Finetuned) -> dict[str, Any]:
    """What config.json of a Hugging Face directory says of the head."""
    recipe, labels = found.described["finetune"], found.described["task"]["labels"]
    settings: dict[str, Any] = {
        "architectures": [found.names.architecture],
        "classifier_dropout": recipe["model"]["head_dropout"],
    }
    if recipe["task"] == "regression":
        settings["problem_type"] = "regression"
        labels = [recipe["data"]["label"]]
    if recipe["task"] == "classification":
        settings["problem_type"] = "single_label_classification"
    if recipe["task"] in ("classification", "regression", "tagging"):
        settings["id2label"] = {str(number): label for number, label in enumerate(labels)}
        settings["label2id"] = {label: number for number, label in enumerate(labels)}
    return settings
