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
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from bert_jax import distributed
from bert_jax.config import RunConfig
from bert_jax.distributed import Cluster
from bert_jax.train import train_and_evaluate
from data_pipeline.errors import UsageError, run_command

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; made if absent.")
_PLATFORM = flags.DEFINE_string("platform", "", "tpu, gpu or cpu: fail on anything else.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes make up the run.")
_PROCESS = flags.DEFINE_integer("process", -1, "Number of this process, from 0.")
_START_SECONDS = flags.DEFINE_integer("start_seconds", 300, "How long to wait for all processes.")
_PEER_SECONDS = flags.DEFINE_integer("peer_seconds", 60, "A process silent for so long is lost.")
_STALL_SECONDS = flags.DEFINE_integer("stall_seconds", 1800, "No step for so long: stuck, end.")


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and trains."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    if _CONFIG.value is None or not _WORKDIR.value:
        raise UsageError("--config=RECIPE and --workdir=DIRECTORY are needed")
    cluster = Cluster(
        coordinator=_COORDINATOR.value,
        processes=_PROCESSES.value,
        process=_PROCESS.value,
        platform=_PLATFORM.value,
        start_seconds=_START_SECONDS.value,
        peer_seconds=_PEER_SECONDS.value,
        stall_seconds=_STALL_SECONDS.value,
    )
    config = RunConfig.from_mapping(_load_recipe())
    with distributed.joined(cluster):
        train_and_evaluate(config, Path(_WORKDIR.value))


def _load_recipe() -> dict[str, Any]:
    try:
        return _CONFIG.value.to_dict()
    except OSError as error:  # config_flags keeps what went wrong until the value is asked for
        raise UsageError(f"the recipe that --config names cannot be loaded: {error}") from error


if __name__ == "__main__":
    run_command(main)
