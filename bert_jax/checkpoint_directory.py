# SPDX-License-Identifier: Apache-2.0
"""The directory that holds a run's checkpoints: which entries are steps, and which may be trusted.

<step>/                      a step; trusted if its manifest fits (`bert_jax.manifest`)
<step>.orbax-checkpoint-tmp  a save that a kill cut short; removed when the run starts again
deleted-<step>/              a deletion that a kill cut short; likewise
corrupt-<step>/              a step that did not fit its manifest; kept for whoever wants to look
ignored-<name>               something else that had the name of a step; kept
"""

import pathlib
import re
import shutil
from collections.abc import Sequence

from absl import logging

from bert_jax import manifest
from bert_jax.manifest import DamageError, Manifest
from data_pipeline.errors import DataError, DiskError

_STEP = re.compile(r"0|[1-9][0-9]*")
_TEMPORARY = re.compile(r"(0|[1-9][0-9]*)\.orbax-checkpoint-tmp")
_DELETED = re.compile(r"deleted-[0-9]+")
_SET_ASIDE = re.compile(r"(corrupt|ignored)-.*")
_DIFFERENCES_SHOWN = 5


def steps(directory: pathlib.Path) -> list[int]:
    """Numbers of the steps that have a manifest, fitting or not, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if _is_sealed(path))


def tidy(directory: pathlib.Path) -> None:
    """Removes what kills left behind, and moves aside what has the name of a step and is none.

    Raises:
        DataError: there are several steps and not one of them has a manifest.
        OSError: something cannot be removed.
        DiskError: something cannot be renamed.
    """
    entries = sorted(directory.iterdir())
    unsealed = [
        path
        for path in entries
        if _STEP.fullmatch(path.name) and not _is_sealed(path) and (path / "state").is_dir()
    ]
    # A kill leaves at most one step without its manifest. More mean that the manifests got lost,
    # and training must not start over as if nothing had been saved.
    if len(unsealed) > 1 and not steps(directory):
        raise all_damaged(
            directory, [f"{path.name}: {manifest.NAME} is missing" for path in unsealed]
        )
    for path in entries:
        if _is_sealed(path) or _SET_ASIDE.fullmatch(path.name):
            continue
        temporary = _TEMPORARY.fullmatch(path.name)
        if (temporary or _DELETED.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            _remove(path)
        elif temporary or _STEP.fullmatch(path.name):
            aside = set_aside(path, f"ignored-{path.name}")
            logging.warning("%s is no complete checkpoint; renamed to %s", path, aside.name)
        else:
            logging.warning("%s is no checkpoint; ignored", path)


def verify(
    directory: pathlib.Path, step: int | None, expected: dict[str, str], prefix: str = ""
) -> Manifest:
    """Checks one step: its manifest, then its arrays, then the bytes of its files.

    Args:
        directory: of the step.
        step: what step it must be; None for any.
        expected: the arrays that are wanted, as `manifest.describe` names them.
        prefix: of the names of the saved arrays that must be just these.

    Raises:
        DamageError: the step cannot be trusted.
        DataError: it can be trusted, and holds other arrays.
    """
    found = manifest.read(directory)
    if step is not None and found.step != step:
        raise DamageError(f"{manifest.NAME} is that of step {found.step}")
    saved = {name: form for name, form in found.arrays.items() if name.startswith(prefix)}
    differing = [
        f"{name}: saved {saved.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if differing:
        shown = differing[:_DIFFERENCES_SHOWN]
        if len(differing) > len(shown):
            shown.append(f"and {len(differing) - len(shown)} more")
        raise DataError(
            f"checkpoint {directory} does not fit this model or optimizer:\n  "
            + "\n  ".join(shown)
            + "\nUse the configuration, and the version of bert_jax, that it was saved with."
        )
    manifest.check_files(directory, found)
    return found


def set_aside(path: pathlib.Path, name: str) -> pathlib.Path:
    """Renames `path` to `name`, numbered if that is taken; returns the new path.

    Raises:
        DiskError: it cannot be renamed.
    """
    target = path.with_name(name)
    number = 1
    while target.exists() or target.is_symlink():
        number += 1
        target = path.with_name(f"{name}.{number}")
    try:
        return path.rename(target)
    except OSError as error:
        raise DiskError(f"cannot rename {path} to {target.name}: {error.strerror}") from error


def delete(path: pathlib.Path) -> None:
    """Deletes a step, under another name first, so that a kill leaves no half of a step."""
    try:
        _remove(path.rename(path.with_name(f"deleted-{path.name}")))
    except OSError as error:
        logging.warning("cannot delete the old checkpoint %s: %s", path, error)


def all_damaged(directory: pathlib.Path, reasons: Sequence[str]) -> DataError:
    """The error to raise where there are checkpoints and none of them is good."""
    return DataError(
        f"no checkpoint in {directory} can be trusted:\n  "
        + "\n  ".join(reasons)
        + "\nPut back a copy of one, or move the directory away to start from step 0."
    )


def _remove(path: pathlib.Path) -> None:
    """Deletes a directory, also where one vanishes with its last file, as in a mounted bucket."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        shutil.rmtree(path)  # says what is in the way


def _is_sealed(path: pathlib.Path) -> bool:
    is_step = _STEP.fullmatch(path.name) is not None and not path.is_symlink()
    return is_step and (path / manifest.NAME).is_file()
