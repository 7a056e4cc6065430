# SPDX-License-Identifier: Apache-2.0
"""Checksums of a checkpoint: what makes a saved step one that may be trusted.

Orbax (0.12.8) commits a step by renaming its directory and checks no data on the way back: a
flipped bit loads as a slightly different number. `manifest.json`, written into the step after the
commit, lists bytes and CRC-32 of every file, and name, dtype and shape of every array. A step
whose manifest is missing or does not fit its files is never restored.
"""

import dataclasses
import json
import os
import pathlib
import zlib
from typing import Any

import jax

from bert_jax import agreement

NAME = "manifest.json"
FORMAT_VERSION = 1
_CHUNK_BYTES = 1 << 22


class DamageError(Exception):
    """A step cannot be trusted; the message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a step directory holds.

    Attributes:
        step: the step, again, so that a directory under another name is noticed.
        arrays: name of every array -> dtype and shape, such as "float32[2,128]".
        metrics: validation metrics at this step, by name; empty where there was no evaluation.
        files: path inside the step directory -> {"bytes": size, "crc32": checksum}.
    """

    step: int
    arrays: dict[str, str]
    metrics: dict[str, float]
    files: dict[str, dict[str, int]]


def describe(tree: Any) -> dict[str, str]:
    """Name -> dtype and shape of every leaf, for arrays as for `jax.ShapeDtypeStruct`s.

    Names join the keys of nested dictionaries, tuples and named tuples: "params/mlm/bias".
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def write(
    directory: pathlib.Path, step: int, arrays: dict[str, str], metrics: dict[str, float]
) -> Manifest:
    """Reads back every file of the committed step `directory` and vouches for it.

    Files and directories are flushed to the disk before the manifest names them (Orbax leaves
    that to the operating system), so the manifest also survives a power cut only with its data.

    Raises:
        OSError: a file cannot be read, or the manifest cannot be written.
    """
    files = {}
    for path in _files(directory):
        size, checksum = _checksum(path, flush=True)
        files[path.relative_to(directory).as_posix()] = {"bytes": size, "crc32": checksum}
    for folder in {path.parent for path in _files(directory)}:
        _flush_directory(folder)
    manifest = Manifest(step, arrays, metrics, files)
    content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    temporary = directory / f"{NAME}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({**content, "crc32": _content_checksum(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / NAME)
    _flush_directory(directory)
    return manifest


def read(directory: pathlib.Path) -> Manifest:
    """Reads the manifest of a step without looking at the files that it lists.

    Raises:
        DamageError: it is missing, unreadable or altered.
    """
    try:
        content = json.loads((directory / NAME).read_bytes())
        checksum = content.pop("crc32")
        version = content.pop("format_version")
        manifest = Manifest(**content)
    except FileNotFoundError as error:
        raise DamageError(f"{NAME} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{NAME} cannot be read ({error})") from error
    if checksum != _content_checksum({"format_version": version, **content}):
        raise DamageError(f"{NAME} differs from its own checksum")
    if version != FORMAT_VERSION:
        raise DamageError(f"{NAME} has format version {version}, this is {FORMAT_VERSION}")
    return manifest


def check_files(directory: pathlib.Path, manifest: Manifest) -> None:
    """Compares every file of a step with its manifest.

    Raises:
        DamageError: naming the first file that is missing, has another size or other bytes.
    """
    for name, expected in manifest.files.items():
        try:
            size, checksum = _checksum(directory / name)
        except OSError as error:
            raise DamageError(f"file {name} cannot be read ({error.strerror})") from error
        if size != expected["bytes"]:
            raise DamageError(f"file {name} has {size} bytes instead of {expected['bytes']}")
        if checksum != expected["crc32"]:
            raise DamageError(f"file {name} differs from its checksum")


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    """All files of a step, the manifest and its temporary file aside."""
    own = {directory / NAME, directory / f"{NAME}.tmp"}
    return sorted(path for path in directory.rglob("*") if path.is_file() and path not in own)


def _checksum(path: pathlib.Path, flush: bool = False) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, flushed to the disk first if asked."""
    size = checksum = 0
    with path.open("rb", buffering=0) as file:
        if flush:
            os.fsync(file.fileno())
        while chunk := file.read(_CHUNK_BYTES):
            agreement.progress()
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return size, checksum


def _content_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _flush_directory(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
