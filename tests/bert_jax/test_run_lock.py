# SPDX-License-Identifier: Apache-2.0
"""The lock on a work directory, held and released by real processes."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bert_jax import run_lock
from data_pipeline.errors import OutputError

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from bert_jax import run_lock
with run_lock.exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(workdir: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `workdir`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, workdir],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def assert_refused(workdir: pathlib.Path, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(OutputError, match=message) as raised, run_lock.exclusive(workdir):
        pass
    assert raised.value.exit_code == 73
    assert time.monotonic() - started < 1


def test_makes_the_directory_and_can_be_taken_again(tmp_path: pathlib.Path) -> None:
    for _ in range(2):
        with run_lock.exclusive(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()


def test_second_process_is_told_who_holds_it(tmp_path: pathlib.Path) -> None:
    with holder(tmp_path) as process:
        owner = f"process {process.pid} on {socket.gethostname()}, started 20"
        assert_refused(tmp_path, f"another run is at work in {tmp_path}: {owner}")
        assert_refused(tmp_path, owner)  # being refused has changed nothing


def test_released_by_a_kill(tmp_path: pathlib.Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with run_lock.exclusive(tmp_path):
            assert f'"pid": {os.getpid()}' in (tmp_path / run_lock.NAME).read_text()


def test_released_by_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyError), run_lock.exclusive(tmp_path):
        raise KeyError
    with run_lock.exclusive(tmp_path):
        pass


def test_refused_inside_the_same_process(tmp_path: pathlib.Path) -> None:
    with run_lock.exclusive(tmp_path):
        assert_refused(tmp_path, f"process {os.getpid()} ")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_owner_that_cannot_be_read(tmp_path: pathlib.Path, content: str) -> None:
    with run_lock.exclusive(tmp_path):
        (tmp_path / run_lock.NAME).write_text(content)
        assert_refused(tmp_path, "another run is at work")


def test_file_in_the_way(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run"
    path.write_text("")
    assert_refused(path, f"the work directory {path} is a file")
    assert_refused(path / "inner", "cannot be made: Not a directory")


def test_an_address_in_an_object_store_makes_no_directory_of_that_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(pathlib.Path("gs://bucket/runs/a"), "gs://bucket/runs/a is in an object store")
    assert not list(tmp_path.iterdir())


def test_parents_are_made(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "runs" / "mine"
    with run_lock.exclusive(path):
        assert path.is_dir()


def test_lock_file_is_a_directory(tmp_path: pathlib.Path) -> None:
    (tmp_path / run_lock.NAME).mkdir()
    assert_refused(tmp_path, f"cannot write into the work directory {tmp_path}: Is a directory")


def test_read_only_directory(tmp_path: pathlib.Path) -> None:
    user = os.geteuid()
    if user == 0:  # for whom nothing is read-only
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o755)
        os.seteuid(65534)
    else:
        tmp_path.chmod(0o555)
    try:
        assert_refused(tmp_path, f"cannot write into the work directory {tmp_path}: Permission")
        assert_refused(tmp_path / "run", f"{tmp_path}/run cannot be made: Permission denied")
    finally:
        if user == 0:
            os.seteuid(0)
        else:
            tmp_path.chmod(0o755)
