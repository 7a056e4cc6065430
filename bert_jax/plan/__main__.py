# SPDX-License-Identifier: Apache-2.0
r"""Command: what a run would need and take on a slice of TPUs, before one is rented.

    python -m bert_jax.plan --config=configs/pretrain.py:base,pod --slice=v4-32 --price=3.22

Compiles the training step of every phase for the slice with the TPU compiler, on any x86-64 Linux
machine, and prints a table; beside it a JSON file and a picture in `--output`. No store is needed:
`--vocab_size` stands in for its vocabulary. Several slices: `--config.mesh.slices=2`. Results of
the compiler are kept in `--cache`, so that asking again takes seconds. Exit codes: 0 it fits as it
is, 1 it does not (what makes it fit is in the table), 64 command line, 69 no compiler, 78 config.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from bert_jax.plan import report
from bert_jax.plan.compiler import DEFAULT_CACHE
from bert_jax.plan.planning import make_plan
from bert_jax.plan.recipe import load
from bert_jax.slices import find_slice
from data_pipeline.errors import UsageError, run_command


def main(arguments: Sequence[str]) -> None:
    """Checks the command line, compiles, and writes the plan in its three forms."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    if _CONFIG.value is None or not _SLICE.value:
        raise UsageError("--config=RECIPE and --slice=NAME are needed, for example --slice=v4-32")
    try:
        mapping = _CONFIG.value.to_dict()
    except OSError as error:  # config_flags keeps what went wrong until the value is asked for
        raise UsageError(f"the recipe that --config names cannot be loaded: {error}") from error
    config = load(mapping, _VOCAB_SIZE.value)
    where = find_slice(_SLICE.value, config.mesh.slices)
    cache = Path(_CACHE.value).expanduser() if _CACHE.value else None
    jax.config.update("jax_platforms", "cpu")  # JAX would take libtpu for a TPU
    plan = make_plan(config, where, _PRICE.value, cache, _say)
    print(report.as_text(plan))
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    name = f"{config.name}-{where.name}"
    (output / f"{name}.json").write_text(json.dumps(report.as_json(plan), indent=2) + "\n")
    report.draw(plan, output / f"{name}.svg")
    print(f"written: {output / name}.json and .svg")
    if not plan.fits:
        sys.exit(1)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/pretrain.py.")
    _SLICE = flags.DEFINE_string("slice", None, "Accelerator type, for example v4-32.")
    _VOCAB_SIZE = flags.DEFINE_integer(
        "vocab_size", 30522, "Entries of the vocabulary, where the recipe leaves it to the store."
    )
    _PRICE = flags.DEFINE_float("price", 0.0, "Dollars a chip and hour.", lower_bound=0.0)
    _OUTPUT = flags.DEFINE_string("output", "plans", "Directory for the JSON file and the picture.")
    _CACHE = flags.DEFINE_string("cache", str(DEFAULT_CACHE), "Results kept here; empty: nowhere.")
    run_command(main)
