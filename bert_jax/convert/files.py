# SPDX-License-Identifier: Apache-2.0
"""Directories written whole or not at all, files not written over, JSON read with clear words."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError, OutputError

# One of them is in what we replace.
WRITTEN = ("config.json", "model.safetensors", "checkpoints", "bert_config.json")


@contextlib.contextmanager
def new_directory(target: Path, overwrite: bool) -> Iterator[Path]:
    """A scratch directory beside `target` that takes its place when the block ends well.

    Raises:
        OutputError: `target` exists and may not be replaced, or cannot be written.
    """
    target = target.absolute()
    scratch = target.with_name(target.name + ".tmp")
    old = target.with_name(target.name + ".old")
    check_target(target, overwrite)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        if target.exists():
            target.rename(old)
        scratch.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise OutputError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def check_target(target: Path, overwrite: bool) -> None:
    """Refuses a `target` that exists, unless it may be overwritten and is a model's directory.

    Raises:
        OutputError: saying what is there.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{target} exists; name another --target, or add --overwrite")
    if not any((target / name).exists() for name in WRITTEN):
        raise OutputError(
            f"{target} holds no model: --overwrite replaces only directories that hold one"
        )


def check_new_file(path: str | None, overwrite: bool) -> None:
    """Refuses to write over a file before any work is done for it.

    Args:
        path: the file, or None for no file.
        overwrite: whether the user allows it.

    Raises:
        OutputError: the file exists, or its folder does not.
    """
    if path and Path(path).exists() and not overwrite:
        raise OutputError(f"{path} exists; name another file, or add --overwrite")
    if path and not Path(path).absolute().parent.is_dir():
        raise OutputError(f"{path} cannot be written: its folder does not exist")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DataError: it is missing or is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {path.parent} is no model directory") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object")
    return content
