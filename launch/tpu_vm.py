# SPDX-License-Identifier: Apache-2.0
r"""Command: train on a Cloud TPU slice, from renting it to giving it back.

    python -m launch.tpu_vm up --slice=v4-32 --name=bert --zone=us-central2-b \
        --store=gs://BUCKET/store --workdir=gs://BUCKET/runs/base \
        --config=configs/pretrain.py:base,pod -- --config.steps=1000000

`up` does all of it: creates, waits, installs, starts, watches, resumes after preemptions, and in
the end deletes the slice (--keep leaves it). One step at a time: create, wait, install, start,
watch, relaunch, stop, delete. Any of them may be given twice. --dry_run prints the commands
instead. Exit codes: 0 done, 64 command line, 69 the cloud refuses, 70 restarts do not help, 75
stopped and resumable, 130 interrupted; where the trainer fails, its own (README.md).
"""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from data_pipeline.errors import UsageError, UserError, run_command
from launch import arguments, buckets, pod
from launch.arguments import Run
from launch.cloud import Cloud, CloudError, Interrupted
from launch.pod import Pod
from launch.queued_resource import ABSENT, TIERS, Rented
from launch.rentals import check_joined, vm_slice

COMMANDS = "up create wait install start watch relaunch stop delete".split()


def main(values: Sequence[str]) -> None:
    """Checks the command line and carries out one command."""
    command = values[1] if len(values) > 1 else ""
    if command not in COMMANDS:
        raise UsageError(f"{command!r} is no command: choose one of {', '.join(COMMANDS)}")
    rented, overrides = _rented(), arguments.overrides(values[2:])
    if command in ("wait", "delete"):
        with bill(rented):
            rented.wait(flags.FLAGS.poll) if command == "wait" else pod.delete(rented)
        return
    tpu = vm_slice(flags.FLAGS.slice)
    check_joined(tpu, rented.slices)
    if command == "create":
        with bill(rented):
            pod.create(rented, tpu)
        return
    # Of a run that is there its own commit tells, whatever is checked out by now.
    revision = "" if command in ("watch", "stop") else arguments.revision()
    which = Pod(rented, tpu, revision, flags.FLAGS.poll)
    run = Run.from_flags(overrides) if command in ("up", "start", "relaunch") else None
    with bill(rented):
        if run and command != "start":
            buckets.check(rented.cloud, run, rented.project)
        if command == "install":
            pod.install(which)
        elif command == "watch":
            verdict, reports, _ = pod.watch(which)
            pod.conclude(which, verdict, reports)
        elif command == "stop":
            rented.cloud.say(which.ssh(f"stop {rented.name}", "stop").strip())
        elif run and command == "start":
            pod.start(which, run)
        elif run:
            pod.launch(which, run)
            if command == "up":
                _to_the_end(which, run)


def _to_the_end(which: Pod, run: Run) -> None:
    """Trains until the end, then deletes the slice, unless it was interrupted or stopped."""
    try:
        pod.keep_running(which, run)
    except (pod.TrainingFailed, pod.CrashLoop):
        if flags.FLAGS.keep:
            pod.stop_rest(which)
        else:
            with contextlib.suppress(CloudError):  # what is left of it, `bill` tells
                pod.give_back(which)
        raise
    if not flags.FLAGS.keep:
        pod.give_back(which)


@contextlib.contextmanager
def bill(rented: Rented) -> Iterator[None]:
    """However a command ends, says last what is still there, and how to end its bill."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{rented.name}: interrupted; looking at what is left", file=sys.stderr, flush=True)
        message = "interrupted; training goes on as long as the slice is there"
        raise Interrupted(f"{message}\n{_billed(rented)}") from None
    except UserError as error:
        error.args = (f"{error}\n{_billed(rented)}".rstrip(),)
        raise
    except Exception:
        print(_billed(rented), file=sys.stderr, flush=True)
        raise
    if note := _billed(rented):
        print(note, file=sys.stderr, flush=True)


def _billed(rented: Rented) -> str:
    """What is still there, and how to end its bill; nothing in a dry run."""
    if rented.cloud.dry_run:
        return ""
    try:
        state, _ = rented.state()
    except (CloudError, KeyboardInterrupt):
        state = "of unknown state"
    if state == ABSENT:
        listed = " ".join(["gcloud compute tpus queued-resources list", *rented.where])
        return f"{rented.name}: there is none in {rented.zone}; `{listed}` shows what else there is"
    return f"{rented.name} is {state} and may be billed; end that with\n  {rented.delete_command}"


def _rented() -> Rented:
    given = flags.FLAGS
    if given.tier not in TIERS:
        raise UsageError(f"--tier={given.tier!r} must be one of {', '.join(TIERS)}")
    if given.valid_until and not arguments.DURATION.fullmatch(given.valid_until):
        raise UsageError(f"--valid_until={given.valid_until!r} is no duration, as 6h or 30m")
    project, account = given.project, given.service_account
    return Rented(
        cloud=Cloud(given.dry_run),
        name=arguments.matching("name", given.name, arguments.NAME, "bert-base"),
        zone=arguments.matching("zone", given.zone, arguments.ZONE, "us-central2-b"),
        project=project and arguments.matching("project", project, arguments.PROJECT, "my-project"),
        tier=given.tier,
        service_account=account
        and arguments.matching(
            "service_account", account, arguments.ACCOUNT, "bert@my-project.iam"
        ),
        valid_until=given.valid_until,
        internal_ip=given.internal_ip,
        slices=given.slices,
    )


if __name__ == "__main__":
    Run.define_flags()
    flags.DEFINE_string("slice", "", "Accelerator type, for example v4-32 (docs/tpu.md).")
    flags.DEFINE_string("name", "", "Name of the slice; one slice, one run.")
    flags.DEFINE_string("zone", "", "Zone that has the slice, for example us-central2-b.")
    flags.DEFINE_string("project", "", "Google Cloud project; default: gcloud's setting.")
    flags.DEFINE_string("tier", "on-demand", "on-demand, spot (may be taken away) or reserved.")
    flags.DEFINE_string("service_account", "", "Account the hosts act as; default: the project's.")
    flags.DEFINE_string("valid_until", "", "Give up waiting for the slice after, for example, 6h.")
    flags.DEFINE_bool("internal_ip", False, "Reach the hosts from inside their network.")
    flags.DEFINE_bool("keep", False, "Leave the slice in the end instead of deleting it.")
    flags.DEFINE_float("poll", 60.0, "Seconds between two looks at slice and run.", lower_bound=0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    run_command(main)
