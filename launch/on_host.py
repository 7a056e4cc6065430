# SPDX-License-Identifier: Apache-2.0
"""The part of a launch that runs on each host of a slice, from the root of the code there.

    python3 -m launch.on_host install | start | status | log | stop | run ...

`launch.tpu_vm` calls it over ssh, where every call may come twice: what is done or running is left
alone. `run` is what a container of `launch.gke` executes. Nothing here or in `launch.host_storage`
needs more than the standard library of the Python 3.10 that the machines come with.

Files, in BASE: <revision>/ the code, current a link to it, venv/ its environment, stores/ copies of
stores, lock, and run/ with log, supervisor.json (who watches over the trainer), ended.json (how it
ended) and stopped (it was asked to).
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch import host_storage
from launch.host_storage import BASE, call, fail, mount, mounted, stage

RUN = BASE / "run"
CURRENT = "current"  # in BASE, a link to the code that was installed last
VENV = BASE / "venv"
CODE = Path(__file__).resolve().parents[1]
PYTHON = "3.12"
EXIT_CRASH_LOOP = 70
RESTARTS_WITHOUT_PROGRESS = 3


def trainer(config: str, workdir: str, store: str, overrides: list[str]) -> list[str]:
    """Arguments of the training command, after the interpreter."""
    # A slice without its TPU is an error, not a very slow run on the hosts' processors.
    command = ["-m", "bert_jax.pretrain", "--platform=tpu", f"--config={config}"]
    command.append(f"--workdir={mounted(workdir)}")
    return [*command, f"--config.data.store={mounted(store)}", *overrides]


def checkpoint(workdir: Path) -> int | None:
    """The newest step whose checkpoint is complete, which is when it has its manifest."""
    found = [path.parent.name for path in workdir.glob("checkpoints/*/manifest.json")]
    return max((int(name) for name in found if name.isdigit()), default=None)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Waits for another call on this host: ssh that breaks off leaves one behind at work."""
    BASE.mkdir(exist_ok=True)
    with (BASE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@alone()
def install() -> None:
    """The environment of this code: a newer Python than the machine's, and the pinned packages."""
    link = BASE / f"{CURRENT}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(CODE)
    link.replace(BASE / CURRENT)
    wanted = hashlib.sha256(
        (CODE / "setup.cfg").read_bytes() + (CODE / "constraints.txt").read_bytes()
    ).hexdigest()
    stamp = VENV / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        print(f"{socket.gethostname()}: installed before")
        return
    uv = [sys.executable, "-m", "uv"]
    call([sys.executable, "-m", "pip", "install", "--user", "--quiet", "uv"], "install uv")
    call([*uv, "venv", "--clear", "--python", PYTHON, str(VENV)], "make the environment")
    packages = ["--constraint", str(CODE / "constraints.txt"), str(CODE), "jax[tpu]"]
    python = ["--python", str(VENV / "bin" / "python")]
    call([*uv, "pip", "install", *python, *packages], "install the packages")
    stamp.write_text(wanted)
    print(f"{socket.gethostname()}: installed")


@alone()
def start(config: str, workdir: str, store: str, overrides: list[str], copy: bool) -> None:
    """Brings the data here and starts the trainer, which then needs nobody who watches."""
    if supervisor() is not None:
        print(f"{socket.gethostname()}: running already")
        return
    mount(workdir)
    host_storage.probe(Path(mounted(workdir)))
    if copy and store.startswith("gs://"):
        store = stage(store)
    else:
        mount(store)
    RUN.mkdir(parents=True, exist_ok=True)
    for name in ("ended.json", "stopped"):
        (RUN / name).unlink(missing_ok=True)
    command = [str(VENV / "bin" / "python"), *trainer(config, workdir, store, overrides)]
    with (RUN / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.on_host", "supervise", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=CODE,
            start_new_session=True,  # the end of the ssh session is not its end
        )
    _write(
        RUN / "supervisor.json",
        {"pid": process.pid, "born": _born(process.pid), "workdir": mounted(workdir)},
    )
    print(f"{socket.gethostname()}: started")


def supervise(command: list[str]) -> None:
    """Runs the trainer and writes down how it ended; SIGTERM is handed on to it."""
    print(f"$ {shlex.join(command)}", flush=True)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    code = process.wait()
    _keep_log()
    _write(RUN / "ended.json", {"exit_code": code if code >= 0 else 128 - code})


def supervisor() -> int | None:
    """Process id of the supervisor while it lives."""
    try:
        content = json.loads((RUN / "supervisor.json").read_text())
        return content["pid"] if _born(content["pid"]) == content["born"] else None
    except (OSError, ValueError):
        return None


def status() -> None:
    """One line of JSON: whether the trainer runs, how it ended, and how far the run is."""
    report: dict[str, Any] = {"host": socket.gethostname(), "state": "absent", "exit_code": None}
    if (RUN / "supervisor.json").is_file():
        report["state"] = "running"
        workdir = Path(json.loads((RUN / "supervisor.json").read_text())["workdir"])
        report["checkpoint"] = checkpoint(workdir)
        report["metrics"] = _last_metrics(workdir / "metrics.jsonl")
        if supervisor() is None:
            report["state"] = "stopped" if (RUN / "stopped").is_file() else "ended"
            # Without a word, the supervisor itself was killed.
            report["exit_code"] = 137
            if (RUN / "ended.json").is_file():
                report.update(json.loads((RUN / "ended.json").read_text()))
    print(json.dumps({"bert_jax": report}), flush=True)


def stop(seconds: float, resumes: bool) -> None:
    """Asks the trainer to save and end; after `seconds` it is killed.

    Args:
        resumes: the run goes on afterwards; otherwise it rests until somebody starts it.
    """
    pid = supervisor()
    if pid is None:
        print(f"{socket.gethostname()}: nothing runs")
        return
    if not resumes:
        (RUN / "stopped").touch()
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while supervisor() is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    if supervisor() is not None:
        os.killpg(pid, signal.SIGKILL)  # a session of their own: the supervisor and the trainer
    print(f"{socket.gethostname()}: stopped")


def run(config: str, workdir: str, store: str, overrides: list[str]) -> None:
    """Becomes the trainer, unless restarts do not get the run any further.

    A JobSet counts restarts however far each one came; here the first host, of the first slice,
    counts those that found no newer checkpoint than the start before.
    """
    directory = Path(mounted(workdir))
    if {os.environ.get(name, "0") for name in ("JOB_INDEX", "JOB_COMPLETION_INDEX")} == {"0"}:
        directory.mkdir(parents=True, exist_ok=True)
        tally = directory / "starts.json"
        step, starts = checkpoint(directory), 1
        if tally.is_file():
            before = json.loads(tally.read_text())
            starts = before["starts"] + 1 if before["checkpoint"] == step else 1
        _write(tally, {"checkpoint": step, "starts": starts})
        if starts > 1 + RESTARTS_WITHOUT_PROGRESS:
            place = "the beginning" if step is None else f"checkpoint {step}"
            fail(
                f"{RESTARTS_WITHOUT_PROGRESS} restarts in a row found no newer checkpoint than "
                f"{place}; read the log, then delete {tally}",
                EXIT_CRASH_LOOP,
            )
    os.chdir(CODE)
    os.execv(sys.executable, [sys.executable, *trainer(config, workdir, store, overrides)])


def _keep_log() -> None:
    """Copies the log beside the run, because this disk goes with the machine."""
    try:
        workdir = Path(json.loads((RUN / "supervisor.json").read_text())["workdir"])
        (workdir / "logs").mkdir(exist_ok=True)
        shutil.copyfile(RUN / "log", workdir / "logs" / f"{socket.gethostname()}.log")
    except (OSError, ValueError) as error:
        print(f"the log cannot be kept: {error}", flush=True)


def log(lines: int) -> None:
    """The end of the trainer's log."""
    print(f"--- {socket.gethostname()}", flush=True)
    subprocess.run(["tail", "-n", str(lines), str(RUN / "log")], check=False)


def _born(pid: int) -> str:
    """When a process started, "" once it is gone: its id alone may be another one's by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def _last_metrics(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return json.loads(file.read().split(b"\n")[-2])
    except (OSError, ValueError, IndexError):
        return None


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="launch.on_host")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    commands.add_parser("status")
    commands.add_parser("log").add_argument("--lines", type=int, required=True)
    stopping = commands.add_parser("stop")
    stopping.add_argument("--seconds", type=float, default=120)
    stopping.add_argument("--resumes", action="store_true")
    commands.add_parser("supervise").add_argument("trainer", nargs="+")
    for name in ("start", "run"):
        command = commands.add_parser(name)
        for flag in ("--config", "--workdir", "--store"):
            command.add_argument(flag, required=True)
        command.add_argument("overrides", nargs="*")
    commands.choices["start"].add_argument("--copy", action="store_true")
    options = vars(parser.parse_args())
    command = options.pop("command")
    if command == "supervise":
        supervise(options["trainer"])
    else:
        actions: dict[str, Callable[..., None]] = {
            "install": install,
            "status": status,
            "start": start,
            "stop": stop,
            "run": run,
            "log": log,
        }
        actions[command](**options)


if __name__ == "__main__":
    main()
