# SPDX-License-Identifier: Apache-2.0
"""A polite request to stop: SIGTERM from a scheduler, or Ctrl-C, becomes a flag.

The training loop looks at the flag after every step, saves, and leaves with the exit code that
means "start me again". A second signal ends the process at once.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """Context manager; `requested` turns true at the first SIGTERM or SIGINT inside it."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)
