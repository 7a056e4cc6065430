# SPDX-License-Identifier: Apache-2.0
"""What the commands that train share: flags of recipe, work directory and hosts, and their values.

`define` is called under `if __name__ == "__main__"`, so that a command can be imported.
"""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from bert_jax.cluster import Cluster
from data_pipeline.errors import UsageError

flags.disclaim_key_flags()  # they are those of the command, and so its --help shows them


def define() -> None:
    """Defines the flags."""
    config_flags.DEFINE_config_file("config", None, "Recipe, for example configs/demo.py.")
    flags.DEFINE_string("workdir", None, "Directory of the run; made if absent.")
    flags.DEFINE_string("platform", "", "tpu, gpu or cpu: fail on anything else.")
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, or auto.")
    flags.DEFINE_integer("processes", 0, "How many processes make up the run.")
    flags.DEFINE_integer("process", -1, "Number of this process, from 0.")
    flags.DEFINE_integer("start_seconds", 300, "How long to wait for all processes.")
    flags.DEFINE_integer("peer_seconds", 60, "A process silent for so long is lost.")
    flags.DEFINE_integer("stall_seconds", 1800, "No step for so long: stuck, end.")


def recipe() -> dict[str, Any]:
    """The recipe with what the command line changes in it.

    Raises:
        UsageError: it cannot be loaded.
    """
    try:
        return flags.FLAGS.config.to_dict()
    except OSError as error:  # config_flags keeps what went wrong until the value is asked for
        raise UsageError(f"the recipe that --config names cannot be loaded: {error}") from error


def workdir() -> Path:
    """The directory of the run."""
    return Path(flags.FLAGS.workdir)


def cluster() -> Cluster:
    """The processes that make up the run.

    Raises:
        UsageError: flags that contradict each other.
    """
    values = flags.FLAGS
    return Cluster(
        coordinator=values.coordinator,
        processes=values.processes,
        process=values.process,
        platform=values.platform,
        start_seconds=values.start_seconds,
        peer_seconds=values.peer_seconds,
        stall_seconds=values.stall_seconds,
    )
