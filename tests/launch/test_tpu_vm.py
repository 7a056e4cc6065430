# SPDX-License-Identifier: Apache-2.0
"""The life of a run on a slice, by the real commands, the real part on each host, and stand-ins.

Only gcloud, gcsfuse, pip, uv and the trainer are stand-ins; what is between them is what runs on a
pod.
"""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.test_refusals import OFFLINE
from tests.launch.world import COMING, RUN, SLICE, World, script, training

ALIVE = "python -m launch.tpu_vm delete --name=bert --zone=us-central2-b"
NONE_LEFT = (
    "bert: there is none in us-central2-b; `gcloud compute tpus queued-resources list "
    "--zone=us-central2-b` shows what else there is"
)


def queued(world: World, verb: str) -> list[list[str]]:
    return world.calls("queued-resources", verb)


def test_up_takes_a_run_from_nothing_to_its_end(world: World) -> None:
    """On two slices of two hosts: four trainers, which are told how many slices there are."""
    given = (*SLICE, *RUN, "--slices=2", "--tier=spot", "--", "--config.name=it's; $x")
    done = world.launch("tpu_vm", "up", *given)
    assert done.returncode == 0, done.stderr
    (create,) = queued(world, "create")
    assert {"--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base", "--spot"} <= set(
        create
    )
    assert len(queued(world, "delete")) == 1
    states = [line for line in done.stdout.splitlines() if line in (f"bert: {s}" for s in COMING)]
    assert states == [f"bert: {state}" for state in COMING]
    trained = sorted(world.trained(), key=lambda call: call["worker"])
    assert [call["worker"] for call in trained] == [0, 1, 2, 3]
    for call in trained:
        home = world.path / "hosts" / str(call["worker"])
        assert call["--config"] == "configs/pretrain.py:tiny"
        assert call["--workdir"] == f"{home}/mnt/work/runs/a b"
        assert call["--config.data.store"].startswith(f"{home}/bert_jax/stores/")
        assert call["--config.name"] == "it's; $x"
        assert call["--config.mesh.slices"] == "2"
    assert (world.path / "buckets/work/runs/a b/checkpoints/10/manifest.json").is_file()
    assert "loss 2.5; checkpoint 10" in done.stdout
    assert "bert: training is done" in done.stdout and NONE_LEFT in done.stderr


def test_a_run_that_asks_for_it_is_resumed_on_the_same_slice(world: World) -> None:
    world.play(script(rounds=[training(75, 10), training([0, 76], 20), training(0, 30)]))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert len(queued(world, "create")) == 1
    assert "resuming from checkpoint 10" in done.stdout
    assert "resuming from checkpoint 20" in done.stdout and len(world.trained()) == 6


def test_a_final_exit_code_ends_it_and_is_passed_on(world: World) -> None:
    world.play(script(rounds=[training([76, 78])]))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 78
    assert "training ended with exit code 78 on" in done.stderr
    assert "worker 0 trains" in done.stderr  # the log
    assert len(world.trained()) == 2 and len(queued(world, "delete")) == 1
    assert "Traceback" not in done.stderr


def test_a_slice_that_does_not_come_or_goes_is_asked_for_anew(world: World) -> None:
    """No capacity, then suspended, then preempted under a request that stays ACTIVE."""
    said = 'There is no more capacity in the zone "us-central2-b"; you can try in another zone'
    full = {"states": [{"state": "FAILED", "failedData": {"error": {"code": 8, "message": said}}}]}
    lost = [
        {"states": COMING, "looks": 3, "then": [then]}  # looks: copy, install, start
        for then in ("SUSPENDED", "ACTIVE")
    ]
    rounds = [training(0, 10, 0.3), training(0, 20, 0.3), training(0, 30)]
    lives = [full, *lost, {"states": COMING}]
    world.play(script(lives=lives, rounds=rounds, node="PREEMPTED"))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert "no more capacity" in done.stdout
    assert "the slice was taken away (SUSPENDED)" in done.stdout
    assert "the slice was taken away (ACTIVE)" in done.stdout
    assert len(queued(world, "create")) == 4 and len(queued(world, "delete")) == 4


def test_a_slice_that_somebody_deletes_is_not_rented_again(world: World) -> None:
    world.play(script(rounds=[training(0, 10, 60)]))
    watcher = _up(world)
    _until(lambda: len(world.trained()) == 2, watcher)
    assert world.launch("tpu_vm", "delete", *SLICE).returncode == 0
    _, errors = watcher.communicate(timeout=60)
    (world.path / "enough").touch()
    assert watcher.returncode == 75, errors
    assert "bert was deleted by somebody; `up` rents it again" in errors and NONE_LEFT in errors
    assert len(queued(world, "create")) == 1


@pytest.mark.parametrize(
    ("command", "number", "error"),
    [
        ("queued-resources describe", 3, OFFLINE),  # while the slice is waited for
        ("tpu-vm scp", 1, OFFLINE),
        ("tpu-vm ssh", 1, "error on t-1: cannot install the packages: operation timed out"),
        ("tpu-vm ssh", 3, OFFLINE),  # while the run is watched
        ("queued-resources delete", 1, OFFLINE),
    ],
)
def test_what_passes_does_not_end_it(world: World, command: str, number: int, error: str) -> None:
    passing = [(f"compute tpus {command}", number, error)]
    world.play(script(rounds=[training(0, 10, 0.3)], passing=passing))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert error.splitlines()[0][-30:] in done.stdout and NONE_LEFT in done.stderr
    assert len(queued(world, "create")) == 1 and len(world.trained()) == 2


def test_a_failed_run_is_told_though_its_slice_cannot_be_deleted(world: World) -> None:
    errors = {"compute tpus queued-resources delete": OFFLINE}
    world.play(script(rounds=[training([76, 78])], errors=errors))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 78
    assert "training ended with exit code 78 on" in done.stderr
    assert len(queued(world, "delete")) == 5
    assert done.stderr.endswith(f"bert is ACTIVE and may be billed; end that with\n  {ALIVE}\n")


def test_a_run_is_watched_and_stopped_from_any_checkout(world: World) -> None:
    """What is checked out by now may be another commit, or have changes."""
    world.play(script(rounds=[training(0, 10, 60)]))
    for command in ("create", "wait", "install", "start"):
        arguments = RUN if command == "start" else ()
        assert world.launch("tpu_vm", command, *SLICE, *arguments).returncode == 0
    recipe = world.checkout / "configs" / "pretrain.py"
    text = recipe.read_text()
    recipe.write_text(text + "# changed\n")
    try:
        stopped = world.launch("tpu_vm", "stop", *SLICE)
        watched = world.launch("tpu_vm", "watch", *SLICE)
    finally:
        recipe.write_text(text)
    assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped.stderr
    assert watched.returncode == 75 and "was stopped and has saved" in watched.stderr


def test_a_refusal_says_what_is_still_billed(world: World) -> None:
    assert world.launch("tpu_vm", "create", *SLICE).returncode == 0
    done = world.launch("tpu_vm", "relaunch", *SLICE, "--store=gs://data/none", *RUN[1:])
    assert done.returncode == 64 and "there is no store at gs://data/none" in done.stderr
    assert done.stderr.endswith(f"  {ALIVE}\n")


def test_steps_one_by_one_and_each_twice(world: World) -> None:
    world.play(script(rounds=[training(0, 10, 300)]))
    for command in ("create", "wait", "install", "start"):
        arguments = RUN if command == "start" else ()
        for _ in range(2):
            done = world.launch("tpu_vm", command, *SLICE, *arguments)
            assert done.returncode == 0, done.stderr
            assert ALIVE in done.stderr
    assert "running already" in done.stdout
    assert len(queued(world, "create")) == 1 and len(world.trained()) == 2
    assert world.launch("tpu_vm", "stop", *SLICE).returncode == 0
    assert world.launch("tpu_vm", "watch", *SLICE).returncode == 75
    for said in ("deleted", "was not there"):
        done = world.launch("tpu_vm", "delete", *SLICE)
        assert done.returncode == 0 and f"bert: {said}" in done.stdout
        assert NONE_LEFT in done.stderr


def test_stop_saves_and_keeps_a_watcher_from_resuming(world: World) -> None:
    world.play(script(rounds=[training(0, 10, 60)]))
    watcher = _up(world)
    _until(lambda: len(world.trained()) == 2, watcher)
    time.sleep(0.5)
    assert world.launch("tpu_vm", "stop", *SLICE).returncode == 0
    output, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 75, output + errors
    assert "was stopped and has saved" in errors and ALIVE in errors
    assert len(world.trained()) == 2 and not queued(world, "delete")


def test_ctrl_c_says_what_is_still_billed_and_leaves_the_run_alone(world: World) -> None:
    world.play(script(rounds=[training(0, 10, 60)]))
    process = _up(world)
    _until(lambda: len(world.trained()) == 2, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "bert is ACTIVE and may be billed" in errors and ALIVE in errors
    assert "Traceback" not in errors and not queued(world, "delete")
    (world.path / "enough").touch()
    done = world.launch("tpu_vm", "watch", *SLICE)
    assert done.returncode == 0, done.stderr  # the trainers went on and finished


def test_a_hang_up_while_waiting_says_so_too(world: World) -> None:
    world.play(script(lives=[{"states": ["WAITING_FOR_RESOURCES"]}]))
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.tpu_vm", "up", *SLICE, *RUN],
        cwd=world.checkout, env=world.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _until(lambda: len(queued(world, "describe")) > 2, process)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "bert is WAITING_FOR_RESOURCES and may be billed" in errors and ALIVE in errors


def test_an_error_says_what_is_still_billed(world: World) -> None:
    world.play(script(errors={"compute tpus tpu-vm scp": "ERROR: scp: no such key"}))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert done.returncode == 69
    assert "cannot copy the code to bert: scp: no such key" in done.stderr
    assert "bert is ACTIVE" in done.stderr and ALIVE in done.stderr


def test_dry_run_runs_nothing_and_prints_what_a_shell_takes(world: World) -> None:
    shutil.rmtree(world.path / "home/.cache", ignore_errors=True)  # the code is packed anew
    name = "--config.name=$(touch pwned)'\"`id`"
    given = ("up", *SLICE, *RUN, "--nostage", "--keep")
    done = world.launch("tpu_vm", *given, "--dry_run", "--", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert not world.calls()
    printed = [shell_words(line) for line in done.stdout.splitlines()]
    (archive,) = (words for words in printed if words[0] == "git")
    (copied,) = (words for words in printed if "scp" in words)
    assert f"--output={copied[5]}" in archive
    done = world.launch("tpu_vm", *given, "--", name)
    assert done.returncode == 0, done.stderr
    assert not (world.checkout / "pwned").exists()
    # Word for word what is run, but for looks that are repeated.
    assert [words for words in printed if words[0] == "gcloud"] == without_repeats(world.calls())
    assert {call["--config.name"] for call in world.trained()} == {name.partition("=")[2]}
    # The slice stays, and the store is read in place.
    assert not queued(world, "delete")
    assert "bert is ACTIVE" in done.stderr and ALIVE in done.stderr
    stores = {call["--config.data.store"].rpartition("/mnt/")[2] for call in world.trained()}
    assert stores == {"data/store"} and not world.calls("rsync")


def shell_words(line: str) -> list[str]:
    """The arguments that a shell makes of a command line."""
    program = line.split(" ", 1)[0]
    shell = f"{program}() {{ printf '%s\\0' {program} \"$@\"; }}\n{line}"
    printed = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    return printed.stdout.split("\0")[:-1]


def without_repeats(calls: list[list[str]]) -> list[list[str]]:
    """The calls without those that follow an equal one, and the last look at the bill."""
    kept = [call for call, before in zip(calls, [None, *calls], strict=False) if call != before]
    return kept[:-1]


def _up(world: World) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "launch.tpu_vm", "up", *SLICE, *RUN],
        cwd=world.checkout, env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _until(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
