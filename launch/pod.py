# SPDX-License-Identifier: Apache-2.0
"""The life of a run on one slice: rent, install, start, watch, resume, give back.

Each step can be taken twice: what is there, installed or running is left alone. The loop that
resumes is here too; what it decides by is in `launch.supervision`.
"""

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bert_jax.slices import Slice
from data_pipeline.errors import EXIT_PREEMPTED, Preempted, UserError
from launch.arguments import Run
from launch.cloud import CloudError, CloudSilent
from launch.code_archive import archive
from launch.on_host import CURRENT, RESTARTS_WITHOUT_PROGRESS
from launch.queued_resource import (
    ABSENT,
    ACTIVE,
    COMING,
    DELETED,
    NotReached,
    Rented,
    Unavailable,
)
from launch.supervision import RESUMABLE, Breaker, Report, Verdict, describe, judge, parse, progress

ENDING_SECONDS = 300.0  # in which the hosts notice by themselves that one of them has ended
ATTEMPTS = 5  # at what may fail once: reaching hosts that are just starting, installing, deleting
T = TypeVar("T")
_TAKEN_AWAY = (
    "the slice was taken away each time before it had saved anything new: save more often "
    "(--config.checkpoint.every), or take another --zone or --tier"
)


class TrainingFailed(UserError):
    """The trainer ended with a code that a restart would not change; it is this error's as well."""

    def __init__(self, report: Report, log: str) -> None:
        self.exit_code = report.exit_code or 1
        super().__init__(
            f"training ended with exit code {self.exit_code} on {report.host}, which a restart "
            f"does not change; the ends of the logs:\n{log}"
        )


class CrashLoop(UserError):
    """Restarts no longer bring the run any further."""

    exit_code = 70


@dataclasses.dataclass(frozen=True)
class Pod:
    """A slice, or several, and the commit that runs there."""

    rented: Rented
    tpu: Slice
    revision: str  # "": the commit that was installed last
    poll: float  # seconds between two looks

    def on_host(self, *given: str) -> str:
        """The shell command that runs `launch.on_host` in the code of the commit."""
        command = shlex.join(["python3", "-m", "launch.on_host", *given])
        return f"cd bert_jax/{self.revision[:12] or CURRENT} && {command}"

    @property
    def hosts(self) -> int:
        """Hosts of all slices."""
        return self.tpu.hosts * self.rented.slices

    def ssh(self, doing: str, *given: str) -> str:
        """Output of `launch.on_host` on all hosts."""
        return self.rented.ssh(doing, self.on_host(*given))


def create(rented: Rented, tpu: Slice) -> None:
    """Asks for the slice unless it is there or coming; what is left of a lost one is deleted.

    Raises:
        UsageError: the name stands for other slices already.
        CloudError: the cloud refuses.
    """
    request = rented.request()
    state = ABSENT if rented.cloud.dry_run else request.state
    if state != ABSENT:
        rented.check_same(tpu, request)
    if state in COMING or (state == ACTIVE and not rented.node_preempted()):
        rented.cloud.say(f"{rented.name}: {state} already")
        return
    if state != ABSENT:
        rented.cloud.say(f"{rented.name}: {state}, but of no use any more; asking for it anew")
        rented.delete()
    rented.create(tpu)


def install(pod: Pod) -> None:
    """Brings the commit and its packages to every host."""
    path = archive(pod.revision, pod.rented.cloud)
    pod.rented.copy(str(path), path.name)
    code = f"bert_jax/{pod.revision[:12]}"
    unpack = f"mkdir -p {code} && tar -xzf {path.name} -C {code}"
    doing = f"install on {pod.rented.name}"
    command = f"{unpack} && {pod.on_host('install')}"
    # A package index may fail for a while; hosts that do not answer are the caller's to wait for.
    output = _insist(pod, lambda: pod.rented.ssh(doing, command), final=(NotReached, CloudSilent))
    pod.rented.cloud.say(output.strip())


def start(pod: Pod, run: Run) -> None:
    """Starts the trainer on every host where it does not run."""
    given = [f"--config={run.config}", f"--workdir={run.workdir}", f"--store={run.store}"]
    given += ["--copy"] if run.stage else []
    output = pod.ssh(f"start training on {pod.rented.name}", "start", *given, "--", *run.overrides)
    pod.rented.cloud.say(output.strip())


def launch(pod: Pod, run: Run) -> None:
    """From whatever there is to a slice that trains; waits as long as none is free.

    Raises:
        CloudError: the cloud refuses, or the hosts of the slice do not answer.
    """
    missed = 0
    while True:
        try:
            create(pod.rented, pod.tpu)
            pod.rented.wait(pod.poll)
            install(pod)
            start(pod, run)
            return
        except (Unavailable, CloudSilent) as error:
            pod.rented.cloud.say(f"{pod.rented.name}: {error}")
        except NotReached as error:
            missed += 1
            if missed == ATTEMPTS:
                raise
            pod.rented.cloud.say(f"{pod.rented.name}: {error}")
        time.sleep(pod.poll)


def watch(pod: Pod) -> tuple[Verdict, list[Report], int]:
    """Prints how the run does until it ends.

    Returns:
        The verdict, the last reports (none if the slice was lost) and the newest checkpoint that
        was seen on the way, -1 before the first.

    Raises:
        Preempted: somebody deleted the slice.
        CloudError: the cloud refuses.
    """
    ending_since, shown, saved = None, "", -1
    while True:
        try:
            output = pod.ssh(f"look at the run on {pod.rented.name}", "status")
        except (NotReached, CloudSilent) as error:
            if isinstance(error, NotReached) and _lost(pod.rented):
                return Verdict.RESUME, [], saved
            pod.rented.cloud.say(f"{pod.rented.name}: {error}")
            time.sleep(pod.poll)
            continue
        if pod.rented.cloud.dry_run:
            return Verdict.DONE, [], saved
        reports = parse(output)
        saved = max(saved, progress(reports))
        if (line := describe(reports)) != shown:
            pod.rented.cloud.say(f"{pod.rented.name}: {line}")
            shown = line
        verdict = judge(reports, pod.hosts)
        if verdict is Verdict.ENDING:
            ending_since = ending_since or time.monotonic()
            if time.monotonic() - ending_since > ENDING_SECONDS:
                pod.ssh("stop the hosts that are left", "stop", "--resumes")
        elif verdict is not Verdict.RUNNING:
            return verdict, reports, saved
        time.sleep(pod.poll)


def _lost(rented: Rented) -> bool:
    """Whether a slice whose hosts do not answer was taken away by the cloud.

    Raises:
        Preempted: somebody deleted it, who does not want it rented again.
    """
    try:
        state, _ = rented.state()
        lost = state != ACTIVE or rented.node_preempted()
    except CloudSilent as error:
        rented.cloud.say(f"{rented.name}: {error}")
        return False
    if state in DELETED:
        raise Preempted(f"{rented.name} was deleted by somebody; `up` rents it again and resumes")
    if lost:
        rented.cloud.say(f"{rented.name}: the slice was taken away ({state})")
    return lost


def keep_running(pod: Pod, run: Run) -> None:
    """Watches and resumes until the run is done.

    Raises:
        TrainingFailed: the trainer's own reason is final.
        CrashLoop: restarts, after losses of the slice too, do not bring the run any further.
        Preempted: somebody stopped it.
    """
    breaker, saved = Breaker(), -1
    while True:
        verdict, reports, seen = watch(pod)
        saved = max(saved, seen)
        if verdict is not Verdict.RESUME:
            conclude(pod, verdict, reports)
            return
        place = f"checkpoint {saved}" if saved >= 0 else "the beginning"
        if not breaker.allows(saved):
            why = f"the ends of the logs:\n{_log(pod)}" if reports else _TAKEN_AWAY
            raise CrashLoop(
                f"{RESTARTS_WITHOUT_PROGRESS} restarts in a row found no newer checkpoint than "
                f"{place}; {why}"
            )
        pod.rented.cloud.say(f"{pod.rented.name}: resuming from {place}")
        time.sleep(pod.poll * breaker.polls_to_wait())
        launch(pod, run)


def stop_rest(pod: Pod) -> None:
    """Stops the hosts that still train; a slice that is gone has none."""
    with contextlib.suppress(NotReached, CloudSilent):
        pod.ssh("stop the hosts that are left", "stop")


def give_back(pod: Pod) -> None:
    """Deletes the slice, in several attempts: when a run ends, nobody may be there to do it.

    Raises:
        CloudError: it is still there.
    """
    _insist(pod, lambda: delete(pod.rented))


def delete(rented: Rented) -> None:
    """Deletes the slice and says so.

    Raises:
        CloudError: it is still there.
    """
    rented.cloud.say(f"{rented.name}: {'deleted' if rented.delete() else 'was not there'}")


def _insist(pod: Pod, action: Callable[[], T], final: tuple[type[CloudError], ...] = ()) -> T:
    """What an action returns, tried `ATTEMPTS` times unless it fails in a way that is `final`."""
    failed = 0
    while True:
        try:
            return action()
        except CloudError as error:
            failed += 1
            if failed == ATTEMPTS or isinstance(error, final):
                raise
            pod.rented.cloud.say(f"{pod.rented.name}: {error}; trying again")
            time.sleep(pod.poll)


def conclude(pod: Pod, verdict: Verdict, reports: Sequence[Report]) -> None:
    """Says how a run ended.

    Raises:
        TrainingFailed, Preempted: it is not done.
    """
    if verdict is Verdict.DONE:
        pod.rented.cloud.say(f"{pod.rented.name}: training is done")
        return
    if verdict is Verdict.STOPPED:
        saved = all(report.exit_code in (0, EXIT_PREEMPTED) for report in reports)
        how = "has saved" if saved else "was killed before it had saved"
        raise Preempted(f"{pod.rented.name} was stopped and {how}; `up` or `start` resumes it")
    if verdict is Verdict.RESUME:
        raise Preempted(
            f"the run on {pod.rented.name} was interrupted; `up` or `relaunch` resumes it"
        )
    final = [report for report in reports if report.exit_code not in (None, 0, *RESUMABLE)]
    raise TrainingFailed(final[0], _log(pod))


def _log(pod: Pod) -> str:
    try:
        return pod.ssh("read the log", "log", "--lines=20")
    except CloudError as error:  # the run's own end is what has to be told
        return f"({error})"
