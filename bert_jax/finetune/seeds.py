# SPDX-License-Identifier: Apache-2.0
"""One seed in the work directory itself, or several, one after another, in sub-directories."""

import contextlib
import hashlib
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import agreement, preflight, run_directory, run_lock
from bert_jax.convert.mapping import flatten
from bert_jax.finetune import directory
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.loop import finetune
from bert_jax.finetune.setup import Setup, prepare


def finetune_seeds(
    config: FinetuneConfig, workdir: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Runs or resumes every seed of `config` in `workdir`.

    Returns:
        The content of summary.json: of the only seed, or median, least and most of all of them.

    Raises:
        UserError: anything the user can put right; what was saved stays intact.
    """
    with contextlib.ExitStack() as stack:
        agreement.from_primary(lambda: stack.enter_context(run_lock.exclusive(workdir)))
        setup = prepare(config)
        _check_hosts(setup, workdir)
        if config.seeds == 1:
            summary = finetune(setup, config.seed, workdir, overwrite)
        else:
            summaries = [
                finetune(setup, seed, workdir / f"seed-{seed}", overwrite)
                for seed in range(config.seed, config.seed + config.seeds)
            ]
            summary = summarize(summaries)
            agreement.from_primary(
                lambda: run_directory.write_json(workdir / "summary.json", summary)
            )
    return summary


def _check_hosts(setup: Setup, workdir: Path) -> None:
    """Do all hosts mean the same run, with the same weights and data?

    Raises:
        UserError: of `preflight.check`.
    """
    if agreement.processes() == 1:
        return
    weights = hashlib.sha256()
    for path, array in sorted(flatten(setup.encoder).items()):
        weights.update(path.encode() + np.ascontiguousarray(array).tobytes())
    splits = {**setup.task.validation, **setup.task.test}
    found = directory.description(setup.config, setup.model, setup.tokenizer, setup.task)
    found["weights"] = weights.hexdigest()
    found["splits"] = {name: examples.fingerprint for name, examples in splits.items()}
    preflight.check(found, workdir)


def summarize(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of every figure over the seeds, and the figures of each."""
    splits = summaries[0]["validation"]
    return {
        "name": summaries[0]["name"],
        "seeds": [summary["seed"] for summary in summaries],
        "selection": summaries[0]["selection"],
        "validation": {
            split: {
                figure: _spread([summary["validation"][split][figure] for summary in summaries])
                for figure in figures
                if figure != "examples"
            }
            for split, figures in splits.items()
        },
        "runs": summaries,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "each": values,
    }


def table(summary: dict[str, Any]) -> str:
    """The figures of a summary as lines of text."""
    lines = []
    for split, figures in summary["validation"].items():
        for name, value in figures.items():
            if name == "examples":
                continue
            shown = (
                f"{value:.4f}"
                if isinstance(value, float)
                else (
                    f"{value['median']:.4f} (median; {value['least']:.4f} to {value['most']:.4f})"
                )
            )
            lines.append(f"{split}  {name.ljust(12)} {shown}")
    return "\n".join(lines)
