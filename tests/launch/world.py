# SPDX-License-Identifier: Apache-2.0
"""A cloud of directories, and a checkout that is clean, for commands to be run in."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SLICE = ("--slice=v4-16", "--name=bert", "--zone=us-central2-b", "--poll=0.05")
RUN = (
    "--store=gs://data/store",
    "--workdir=gs://work/runs/a b",
    "--config=configs/pretrain.py:tiny",
)
COMING = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def script(
    lives: list[dict[str, Any]] | None = None,
    rounds: list[dict[str, Any]] | None = None,
    errors: dict[str, str] | None = None,
    node: str = "READY",
    hosts: int = 2,
    passing: list[tuple[str, int, str]] | None = None,
) -> dict[str, Any]:
    """What is to happen: to each slice that is made, to each start of the trainer, to commands.

    `errors` are of every command that begins so, `passing` of the first, second, ... of them.
    """
    return {
        "lives": lives or [{"states": COMING}],
        "rounds": rounds or [training()],
        "errors": errors or {},
        "node": node,
        "hosts": hosts,
        "passing": passing or [],
    }


def training(codes: int | list[int] = 0, checkpoint: int | None = 10, seconds: float = 0) -> dict:
    """One start of the trainer on all hosts."""
    codes = codes if isinstance(codes, list) else [codes] * 4
    return {"codes": codes, "checkpoint": checkpoint, "seconds": seconds}


@dataclasses.dataclass
class World:
    """The stand-ins' directory and the checkout beside it."""

    path: Path

    @property
    def checkout(self) -> Path:
        return self.path / "checkout"

    def environment(self) -> dict[str, str]:
        programs = [self.path / "bin", Path(sys.executable).parent, "/usr/bin", "/bin"]
        return {
            "PATH": os.pathsep.join(map(str, programs)),
            "HOME": str(self.path / "home"),
            "STAND_IN": str(self.path),
            "PYTHONPATH": str(self.path / "modules"),
            "PYTHONPYCACHEPREFIX": str(self.path / "compiled"),
        }

    def launch(
        self, module: str, *given: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python -m launch.<module>` in the checkout."""
        return subprocess.run(
            [sys.executable, "-m", f"launch.{module}", *given],
            cwd=self.checkout,
            env=environment or self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def play(self, content: dict[str, Any]) -> None:
        (self.path / "script.json").write_text(json.dumps(content))

    def calls(self, *words: str) -> list[list[str]]:
        """The commands that were run and have all of `words`."""
        path = self.path / "calls.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [call for line in lines if set(words) <= set(call := json.loads(line))]

    def trained(self) -> list[dict[str, Any]]:
        path = self.path / "trained.jsonl"
        return (
            [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        )


def build(path: Path) -> World:
    """Makes the world: stand-ins on the PATH, two buckets, and a commit of the files at hand."""
    world = World(path)
    for name in ("bin", "home", "modules/pip", "modules/uv", "buckets/data/store", "buckets/work"):
        (path / name).mkdir(parents=True)
    (path / "buckets/data/store/store.json").write_text('{"sentences": 3}')
    (path / "buckets/data/store/tokens.npy").write_bytes(b"tokens")
    for name in ("gcloud", "kubectl"):
        _program(path / "bin" / name, HERE / f"stand_in_{name}.py")
    (path / "bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
    # A mount is a link to the bucket's directory.
    gcsfuse = 'rmdir "$4" && ln -s "$STAND_IN/buckets/$3" "$4"'
    (path / "bin/gcsfuse").write_text(f"#!/bin/sh\n{gcsfuse}\n")
    for name in ("sudo", "gcsfuse"):
        (path / "bin" / name).chmod(0o755)
    for name in ("pip", "uv"):
        (path / "modules" / name / "__init__.py").touch()
    (path / "modules/pip/__main__.py").touch()
    (path / "modules/uv/__main__.py").write_text(
        "import shutil, sys\n"
        "from pathlib import Path\n"
        "if sys.argv[1] == 'venv':\n"
        "    target = Path(sys.argv[-1]) / 'bin'\n"
        "    target.mkdir(parents=True)\n"
        f"    shutil.copy({str(path / 'trainer')!r}, target / 'python')\n"
    )
    _program(path / "trainer", HERE / "stand_in_trainer.py")
    world.play(script())
    _commit(world)
    return world


def _program(path: Path, source: Path) -> None:
    path.write_text(f"#!{sys.executable} -S\n{source.read_text()}")
    path.chmod(0o755)


def _commit(world: World) -> None:
    for name in ("launch", "configs"):
        shutil.copytree(
            ROOT / name, world.checkout / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("bert_jax/__init__.py", "bert_jax/slices.py", "data_pipeline/__init__.py",
                 "data_pipeline/errors.py", "setup.cfg", "constraints.txt"):  # fmt: skip
        (world.checkout / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, world.checkout / name)
    storage = world.checkout / "launch" / "host_storage.py"
    text = storage.read_text()
    # Each host has mount points of its own, and nobody here is root.
    changed = text.replace('Path("/mnt/gs")', 'Path.home() / "mnt"')
    assert changed != text
    storage.write_text(changed.replace("os.path.ismount(point)", "point.is_symlink()"))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "The files at hand"]):
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *command], cwd=world.checkout, check=True)
