# SPDX-License-Identifier: Apache-2.0
r"""Command: pre-train a BERT, or resume where the run was left.

    python -m bert_jax.pretrain --config=configs/pretrain.py:tiny --workdir=runs/mine \
        --config.data.store=stores/mine

Every key of the recipe can be set as `--config.key=value`. The same command resumes. On several
hosts give it to all of them (docs/multihost.md): TPU VMs with `--platform=tpu` find each other,
elsewhere add `--coordinator=HOST:PORT --processes=N --process=I`. Exit codes: 0 done, 64 command
line, 65 data, 73 work directory, 74 disk, 75 stopped and saved, 76 a host was lost, 78 config.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax import distributed, training_flags
from bert_jax.config import RunConfig
from bert_jax.train import train_and_evaluate
from data_pipeline.errors import UsageError, run_command


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and trains."""
    values = flags.FLAGS
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    if values.config is None or not values.workdir:
        raise UsageError("--config=RECIPE and --workdir=DIRECTORY are needed")
    cluster = training_flags.cluster()
    config = RunConfig.from_mapping(training_flags.recipe())
    with distributed.joined(cluster):
        train_and_evaluate(config, training_flags.workdir())


if __name__ == "__main__":
    training_flags.define()
    run_command(main)
