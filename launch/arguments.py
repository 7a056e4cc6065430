# SPDX-License-Identifier: Apache-2.0
"""Checks of what a user types before any of it reaches a command of the cloud.

Everything runs as a list of arguments and never through a local shell, but names still end up in
remote shells, manifests and URLs: what could be read as an option, a pattern or a second line is
refused here, with exit code 64.
"""

import dataclasses
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from absl import flags

from data_pipeline.errors import UsageError

ROOT = Path(__file__).parents[1]  # the checkout that is launched
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # pods append up to 23 characters
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z0-9]+")
PROJECT = re.compile(r"[a-z][-a-z0-9.:]{4,61}[a-z0-9]")
ACCOUNT = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*@[A-Za-z0-9][-A-Za-z0-9.]*")
BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]")
IMAGE = re.compile(r"[a-z0-9][-a-zA-Z0-9._/]*(:[-a-zA-Z0-9._]+)?(@sha256:[0-9a-f]{64})?")
DURATION = re.compile(r"[0-9]+[smhd]")
_SLICES = "--config.mesh.slices="
OVERRIDE = re.compile(r"--config\.[A-Za-z_][A-Za-z0-9_.]*=.*")


@dataclasses.dataclass(frozen=True)
class Run:
    """What is to be trained, and where it reads and writes."""

    config: str  # recipe as `bert_jax.pretrain` takes it
    store: str  # gs://bucket/path, or a directory that every host sees
    workdir: str  # likewise
    overrides: tuple[str, ...] = ()  # --config.key=value
    stage: bool = True  # whether each host copies the store to its own disk first

    @staticmethod
    def define_flags() -> None:
        """Defines the flags of the commands that launch a run."""
        flags.DEFINE_string("store", "", "Store of token ids: gs://bucket/path or a mounted path.")
        flags.DEFINE_string(
            "workdir", "", "Directory of the run: gs://bucket/path or a mounted path."
        )
        flags.DEFINE_string("config", "", "Recipe, for example configs/pretrain.py:base,pod.")
        flags.DEFINE_integer("slices", 1, "Train on so many of these slices.", lower_bound=1)
        flags.DEFINE_bool("stage", True, "Copy a gs:// store to each host's disk before training.")
        flags.DEFINE_bool("dry_run", False, "Print the commands, run none.")

    @classmethod
    def from_flags(cls, overrides: tuple[str, ...]) -> Self:
        """Reads and checks the flags.

        Raises:
            UsageError: one is missing or of a wrong form.
        """
        given = flags.FLAGS
        if given.slices > 1:
            overrides = (*overrides, f"{_SLICES}{given.slices}")
        return cls(
            config=recipe(given.config),
            store=location("store", given.store),
            workdir=location("workdir", given.workdir),
            overrides=overrides,
            stage=given.stage,
        )


def matching(flag: str, value: str, pattern: re.Pattern[str], example: str) -> str:
    """`value` if it is of the form that the cloud takes.

    Raises:
        UsageError: it is absent or of another form.
    """
    if not value:
        raise UsageError(f"--{flag} is needed, for example --{flag}={example}")
    if not pattern.fullmatch(value):
        raise UsageError(f"--{flag}={value!r} is not of the form the cloud takes, as {example}")
    return value


def location(flag: str, value: str) -> str:
    """A gs:// address or an absolute path, without a slash at its end.

    Raises:
        UsageError: it is neither, or has characters that gcloud or a mount would read otherwise.
    """
    example = f"--{flag}=gs://my-bucket/path"
    if not value:
        raise UsageError(f"--{flag} is needed, for example {example}")
    bucket, _, rest = value.removeprefix("gs://").partition("/")
    if value.startswith("gs://"):
        if not BUCKET.fullmatch(bucket):
            raise UsageError(f"--{flag}={value!r}: {bucket!r} is no name of a bucket; as {example}")
    elif value.startswith("/"):
        rest = value[1:]
    else:
        raise UsageError(
            f"--{flag}={value!r} must be seen by every host: a gs:// address, as {example}, or an "
            "absolute path of a file system mounted on all of them"
        )
    rest = rest.rstrip("/")
    if not rest:
        raise UsageError(f"--{flag}={value!r} names no directory; as {example}")
    if any(part in ("", ".", "..") for part in rest.split("/")):
        raise UsageError(f"--{flag}={value!r} has an empty, '.' or '..' part")
    if not rest.isprintable() or re.search(r"[*?\[\]#]", rest):
        raise UsageError(
            f"--{flag}={value!r} has a character that gcloud reads as a pattern or end"
        )
    return value.rstrip("/")


def bucket_of(place: str) -> str:
    """Name of the bucket of a gs:// address, "" for a path."""
    return place.removeprefix("gs://").partition("/")[0] if place.startswith("gs://") else ""


def recipe(value: str) -> str:
    """A recipe of this checkout, as it will lie on every host.

    Raises:
        UsageError: no file of this checkout.
    """
    path, _, argument = value.partition(":")
    if not path:
        raise UsageError("--config is needed, for example --config=configs/pretrain.py:base,pod")
    if path.startswith(("-", "/")) or ".." in Path(path).parts or not path.isprintable():
        raise UsageError(f"--config={value!r} must be a path inside this checkout")
    if not (ROOT / path).is_file():
        raise UsageError(f"--config={value!r}: there is no {path} in {ROOT}")
    if argument and not re.fullmatch(r"[A-Za-z0-9_.,=-]+", argument):
        raise UsageError(f"--config={value!r}: {argument!r} is no argument of a recipe")
    return value


def overrides(values: Sequence[str]) -> tuple[str, ...]:
    """Keys of the recipe set on the command line, given after `--`.

    Raises:
        UsageError: something else stands there.
    """
    for value in values:
        if not OVERRIDE.fullmatch(value) or not value.isprintable():
            raise UsageError(
                f"unexpected argument {value!r}: after `--` come keys of the recipe, "
                "as --config.steps=1000"
            )
        if value.startswith("--config.data.store="):
            raise UsageError(
                "the store is given as --store, so that it can be brought to each host"
            )
        if value.startswith(_SLICES):
            raise UsageError("the number of slices is given as --slices, so that all are rented")
    return tuple(values)


def revision() -> str:
    """The commit that is checked out, once nothing differs from it.

    Raises:
        UsageError: this is no checkout, or it has changes that no commit holds.
    """
    head = _git("rev-parse", "--verify", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    if changed:
        first = changed.splitlines()[0].strip()
        raise UsageError(
            f"{ROOT} has changes that are not committed ({first}): every host runs the commit, "
            "so commit them first"
        )
    return head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UsageError("git is not installed; it packs the code for the hosts") from error
    if done.returncode:
        raise UsageError(f"{ROOT} is no git checkout with a commit: {done.stderr.strip()}")
    return done.stdout.strip()
