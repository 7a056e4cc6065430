# SPDX-License-Identifier: Apache-2.0
"""The directory in which a store is prepared, which outlives whatever interrupts that.

    OUTPUT.tmp/plan.json   what is being prepared: only the same preparation may continue here
    OUTPUT.tmp/parts/      one file for each unit of the corpus that is done
    OUTPUT.tmp/notes/      what workers complained about
    OUTPUT.tmp/scratch/    what one start needs on the way
    OUTPUT.tmp/store/      the store, which becomes OUTPUT

In an object store OUTPUT itself is filled instead, and its `store.json` is written last.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from data_pipeline.errors import DataError, OutputError, UsageError
from data_pipeline.files import access_errors, is_remote, place, written_whole
from data_pipeline.output import LOCK, claim, disk_errors
from data_pipeline.store import MANIFEST

_PLAN = "plan.json"


class Workspace:
    """Use it in a `with` block, which keeps what is there for the next start.

    Only bad input or usage removes it at the end, since the same start would end the same way.
    """

    def __init__(self, output: Path, plan: Mapping[str, Any]) -> None:
        """Claims the place, and finds what an interrupted preparation left.

        Raises:
            OutputError: something is there already, another process is at work, something else
                was being prepared, or the place cannot be written to.
        """
        self.output = output
        self.remote = is_remote(output)
        self.directory = output.parent / (output.name + ".tmp")
        self.parts, self.notes = self.directory / "parts", self.directory / "notes"
        self._lock: IO[str] | None = None
        try:
            with access_errors(output, OutputError):
                self._claim(plan)
        except OSError as error:
            self._release()
            reason = error.strerror or error
            raise OutputError(f"cannot write to {self.directory}: {reason}") from error
        except OutputError:
            self._release()
            raise
        # Arrays are made here even for an object store: their headers are written last.
        self._scratch = tempfile.TemporaryDirectory() if self.remote else None
        scratch = Path(self._scratch.name) if self._scratch else self.directory
        self.store = scratch / "store"
        self.scratch = scratch / "scratch"  # for files of this start
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self.final = self.output if self.remote else self.store

    def _claim(self, plan: Mapping[str, Any]) -> None:
        output = self.output
        # In an object store the output grows in its place, but not before there is a plan.
        ours = self.remote and (self.directory / _PLAN).exists()
        if output.is_file() or (not ours and output.is_dir() and any(output.iterdir())):
            raise OutputError(f"{output} exists already; remove it or choose another --output")
        if self.remote:
            self.directory.mkdir(parents=True, exist_ok=True)
        else:
            self._lock = claim(self.directory)
        self._check_plan(plan)
        self.parts.mkdir(exist_ok=True)
        self.notes.mkdir(exist_ok=True)
        for old in self.notes.iterdir():
            old.unlink()
        if not self.remote:
            _remove_halves(self.parts)

    def _check_plan(self, plan: Mapping[str, Any]) -> None:
        path = self.directory / _PLAN
        plan = json.loads(json.dumps(plan))
        if not path.exists():
            left = {entry.name for entry in self.directory.iterdir()} - {LOCK}
            if left:
                raise OutputError(
                    f"{self.directory} holds something else ({', '.join(sorted(left)[:3])}); "
                    "remove it or choose another --output"
                )
            with disk_errors(path), written_whole(path) as file:
                file.write_text(json.dumps(plan, indent=2), encoding="utf-8")
            return
        try:
            then = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            then = {}
        if different := differences(then, plan):
            raise OutputError(
                f"{self.directory} was left by an interrupted preparation of something else; "
                f"remove it or choose another --output. What differs:\n{different}"
            )

    def finished_parts(self) -> set[str]:
        """Names of the parts that are done."""
        return {path.name for path in self.parts.iterdir() if not path.name.startswith(".")}

    def upload(self, pattern: str = "**/*") -> None:
        """Puts files of the store where they are wanted, if that is not here; the manifest last."""
        if not self.remote:
            return
        files = [path for path in self.store.glob(pattern) if path.is_file()]
        for file in sorted(files, key=lambda file: (file.name == MANIFEST, file)):
            target = self.final / str(file.relative_to(self.store))
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 22)

    def finish(self) -> None:
        """Gives the store its name and removes everything else."""
        if not self.remote:
            with disk_errors(self.output):
                _remove_halves(self.store)
                self.store.rename(self.output)
        self._remove()

    def _remove(self) -> None:
        if self.remote:
            self.directory.rmtree()  # type: ignore[attr-defined]
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _release(self) -> None:
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind and issubclass(kind, DataError | UsageError):
            self._remove()
        if self._scratch:
            self._scratch.cleanup()
        self._release()


def _remove_halves(directory: Path) -> None:
    """Removes what killed workers left of files that `written_whole` was to write."""
    for left in directory.glob(".*"):
        left.unlink(missing_ok=True)


def clear_leftovers(output: Path) -> None:
    """Removes what was left beside a finished store by a start that was killed at its very end."""
    directory = place(output.parent / (output.name + ".tmp"))
    if (directory / _PLAN).exists() and not is_remote(output):
        claim(directory).close()
        shutil.rmtree(directory, ignore_errors=True)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not the same in two plans, a line each; empty if they agree."""
    return "\n".join(
        f"  {name}: {then.get(name)} there, {value} asked for"
        for name, value in now.items()
        if value != then.get(name)
    )
