# SPDX-License-Identifier: Apache-2.0
r"""Command: what a run would need and take on a slice of TPUs, before one is rented.

    python -m bert_jax.plan --config=configs/pretrain.py:base,pod --slice=v4-32 --price=3.22

Compiles the training step of every phase for the slice with the TPU compiler, on any x86-64 Linux
machine, and prints a table; beside it a JSON file and a picture in `--output`. No store is needed:
`--vocab_size` stands in for its vocabulary. Several slices: `--config.mesh.slices=2`. Results of
the compiler are kept in `--cache`, so that asking again takes seconds. Exit codes: 0 it fits as it
is, 1 it does not (what makes it fit is in the table), 64 command line, 69 no compiler, 73 nothing
can be written to `--output`, 78 config, 130 interrupted.
"""

import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from bert_jax.plan import report
from bert_jax.plan.compiler import DEFAULT_CACHE
from bert_jax.plan.planning import make_plan
from bert_jax.plan.recipe import load
from bert_jax.slices import find_slice
from data_pipeline.errors import OutputError, UsageError, run_command

INTERRUPTED = 130


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
    if not math.isfinite(_PRICE.value):
        raise UsageError(f"--price={_PRICE.value} is no number of dollars")
    config = load(mapping, _VOCAB_SIZE.value)
    where = find_slice(_SLICE.value, config.mesh.slices)
    cache = Path(_CACHE.value).expanduser() if _CACHE.value else None
    output = Path(_OUTPUT.value)
    with _written_to(output):  # before minutes of compiling
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    jax.config.update("jax_platforms", "cpu")  # JAX would take libtpu for a TPU
    _end_at_once_on_interrupt()
    plan = make_plan(config, where, _PRICE.value, cache, _say)
    print(report.as_text(plan))
    name = report.file_name(plan)
    with _written_to(output):
        (output / f"{name}.json").write_text(json.dumps(report.as_json(plan), indent=2) + "\n")
        report.draw(plan, output / f"{name}.svg")
    print(f"written: {output / name}.json and .svg")
    if not plan.fits:
        sys.exit(1)


@contextlib.contextmanager
def _written_to(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to --output={output}: {error.strerror}") from error


def _end_at_once_on_interrupt() -> None:
    """Has Ctrl-C end the command with one line, whatever the compiler is at.

    Python would act on it when the compiler returns, minutes later. Where Ctrl-C is ignored, as by
    a job in the background of a script, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # written to as soon as the signal comes, on whichever thread
    signal.signal(signal.SIGINT, lambda *_: None)

    def wait() -> None:
        while signal.SIGINT not in os.read(reader, 1):
            pass
        _say("interrupted: the same command takes what was compiled from --cache")
        os._exit(INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, e.g. configs/pretrain.py.")
    _SLICE = flags.DEFINE_string("slice", None, "Accelerator type, for example v4-32.")
    _VOCAB_SIZE = flags.DEFINE_integer(
        "vocab_size",
        30522,
        "Entries of the vocabulary, where the recipe leaves it to the store.",
        lower_bound=1,
    )
    _PRICE = flags.DEFINE_float("price", 0.0, "Dollars a chip and hour.", lower_bound=0.0)
    _OUTPUT = flags.DEFINE_string("output", "plans", "Directory for the JSON file and the picture.")
    _CACHE = flags.DEFINE_string("cache", str(DEFAULT_CACHE), "Results kept here; empty: nowhere.")
    run_command(main)
