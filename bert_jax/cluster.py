# SPDX-License-Identifier: Apache-2.0
"""Which processes make up a run, and how long they wait for each other: a command line, checked."""

import dataclasses

from data_pipeline.errors import UsageError

_PLATFORMS = ("", "cpu", "gpu", "tpu")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Which processes make up the run.

    Attributes:
        coordinator: HOST:PORT of process 0; "auto" asks the environment (TPU VM, GKE, Slurm, Open
            MPI); empty for a run of one process, on `platform` "tpu" for "auto".
        processes: how many there are; 0 with "auto".
        process: the number of this one, from 0; -1 with "auto".
        platform: "tpu", "gpu" or "cpu" that the run must be on; empty for what JAX finds.
        start_seconds: how long to wait for all processes at the start.
        peer_seconds: after so many seconds without a sign of life a process counts as lost.
        stall_seconds: after so long without a step, which may include compiling and evaluating,
            the run counts as stuck.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1
    platform: str = ""
    start_seconds: int = 300
    peer_seconds: int = 60
    stall_seconds: int = 1800

    def __post_init__(self) -> None:
        if self.platform not in _PLATFORMS:
            raise UsageError(f"--platform={self.platform} is not known: use tpu, gpu or cpu")
        if self.coordinator in ("", "auto"):
            if self.processes or self.process >= 0:
                raise UsageError("--processes and --process need --coordinator=HOST:PORT")
        elif not self.coordinator.rpartition(":")[2].isdigit():
            raise UsageError(f"--coordinator={self.coordinator} is not of the form HOST:PORT")
        elif not 0 <= self.process < self.processes:
            raise UsageError(
                f"--coordinator needs --processes=N and --process from 0 to N - 1, not "
                f"--processes={self.processes} --process={self.process}"
            )
