# SPDX-License-Identifier: Apache-2.0
"""The lease on a work directory, where a lock does not reach: between hosts."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bert_jax import lease, run_lock
from data_pipeline.errors import OutputError

ROOT = pathlib.Path(__file__).parents[2]
# As through Cloud Storage FUSE: everybody gets the lock. Everything is a hundred times as fast.
TRAIN = """
import fcntl, pathlib, sys, time
from bert_jax import lease, run_lock
from data_pipeline.errors import UserError
fcntl.flock = lambda *_: None
lease.REFRESH_SECONDS, lease.EXPIRY_SECONDS, lease._LOOK_SECONDS = 0.15, 0.6, 0.01
lease._machine = lambda: sys.argv[2]
try:
    with run_lock.exclusive(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[3]))
except UserError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


@contextlib.contextmanager
def trainer(
    workdir: pathlib.Path, host: str, seconds: float = 60
) -> Iterator["subprocess.Popen[str]"]:
    """A process on a host of that name that works in `workdir` for so long."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, workdir, host, str(seconds)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_held(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def test_two_hosts_without_a_common_lock(tmp_path: pathlib.Path) -> None:
    with trainer(tmp_path, "a") as first:
        wait_until_held(first)
        with trainer(tmp_path, "b") as second:
            _, errors = second.communicate(timeout=30)
            assert second.returncode == 1
            owner = f"process {first.pid} on {socket.gethostname()}, started 20"
            assert f"73: another run is at work in {tmp_path}: {owner}" in errors
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.wait()
        with trainer(tmp_path, "b", seconds=0) as third:  # after it has expired
            output, errors = third.communicate(timeout=30)
            assert third.returncode == 0, errors
            assert output == "held\n"
            assert "watching it for at most 0.6 s" in errors
    assert not list(tmp_path.glob("run.lease*"))


def test_a_host_that_was_silent_for_too_long_ends_itself(tmp_path: pathlib.Path) -> None:
    with trainer(tmp_path, "a") as first:
        wait_until_held(first)
        first.send_signal(signal.SIGSTOP)  # as one that is cut off from its storage
        with trainer(tmp_path, "b") as second:
            wait_until_held(second)
            first.send_signal(signal.SIGCONT)
            _, errors = first.communicate(timeout=30)
            assert first.returncode == 73
            assert f"{tmp_path}/run.lease was taken over by process {second.pid} on " in errors
            assert errors.count("error:") == 1
            assert json.loads((tmp_path / lease.NAME).read_text())["pid"] == second.pid
            assert second.poll() is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.3)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.01)


def leave_behind(workdir: pathlib.Path, **changes: Any) -> None:
    """A lease of a process that is not there any more."""
    content = lease.owner() | {"run": "0", "machine": "another", "refreshed": time.time()}
    (workdir / lease.NAME).write_text(json.dumps(content | changes))


def seconds_to_take(workdir: pathlib.Path) -> float:
    started = time.monotonic()
    with run_lock.exclusive(workdir):
        return time.monotonic() - started


def test_the_lease_of_a_process_that_has_died_here_is_taken_at_once(
    tmp_path: pathlib.Path, quick: None
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave_behind(tmp_path, pid=dead.pid, machine=lease._machine())
    assert seconds_to_take(tmp_path) < 0.3
    leave_behind(tmp_path, pid=dead.pid)  # of another host, where that number may well live
    assert seconds_to_take(tmp_path) >= 0.3
    leave_behind(tmp_path, pid=os.getppid(), machine=lease._machine())  # it has the number now
    assert seconds_to_take(tmp_path) >= 0.3


def test_a_lease_of_long_ago_is_over_at_once(tmp_path: pathlib.Path, quick: None) -> None:
    leave_behind(tmp_path, refreshed=time.time() - 601)
    assert seconds_to_take(tmp_path) < 0.3
    leave_behind(tmp_path, refreshed=time.time() - 599)  # clocks differ
    assert seconds_to_take(tmp_path) >= 0.3


def test_a_lease_that_is_just_being_written_tells_nothing(
    tmp_path: pathlib.Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"pid": 7, "host": "other", "started": "2026", "machine": "other", "run": "a"}
    (tmp_path / lease.NAME).write_text("{}")
    seen: Iterator[dict[str, Any]] = iter([{}, before, {}, before, before | {"refreshed": 1e12}])
    monkeypatch.setattr(lease, "_read", lambda path: next(seen))
    with (
        pytest.raises(OutputError, match="at work in .*: process 7 on other"),
        lease.held(tmp_path, lambda message, code: None),
    ):
        pass
    assert not list(seen)  # it took the last to tell that the owner is alive


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"refreshed": "x", "pid": "y"}'])
def test_a_lease_that_cannot_be_read_expires_too(
    tmp_path: pathlib.Path, quick: None, content: str
) -> None:
    (tmp_path / lease.NAME).write_text(content)
    assert 0.3 <= seconds_to_take(tmp_path) < 1
    assert not (tmp_path / lease.NAME).exists()


@pytest.mark.parametrize("held_up", [0.0, 0.4], ids=["being written", "stopped after reading"])
def test_an_owner_does_not_write_over_one_that_has_just_taken_over(
    tmp_path: pathlib.Path, quick: None, monkeypatch: pytest.MonkeyPatch, held_up: float
) -> None:
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.05)
    read, reads = lease._read, []

    def taken_over_meanwhile(path: pathlib.Path) -> dict[str, Any] | None:
        found = read(path)
        reads.append(found)
        if len(reads) == 1:
            leave_behind(tmp_path)
            time.sleep(held_up)
            return found if held_up else {}
        return found

    left: list[str] = []
    monkeypatch.setattr(lease, "_read", taken_over_meanwhile)
    with lease.held(tmp_path, lambda message, code: left.append(message)):
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(left) == 1 and "was taken over by" in left[0]
        assert json.loads((tmp_path / lease.NAME).read_text())["run"] == "0"


def test_an_owner_that_ends_leaves_the_lease_to_one_that_has_just_taken_over(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.0)
    done, left = threading.Event(), []

    def ended_meanwhile(path: pathlib.Path) -> dict[str, Any]:
        leave_behind(tmp_path)
        done.set()
        return json.loads(path.read_text())

    monkeypatch.setattr(lease, "_read", ended_meanwhile)
    lease._keep(tmp_path / lease.NAME, {"run": "1"}, done, lambda *args: left.append(args))
    assert json.loads((tmp_path / lease.NAME).read_text())["run"] == "0"
    assert not left


def test_storage_that_fails_for_a_while_does_not_end_a_run(
    tmp_path: pathlib.Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.01)
    write, calls = lease._write, []

    def fail(path: pathlib.Path, mine: dict[str, Any]) -> None:
        calls.append(path)
        if len(calls) < 5:
            path.write_text("")  # a full disk takes the old content before it refuses the new
            raise OSError(28, "No space left on device")
        write(path, mine)

    monkeypatch.setattr(lease, "_write", fail)
    left: list[str] = []
    with lease.held(tmp_path, lambda message, code: left.append(message)):
        before = (tmp_path / lease.NAME).read_text()
        deadline = time.monotonic() + 10
        while (tmp_path / lease.NAME).read_text() in (before, ""):
            assert time.monotonic() < deadline
    assert not left and len(calls) >= 5


def test_a_directory_in_the_way(tmp_path: pathlib.Path) -> None:
    (tmp_path / lease.NAME).mkdir()
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/run.lease: Is a directory"):
        seconds_to_take(tmp_path)
