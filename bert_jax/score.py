# SPDX-License-Identifier: Apache-2.0
"""Command: held-out figures of a trained run on a store.

    python -m bert_jax.score --checkpoint=runs/demo --store=runs/demo/store [--examples=2048]

Prints MLM loss (nats), perplexity and accuracy, NSP accuracy with its standard error, and beside
them what a model without context could reach on the very same masks: the unigram entropy.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from bert_jax import partitioning
from bert_jax.checkpoint import load_params
from bert_jax.config import MeshConfig, RunConfig
from bert_jax.evaluate import HeldOut
from bert_jax.model import init_params
from bert_jax.run_directory import read_config, write_json
from bert_jax.train import example_options
from bert_jax.train_step import make_eval_step
from data_pipeline.errors import DataError, UsageError, run_command
from data_pipeline.store import open_store

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory of the run.")
_STORE = flags.DEFINE_string("store", None, "Store whose validation split is scored.")
_EXAMPLES = flags.DEFINE_integer("examples", 2048, "Held-out examples a length.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Rows a step.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the figures to this file.")


def score(
    run_directory: Path, store_path: Path, *, examples: int, batch_size: int
) -> dict[str, dict[str, float]]:
    """Figures of the newest good checkpoint of a run, by sequence length.

    Raises:
        DataError: the run and the store have different vocabularies, or hold nothing usable.
    """
    described = read_config(run_directory)
    config = RunConfig.from_mapping(described["config"])
    store = open_store(store_path)
    if store.manifest["tokenizer"]["fingerprint"] != described["tokenizer_fingerprint"]:
        raise DataError(
            f"{run_directory} and {store_path} were made with different vocabularies: prepare the "
            f"text again with --tokenizer={run_directory}/tokenizer"
        )
    mesh = partitioning.make_mesh(MeshConfig())
    shapes = jax.eval_shape(lambda: init_params(config.model, jax.random.key(0)))
    abstract = partitioning.with_shardings(mesh, shapes)
    params, _ = load_params(run_directory, abstract)
    step = jax.jit(make_eval_step(config.model))
    batch_size = -(-batch_size // mesh.devices.size) * mesh.devices.size
    options = example_options(config)
    return {
        str(span.length): HeldOut(
            store, length=span.length, examples=examples, batch_size=batch_size, options=options
        ).evaluate(params, step, mesh)
        for span in config.spans()
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as lines of text, one column a sequence length."""
    rows = [
        ("held-out examples", lambda f: f"{f['examples']}"),
        ("MLM loss (nats)", lambda f: f"{f['mlm_loss']:.3f}"),
        ("unigram entropy (nats)", lambda f: f"{f['unigram_entropy']:.3f}"),
        ("below the unigram plateau", lambda f: f"{f['unigram_entropy'] - f['mlm_loss']:+.3f}"),
        ("MLM perplexity", lambda f: f"{math.exp(f['mlm_loss']):.1f}"),
        ("MLM accuracy", lambda f: f"{f['mlm_accuracy']:.1%}"),
        ("NSP accuracy", lambda f: f"{f['nsp_accuracy']:.1%} ± {f['nsp_standard_error']:.1%}"),
        ("NSP, always guessing random", lambda f: f"{f['random_share']:.1%}"),
    ]
    lines = ["tokens a sequence".ljust(30) + "".join(length.rjust(16) for length in figures)]
    for label, show in rows:
        lines.append(label.ljust(30) + "".join(show(f).rjust(16) for f in figures.values()))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and prints the table."""
    if len(arguments) > 1 or not _CHECKPOINT.value or not _STORE.value:
        raise UsageError("--checkpoint=RUN and --store=STORE are needed, and nothing else")
    figures = score(
        Path(_CHECKPOINT.value),
        Path(_STORE.value),
        examples=_EXAMPLES.value,
        batch_size=_BATCH_SIZE.value,
    )
    print(table(figures))
    if _JSON.value:
        write_json(Path(_JSON.value), figures)


if __name__ == "__main__":
    run_command(main)
