# SPDX-License-Identifier: Apache-2.0
"""The README.md of a converted model: recipe, data, figures and licence as a run recorded them."""

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax import run_directory
from bert_jax.config import BertConfig
from bert_jax.convert.files import read_json
from bert_jax.convert.load import Pretrained, find_format
from data_pipeline.errors import UserError
from data_pipeline.mixture import BLOCK, open_mixture

SOURCE_CARD = "SOURCE_README.md"  # the card that came with weights of another origin

FRONT_MATTER = """---
library_name: transformers
pipeline_tag: {task}
{licence}tags:
- bert
- jax
---
"""
_TRANSFORMERS = """## Use

```python
from transformers import pipeline

run = pipeline("{task}", model="{directory}")
print(run("The ship sailed across the {blank}."))
```
"""
_ORIGINAL = """## Use

With the scripts of google-research/bert:

```
python run_classifier.py --bert_config_file={directory}/bert_config.json \\
  --vocab_file={directory}/vocab.txt --init_checkpoint={directory}/bert_model.ckpt \\
  --do_lower_case={lower_case} ...
```
"""
_HEADS = {
    "pooler": "pooler",
    "mlm": "masked-LM head",
    "nsp": "next-sentence head (label 0: the second text follows the first, 1: it does not)",
}


def model_card(source: Path, target: Path, found: Pretrained, target_format: str) -> str:
    """Text of README.md.

    Args:
        source: directory that is converted.
        target: where the result goes, for the example.
        found: the model that is converted.
        target_format: of `bert_jax.convert.load.FORMATS`.
    """
    is_run = find_format(source) == "orbax"
    described: dict[str, Any] = {"config": {}, "imported_from": source.name}
    if is_run:
        described = run_directory.read_config(source)
    recipe = described["config"]
    summary_path = source / "summary.json"
    summary = read_json(summary_path) if is_run and summary_path.exists() else {}
    carried = any((source / name).exists() for name in (SOURCE_CARD, "README.md"))
    sections = [
        f"# {recipe.get('name', target.name)}\n",
        _origin(described, carried),
        table("Model", model_rows(found.config, summary)),
        _use(found, target.name, target_format),
        _parts(found),
    ]
    if target_format == "huggingface":
        sections.insert(0, FRONT_MATTER.format(task=_task(found), licence=_source_licence(source)))
    if "phases" in recipe:
        sections.append(table("Training", _recipe_rows(recipe, summary)))
        sections.append(_data(recipe["data"]["store"]))
    if "validation_by_length" in summary:
        sections.append(_figures(summary["validation_by_length"]))
    return "\n".join(sections)


def _origin(described: dict[str, Any], carried: bool) -> str:
    version = importlib.metadata.version("bert-jax")
    if "imported_from" not in described:
        return f"BERT, pre-trained from scratch in JAX by bert_jax {version}.\n"
    text = f"BERT, converted by bert_jax {version} from {described['imported_from']}."
    if carried:
        text += f" Data, licence and figures are those of the source: see {SOURCE_CARD}."
    return text + "\n"


def _task(found: Pretrained) -> str:
    return "feature-extraction" if "mlm" in found.missing else "fill-mask"


def _use(found: Pretrained, directory: str, target_format: str) -> str:
    if target_format == "google":
        lower_case = found.tokenizer.settings["lower_case"]
        return _ORIGINAL.format(directory=directory, lower_case=lower_case)
    mask = found.tokenizer.tokens[found.tokenizer.special.mask]
    blank = "sea" if "mlm" in found.missing else mask
    return _TRANSFORMERS.format(task=_task(found), directory=directory, blank=blank)


def _parts(found: Pretrained) -> str:
    there = ["encoder", *(text for head, text in _HEADS.items() if head not in found.missing)]
    text = f"The weights: {', '.join(there)}."
    if found.missing:
        text += f" Never trained, and not here: {', '.join(found.missing)}."
    return text + "\n"


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A section with a table of names and values."""
    lines = [f"## {title}\n", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def model_rows(config: BertConfig, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes."""
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
    pairs = recipe["data"].get("pairs", "next_sentence").replace("_", " ")
    objectives = "masked LM" if pairs == "none" else f"masked LM, {pairs}"
    rows = {"objectives": objectives, "steps": f"{recipe['steps']:,}"}
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


def _data(store: str) -> str:
    try:
        mixture = open_mixture(store)
    except UserError:
        return "## Data and licence\n\nThe store is no longer where the run read it.\n"
    rows = {}
    for part, quota in zip(mixture.stores, mixture.quotas, strict=True):
        manifest = part.manifest
        share = f", {quota / BLOCK:.1%} of the examples" if len(mixture.stores) > 1 else ""
        corpus = manifest.get("name", part.path.name)
        rows[f"corpus {corpus}"] = f"licence: {manifest.get('licence') or 'not recorded'}{share}"
        if manifest.get("provenance"):
            rows[f"{corpus}, provenance"] = manifest["provenance"]
        for split, counts in manifest["splits"].items():
            text = f"{counts['documents']:,} documents, {counts['tokens']:,} tokens"
            rows[f"{corpus}, {split}"] = text
    return table("Data and licence", rows)


def _figures(by_length: dict[str, dict[str, float]]) -> str:
    lines = [
        "## Figures on held-out documents\n",
        "| tokens | MLM loss (nats) | unigram entropy (nats) | MLM accuracy | NSP accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for length, figures in by_length.items():
        nsp = f"{figures['nsp_accuracy']:.1%}" if "nsp_accuracy" in figures else "not trained"
        lines.append(
            f"| {length} | {figures['mlm_loss']:.3f} | {figures['unigram_entropy']:.3f} "
            f"| {figures['mlm_accuracy']:.1%} | {nsp} |"
        )
    return "\n".join([*lines, ""])


def _source_licence(source: Path) -> str:
    """The line "license: ..." of the front matter of the source's card, or nothing."""
    for name in (SOURCE_CARD, "README.md"):
        if (source / name).exists():
            text = (source / name).read_text("utf-8", errors="replace")
            front = re.match(r"---\n(.*?)\n---\n", text, re.S)
            line = re.search(r"^license: *[\w.-]+$", front[1], re.M) if front else None
            return f"{line[0]}\n" if line else ""
    return ""
