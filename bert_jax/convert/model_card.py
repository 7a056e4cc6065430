# SPDX-License-Identifier: Apache-2.0
"""The README.md of an export: recipe, data, figures and licence, from what the run recorded."""

import importlib.metadata
from pathlib import Path
from typing import Any

from bert_jax import run_directory
from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json

_FRONT_MATTER = """---
library_name: transformers
pipeline_tag: fill-mask
tags:
- bert
- jax
---
"""
_USE = """
## Use

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="{directory}")
print(fill("The ship sailed across the {mask}."))
```

The weights are a `BertForPreTraining`: encoder, pooler, masked-LM head and next-sentence head
(label 0: the second text follows the first, 1: it does not).
"""


def model_card(directory: Path, config: BertConfig, target: Path, mask: str) -> str:
    """Text of README.md.

    Args:
        directory: the run that is exported.
        config: its model.
        target: where the export goes, for the example.
        mask: the mask token.
    """
    described = run_directory.read_config(directory)
    recipe = described["config"]
    summary_path = directory / "summary.json"
    summary = read_json(summary_path) if summary_path.exists() else {}
    sections = [
        _FRONT_MATTER,
        f"# {recipe.get('name', target.name)}\n",
        _origin(described),
        _table("Model", _model_rows(config, summary)),
        _USE.format(directory=target.name, mask=mask),
    ]
    if "phases" in recipe:
        sections.append(_table("Training", _recipe_rows(recipe, summary)))
        sections.append(_data(Path(recipe["data"]["store"]) / "store.json"))
    if "validation_by_length" in summary:
        sections.append(_figures(summary["validation_by_length"]))
    return "\n".join(sections)


def _origin(described: dict[str, Any]) -> str:
    version = importlib.metadata.version("bert-jax")
    if "imported_from" in described:
        text = f"BERT, converted by bert_jax {version} from {described['imported_from']}."
        if described["fresh_heads"]:
            text += f" These heads have random values: {', '.join(described['fresh_heads'])}."
        return text + "\n"
    return f"BERT, pre-trained from scratch in JAX by bert_jax {version}.\n"


def _table(title: str, rows: dict[str, Any]) -> str:
    lines = [f"\n## {title}\n", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def _model_rows(config: BertConfig, summary: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "layers": config.num_layers,
        "hidden size": config.hidden_size,
        "heads": config.num_heads,
        "vocabulary": f"{config.vocab_size:,}",
        "positions": config.max_positions,
        "activation": config.activation,
    }
    if "parameters" in summary:
        rows["parameters"] = f"{summary['parameters']:,}"
    return rows


def _recipe_rows(recipe: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    optimizer = recipe["optimizer"]
    rows = {"objectives": "masked LM, next sentence", "steps": f"{recipe['steps']:,}"}
    for phase in sorted(recipe["phases"].values(), key=lambda phase: phase["length"]):
        rows[f"at {phase['length']} tokens"] = (
            f"{phase['share']:.0%} of the steps, batch {phase['batch_size']}"
        )
    rows["optimiser"] = optimizer["name"]
    rows["learning rate"] = (
        f"{optimizer['learning_rate']:g}, {optimizer['warmup_steps']:,} steps of warm-up, "
        "linear decay"
    )
    rows["dropout"] = recipe["model"]["hidden_dropout"]
    rows["precision"] = recipe["model"]["compute_dtype"]
    rows["seed"] = recipe["seed"]
    if "tokens_seen" in summary:
        rows["tokens seen"] = f"{summary['tokens_seen']:,}"
        rows["hours"] = f"{summary['wall_seconds'] / 3600:.2f}"
    return rows


def _data(manifest_path: Path) -> str:
    if not manifest_path.exists():
        return "\n## Data and licence\n\nThe store is no longer where the run read it.\n"
    manifest = read_json(manifest_path)
    rows = {"corpus": manifest.get("name", "unnamed")}
    for split, counts in manifest["splits"].items():
        rows[split] = f"{counts['documents']:,} documents, {counts['tokens']:,} tokens"
    for name in ("licence", "provenance"):
        if manifest.get(name):
            rows[name] = manifest[name]
    return _table("Data and licence", rows)


def _figures(by_length: dict[str, dict[str, float]]) -> str:
    lines = [
        "\n## Figures on held-out documents\n",
        "| tokens | MLM loss (nats) | unigram entropy (nats) | MLM accuracy | NSP accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for length, figures in by_length.items():
        lines.append(
            f"| {length} | {figures['mlm_loss']:.3f} | {figures['unigram_entropy']:.3f} "
            f"| {figures['mlm_accuracy']:.1%} | {figures['nsp_accuracy']:.1%} |"
        )
    return "\n".join([*lines, ""])
