# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself: the opening line, and summary.json at the end."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.config import BertConfig, RunConfig
from bert_jax.run_directory import versions


def count_parameters(config: BertConfig, params: Any) -> int:
    """Number of parameters, without the rows that pad the vocabulary."""
    padding = (config.padded_vocab_size - config.vocab_size) * (config.hidden_size + 1)
    return sum(leaf.size for leaf in jax.tree.leaves(params)) - padding


def opening(config: RunConfig, mesh: Mesh, parameters: int, step: int) -> str:
    """What is about to be trained, on what, and from which step."""
    phases = ", then ".join(
        f"{span.last_step - span.first_step:,} steps of {span.batch_size} x {span.length} tokens"
        for span in config.spans()
    )
    devices = f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}"
    lines = [f"{config.name}: {parameters:,} parameters on {devices}; {phases}"]
    if step == config.steps:
        lines.append(f"all {step:,} steps are made: nothing left to train")
    elif step > 0:
        lines.append(f"resuming after step {step:,} of {config.steps:,}")
    return "\n".join(lines)


def figures(
    config: RunConfig,
    *,
    parameters: int,
    progress: dict[str, Any],
    input_wait_share: float,
    validation: dict[int, dict[str, float]],
) -> dict[str, Any]:
    """Content of summary.json; `validation` is that of the last phase's length.

    Args:
        progress: step, tokens_seen (without padding) and wall_seconds.
        validation: held-out figures by sequence length.
    """
    spans = config.spans()
    return {
        "name": config.name,
        "parameters": parameters,
        "steps": progress["step"],
        "tokens_seen": progress["tokens_seen"],
        "wall_seconds": round(progress["wall_seconds"], 1),
        "tokens_per_second": round(progress["tokens_seen"] / progress["wall_seconds"], 1),
        "input_wait_share": input_wait_share,
        "phases": [dataclasses.asdict(span) for span in spans],
        "validation": validation[spans[-1].length],
        "validation_by_length": {str(length): found for length, found in validation.items()},
        "versions": versions(),
    }
