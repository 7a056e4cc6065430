# SPDX-License-Identifier: Apache-2.0
"""Command: a model from one format into another.

    python -m bert_jax.convert --from=orbax --to=huggingface --source=runs/demo --target=export
    python -m bert_jax.convert --from=google --to=orbax --source=DIR --target=runs/imported

`orbax` is a run directory; of a fine-tuning run the task's head goes along. One made from another
format holds the weights as step 0: start from it with `--config.init_from=runs/imported`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from bert_jax.convert.conversion import convert
from bert_jax.convert.load import FORMATS
from data_pipeline.errors import UsageError, run_command


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and converts."""
    values = flags.FLAGS
    paths = (values.source, values.target)
    if len(arguments) > 1 or not (values["from"].value and values.to and all(paths)):
        raise UsageError("--from, --to, --source and --target are needed, and nothing else")
    converted = convert(
        Path(values.source),
        Path(values.target),
        values["from"].value,
        values.to,
        max_positions=values.max_positions,
        overwrite=values.overwrite,
    )
    if converted.missing:
        instead = "random values instead" if values.to == "orbax" else "nor in the target"
        print(f"not in the source, {instead}: {', '.join(converted.missing)}", file=sys.stderr)
    print(f"wrote {values.target}")


if __name__ == "__main__":
    flags.DEFINE_enum("from", None, FORMATS, "Format of the source.")
    flags.DEFINE_enum("to", None, FORMATS, "Format of the target.")
    flags.DEFINE_string("source", None, "Directory to read.")
    flags.DEFINE_string("target", None, "Directory to write; must not exist.")
    flags.DEFINE_integer(
        "max_positions", None, "Cut or extend the position table to this.", lower_bound=1
    )
    flags.DEFINE_bool("overwrite", False, "Replace the model in --target.")
    run_command(main)
