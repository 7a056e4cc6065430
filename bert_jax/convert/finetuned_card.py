# SPDX-License-Identifier: Apache-2.0
"""The README.md of a fine-tuned model: what it answers, recipe, data and figures of its run.

Of files and models it names the last part of the path: the rest is nobody else's business.
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.convert.finetuned import Finetuned
from bert_jax.convert.model_card import FRONT_MATTER, model_rows, table

_PIPELINE = """## Use

```python
from transformers import pipeline

run = pipeline("{pipeline}", model="{directory}")
print(run({example}))
```
"""
_CHOICE = """## Use

```python
from transformers import AutoModelForMultipleChoice, AutoTokenizer

model = AutoModelForMultipleChoice.from_pretrained("{directory}")
tokenizer = AutoTokenizer.from_pretrained("{directory}")
endings = ["across the sea.", "under the hill."]
inputs = tokenizer(["The ship sailed"] * 2, endings, padding=True, return_tensors="pt")
print(endings[model(**{{name: ids[None] for name, ids in inputs.items()}}).logits.argmax()])
```
"""
_SCRIPT = """## Use

With the scripts of google-research/bert:

```
python {script} --bert_config_file={directory}/bert_config.json \\
  --vocab_file={directory}/vocab.txt --init_checkpoint={directory}/bert_model.ckpt \\
  --do_lower_case={lower_case} --do_predict=true ...
```
"""
_EXAMPLES = {
    "text-classification": '"The ship sailed across the sea."',
    "token-classification": '"The ship sailed across the sea."',
    "question-answering": 'question="What sailed?", context="The ship sailed across the sea."',
}


def finetuned_card(
    found: Finetuned, summary: Mapping[str, Any], directory: str, target_format: str
) -> str:
    """Text of README.md.

    Args:
        found: the model that is converted.
        summary: content of the run's summary.json; empty for a run that has not ended.
        directory: name of the result, for the example.
        target_format: "huggingface" or "google".
    """
    recipe, labels = found.described["finetune"], found.described["task"]["labels"]
    version = importlib.metadata.version("bert-jax")
    sections = [
        f"# {recipe['name']}\n",
        f"BERT, fine-tuned in JAX by bert_jax {version} for {recipe['task'].replace('_', ' ')}.\n",
        table("Model", model_rows(found.config, {})),
        _use(found, directory, target_format),
    ]
    if target_format == "huggingface":
        task = found.names.pipeline or "multiple-choice"
        sections.insert(0, FRONT_MATTER.format(task=task, licence=""))
    if labels:
        sections.append(f"Labels, in the order of the logits: {', '.join(labels)}.\n")
    sections.append(table("Training", _training(recipe, summary)))
    sections.append(_data(recipe, summary))
    if summary:
        sections.append(_figures(summary))
    return "\n".join(sections)


def _use(found: Finetuned, directory: str, target_format: str) -> str:
    names = found.names
    if target_format == "google":
        script = "run_squad.py" if names.google else "run_classifier.py"
        lower_case = found.tokenizer.settings["lower_case"]
        return _SCRIPT.format(script=script, directory=directory, lower_case=lower_case)
    if not names.pipeline:
        return _CHOICE.format(directory=directory)
    example = _EXAMPLES[names.pipeline]
    return _PIPELINE.format(pipeline=names.pipeline, directory=directory, example=example)


def _training(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    optimizer = recipe["optimizer"]
    rows: dict[str, Any] = {
        "started from": "random weights"
        if recipe["random_weights"]
        else Path(recipe["init_from"]).name,
        "epochs": f"{recipe['epochs']:g}",
        "batch": recipe["batch_size"],
        "tokens": recipe["length"],
        "optimiser": optimizer["name"],
        "learning rate": f"{optimizer['learning_rate']:g}, warm-up over "
        f"{optimizer['warmup_share']:.0%} of the steps, linear decay",
        "dropout": f"{recipe['model']['hidden_dropout']:g}, before the head "
        f"{recipe['model']['head_dropout']:g}",
        "seed": recipe["seed"],
    }
    if optimizer["layer_decay"] < 1:
        rows["rate falls layer by layer by"] = optimizer["layer_decay"]
    if recipe["frozen_encoder"]:
        rows["frozen"] = "embeddings and encoder"
    if summary:
        rows["steps"] = f"{summary['steps']:,}, of which step {summary['best_step']:,} is this one"
    return rows


def _data(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    data = recipe["data"]
    rows = {"source": data["source"]}
    for split in ("train", "validation"):
        rows[split] = ", ".join(Path(name).name for name in data[split].split(","))
    if summary:
        rows["training examples"] = f"{summary['training_examples']:,}"
    return table("Data", rows) + (
        "\nThe licence is that of the model it started from and of this data; a fine-tuning run "
        "records neither.\n"
    )


def _figures(summary: Mapping[str, Any]) -> str:
    rows = {}
    for split, figures in summary["validation"].items():
        for name, value in figures.items():
            shown = f"{value:,}" if name == "examples" else f"{value:.4f}"
            rows[f"{Path(split).name}, {name}"] = shown
    return table("Figures", rows)
