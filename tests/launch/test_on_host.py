# SPDX-License-Identifier: Apache-2.0
"""The part that runs on a host, by its command, in a home directory of its own."""

import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launch.world import World, script, training


def on_host(world: World, *given: str, **more: str) -> subprocess.CompletedProcess[str]:
    home = world.path / "hosts" / "0"
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "launch.on_host", *given],
        cwd=world.checkout, env={**world.environment(), "HOME": str(home), **more},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def status(world: World) -> dict:
    return json.loads(on_host(world, "status").stdout)["bert_jax"]


def start(world: World, workdir: str = "gs://work/run") -> subprocess.CompletedProcess[str]:
    given = ("--config=c", f"--workdir={workdir}", "--store=gs://data/store", "--copy")
    return on_host(world, "start", *given)


def until(world: World, state: str) -> dict:
    deadline = time.monotonic() + 30
    while (report := status(world))["state"] != state:
        assert time.monotonic() < deadline, report
        time.sleep(0.05)
    return report


def test_a_trainer_from_start_to_end(world: World) -> None:
    assert status(world)["state"] == "absent"
    world.play(script(rounds=[training(0, 10, 60), training(3, 20)]))
    assert on_host(world, "install").stdout.endswith(": installed\n")
    assert "installed before" in on_host(world, "install").stdout
    assert "started" in start(world).stdout
    assert "running already" in start(world).stdout
    (world.path / "enough").touch()
    report = until(world, "ended")
    assert (report["exit_code"], report["checkpoint"]) == (0, 10)
    assert report["metrics"] == {"step": 10, "kind": "train", "loss": 2.5}
    start(world)
    assert until(world, "ended")["exit_code"] == 3
    assert "worker 0 trains" in on_host(world, "log", "--lines=5").stdout
    (kept,) = (world.path / "buckets/work/run/logs").glob("*.log")
    assert kept.read_text().count("worker 0 trains") == 2


def test_one_call_waits_for_another(world: World) -> None:
    """A call whose ssh breaks off is given again while the first call still brings the store."""
    on_host(world, "install")
    with (world.path / "hosts/0/bert_jax/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with ThreadPoolExecutor() as threads:
            second = threads.submit(start, world)
            time.sleep(2)
            assert not second.done() and not world.trained()
            fcntl.flock(file, fcntl.LOCK_UN)
            assert "started" in second.result().stdout


def test_the_store_is_copied_once_for_each_content(world: World) -> None:
    on_host(world, "install")
    for _ in range(2):
        start(world)
        until(world, "ended")
    assert len(world.calls("rsync")) == 1
    store = Path(world.trained()[0]["--config.data.store"])
    assert (store / "tokens.npy").read_bytes() == b"tokens"
    manifest = world.path / "buckets/data/store/store.json"
    before = manifest.read_text()
    try:
        manifest.write_text('{"sentences": 4}')
        start(world)
        until(world, "ended")
    finally:
        manifest.write_text(before)
    assert len(world.calls("rsync")) == 2
    assert world.trained()[2]["--config.data.store"] != str(store)


def test_a_copy_that_was_interrupted_is_no_store(world: World) -> None:
    on_host(world, "install")
    start(world)
    until(world, "ended")
    next((world.path / "hosts/0/bert_jax/stores").glob("*.complete")).unlink()
    start(world)
    assert len(world.calls("rsync")) == 2


@pytest.mark.parametrize("resumes", [False, True])
def test_stop_lets_the_trainer_save(world: World, resumes: bool) -> None:
    world.play(script(rounds=[training(0, 10, 60)]))
    on_host(world, "install")
    start(world)
    while status(world)["checkpoint"] is None:
        time.sleep(0.05)
    on_host(world, "stop", *(["--resumes"] if resumes else []))
    report = status(world)
    assert (report["state"], report["exit_code"]) == ("ended" if resumes else "stopped", 75)
    assert "nothing runs" in on_host(world, "stop").stdout


def test_a_supervisor_that_was_killed_counts_as_a_lost_host(world: World) -> None:
    world.play(script(rounds=[training(0, 10, 60)]))
    on_host(world, "install")
    start(world)
    pid = json.loads((world.path / "hosts/0/bert_jax/run/supervisor.json").read_text())["pid"]
    os.killpg(pid, 9)
    report = until(world, "ended")
    assert report["exit_code"] == 137


def test_a_container_gives_up_after_three_restarts_without_progress(world: World) -> None:
    workdir = world.path / "buckets/work/run"
    python = world.path / "trainer"
    code = (
        "import sys; from launch import on_host; sys.executable = sys.argv.pop(1);"
        "on_host.run('c', sys.argv[1], '/store', [])"
    )
    command = [sys.executable, "-c", code, str(python), str(workdir)]

    def run(host: str, in_slice: str = "0") -> int:
        environment = {**world.environment(), "JOB_COMPLETION_INDEX": host, "JOB_INDEX": in_slice}
        return subprocess.run(
            command, cwd=world.checkout, env=environment, capture_output=True, check=False
        ).returncode

    world.play(script(rounds=[training(76, 10)] * 5 + [training(76, 20)]))
    # The first start finds none, the next three no newer one than 10, and so do three restarts.
    assert [run("0") for _ in range(6)] == [76] * 5 + [70]
    assert run("1") == run("0", in_slice="1") == 76  # only the first host counts
    (workdir / "starts.json").unlink()
    assert run("0") == 76
