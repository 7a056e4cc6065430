# SPDX-License-Identifier: Apache-2.0
"""Arrays that are computed once and kept beside a store, so that the next process finds them.

Each is a file of its own, whose name holds what it was computed from, one number that belongs to it
and the CRC-32 of its bytes. It is written aside and then named, so it appears whole or not at all;
any number of processes may make it at once, and the first one's file stays, because others may have
mapped it by then. A file that is not as its name says counts as absent. The folder may be deleted
at any time; where nothing can be written, arrays stay in memory.
"""

import dataclasses
import os
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class KeptArrays:
    """The arrays kept in `folder`; with None nothing is kept."""

    folder: Path | None

    def number(self, name: str) -> int | None:
        """The number that was kept with the array `name`; None if there is no such array."""
        found = self._find(name)
        return None if found is None else int(found[1])

    def load(self, name: str) -> np.ndarray | None:
        """The array, mapped into memory; None if it is absent or damaged."""
        found = self._find(name)
        if found is None:
            return None
        path, _, checksum = found
        try:
            if _checksum(path) != checksum:
                return None
            # Plain arrays: each slice of a np.memmap costs as much as a whole step of a walk.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError):
            return None

    def keep(self, name: str, array: np.ndarray, number: int = 0) -> np.ndarray:
        """Keeps an array and a number under `name`.

        Returns:
            the kept array, mapped into memory, or `array` itself if it cannot be kept.
        """
        if self.folder is None:
            return array
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=self.folder)
            with open(descriptor, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            path = Path(temporary)
            path.chmod(0o644)
            for other, _, checksum in self._matching(name):
                if _checksum(other) != checksum:
                    other.unlink(missing_ok=True)
            _name(path, self.folder / f"{name}.{number}.{_checksum(path)}.npy")
        except OSError:
            return array
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
        mapped = self.load(name)
        return array if mapped is None else mapped

    def _find(self, name: str) -> tuple[Path, str, str] | None:
        return next(iter(self._matching(name)), None)

    def _matching(self, name: str) -> list[tuple[Path, str, str]]:
        """Files of that array, each with its number and its checksum."""
        if self.folder is None:
            return []
        pattern = re.compile(re.escape(name) + r"\.(\d+)\.([0-9a-f]{8})\.npy")
        try:
            paths = sorted(self.folder.iterdir())
        except OSError:
            return []
        matches = ((path, pattern.fullmatch(path.name)) for path in paths)
        return [(path, match[1], match[2]) for path, match in matches if match]


def _name(temporary: Path, path: Path) -> None:
    """Gives a file its name, unless one of that name is there.

    To replace that one would end every process on another host that has mapped it over NFS.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a filesystem without links, such as gcsfuse
        if not path.exists():
            temporary.rename(path)


def _checksum(path: Path) -> str:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
