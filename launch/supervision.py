# SPDX-License-Identifier: Apache-2.0
"""What to do about a run from what its hosts report: wait, resume, or give up.

The trainer's exit codes decide (`data_pipeline.errors`): 75 and 76 say "start me again", as do 134,
137 and 143, which are what is left of a host when JAX or the machine ends it. Everything else is
final, because the next start would end the same way.
"""

import dataclasses
import enum
import json
from collections.abc import Sequence
from typing import Any

from data_pipeline.errors import EXIT_PEER_LOST, EXIT_PREEMPTED
from launch.on_host import RESTARTS_WITHOUT_PROGRESS

RESUMABLE = (EXIT_PREEMPTED, EXIT_PEER_LOST, 134, 137, 143)


class Verdict(enum.Enum):
    """What the hosts' reports say together."""

    RUNNING = "running"
    ENDING = "ending"  # some hosts have ended; the others follow, or have to be stopped
    DONE = "done"
    STOPPED = "stopped"  # on request
    RESUME = "resume"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Report:
    """What one host says, as `launch.on_host status` prints it."""

    host: str
    state: str
    exit_code: int | None
    checkpoint: int | None = None
    metrics: dict[str, Any] | None = None


def parse(output: str) -> list[Report]:
    """Reports out of the mixed output of all hosts."""
    reports = []
    for line in output.splitlines():
        if line.startswith('{"bert_jax":'):
            reports.append(Report(**json.loads(line)["bert_jax"]))
    return sorted(reports, key=lambda report: report.host)


def judge(reports: Sequence[Report], hosts: int) -> Verdict:
    """The verdict over the reports of a slice that has `hosts` hosts."""
    codes = [report.exit_code for report in reports if report.state in ("ended", "stopped")]
    if any(code not in (0, *RESUMABLE) for code in codes):
        return Verdict.FAILED
    if any(report.state == "running" for report in reports):
        return Verdict.ENDING if any(codes) else Verdict.RUNNING
    if any(report.state == "stopped" for report in reports):
        return Verdict.STOPPED
    if len(codes) < hosts:
        return Verdict.RESUME  # a host that was never started, or has lost its disk
    return Verdict.RESUME if any(codes) else Verdict.DONE


def progress(reports: Sequence[Report]) -> int:
    """The newest checkpoint that a host sees; -1 before the first."""
    return max(
        (report.checkpoint for report in reports if report.checkpoint is not None), default=-1
    )


def describe(reports: Sequence[Report]) -> str:
    """One line for a person who watches."""
    metrics = next((report.metrics for report in reports if report.metrics), None) or {}
    figures = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in metrics.items()
        if name in ("step", "loss", "mlm_loss", "tokens_per_second")
    ]
    hosts = ", ".join(
        f"{report.host} {report.state}"
        + (f" ({report.exit_code})" if report.exit_code is not None else "")
        for report in reports
    )
    saved = progress(reports)
    return "; ".join(
        [hosts, *figures, f"checkpoint {saved}" if saved >= 0 else "no checkpoint yet"]
    )


class Breaker:
    """Counts restarts that found no newer checkpoint than the one before.

    Losing the slice counts like the trainer's own end: one that is taken away again and again
    before it has saved anything costs money and gets nowhere.
    """

    def __init__(self) -> None:
        self._step: int | None = None
        self._restarts = 0

    def allows(self, step: int) -> bool:
        """Whether to restart at `step`, the newest checkpoint."""
        self._restarts = self._restarts + 1 if step == self._step else 1
        self._step = step
        return self._restarts <= RESTARTS_WITHOUT_PROGRESS

    def polls_to_wait(self) -> int:
        """How many polls to wait before the restart just allowed: 0, 1, 3 without progress."""
        return 2 ** (self._restarts - 1) - 1
