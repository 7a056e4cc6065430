# SPDX-License-Identifier: Apache-2.0
"""Progress of a command that reads its input once: bytes, speed, time left."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_LOOKS = 2.0


class Progress:
    """Prints a line every few seconds."""

    def __init__(self, command: str, total_bytes: int) -> None:
        self._command = command
        self._total = max(total_bytes, 1)
        self._start = self._last = time.monotonic()

    def update(self, done_bytes: int, note: str) -> None:
        """Prints how far the input has been read, if it is time to."""
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._print(done_bytes, now - self._start, note)

    def finish(self, note: str) -> None:
        """Prints the last line."""
        self._print(self._total, time.monotonic() - self._start, note)

    def _print(self, done: int, seconds: float, note: str) -> None:
        speed = done / max(seconds, 1e-9)
        left = (self._total - done) / max(speed, 1.0)
        when = f"{left:.0f} s left" if done < self._total else f"done in {seconds:.1f} s"
        print(
            f"{self._command}: {done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, "
            f"{speed / 1e6:.1f} MB/s, {note}, {when}",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def watch_files(
    command: str, what: str, sizes: Mapping[str, int], directory: Path
) -> Iterator[None]:
    """Tells while the block runs which of the files, of these sizes, have appeared."""
    progress = Progress(command, sum(sizes.values()))
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_SECONDS_BETWEEN_LOOKS):
            done = sizes.keys() & {path.name for path in directory.iterdir()}
            note = f"{what}: {len(done):,} of {len(sizes):,}"
            progress.update(sum(sizes[name] for name in done), note)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        progress.finish(f"{what}: {len(sizes):,} of {len(sizes):,}")
    finally:
        finished.set()
        thread.join()
