# SPDX-License-Identifier: Apache-2.0
"""What the compiler made of a program, kept in files: JSON, compressed, one a program."""

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any


def read_entry(path: Path, forms: Collection[frozenset[str]]) -> dict[str, Any] | None:
    """What is kept in a file; None if that is nothing, damaged, or of no form that is known.

    Args:
        path: of the file.
        forms: names of the values, for each form that an entry may have.
    """
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return found if isinstance(found, dict) and frozenset(found) in forms else None


def write_entry(path: Path, found: dict[str, Any], say: Callable[[str], None]) -> None:
    """Keeps a result, whole or not at all; where that fails, says so and goes on.

    Args:
        path: of the file; its directory is made.
        found: what JSON can hold.
        say: told why nothing is kept.
    """
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
        partial.replace(path)
    except OSError as error:  # minutes of compiling are not to be lost for want of a cache
        say(f"the result is not kept in {path.parent}: {error.strerror}")
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
