# SPDX-License-Identifier: Apache-2.0
r"""Command: fine-tune a pre-trained BERT on a labelled task, or resume where it was left.

    python -m bert_jax.finetune --config=configs/finetune.py:sst2 --init_from=runs/base \
        --workdir=runs/sst2 [--config.seeds=5]

`--init_from` is a run, a Hugging Face or a Google directory, or an earlier fine-tuning run. The
same command resumes. Files of predictions that are there already are replaced with --overwrite
only. Several hosts, their flags and the exit codes are as in pre-training.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax import agreement, distributed, training_flags
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.seeds import finetune_seeds, table
from data_pipeline.errors import UsageError, run_command


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and fine-tunes."""
    values = flags.FLAGS
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    if values.config is None or not values.init_from or not values.workdir:
        raise UsageError("--config=RECIPE, --init_from=MODEL and --workdir=DIRECTORY are needed")
    cluster = training_flags.cluster()
    recipe = training_flags.recipe() | {"init_from": values.init_from}
    config = FinetuneConfig.from_mapping(recipe)
    with distributed.joined(cluster):
        summary = finetune_seeds(config, training_flags.workdir(), values.overwrite)
        if agreement.primary():
            print(table(summary))


if __name__ == "__main__":
    training_flags.define()
    flags.DEFINE_string("init_from", None, "Pre-trained model: a run or a directory.")
    flags.DEFINE_bool("overwrite", False, "Replace files of predictions.")
    run_command(main)
