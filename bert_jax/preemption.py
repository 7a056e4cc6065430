# SPDX-License-Identifier: Apache-2.0
"""A polite request to stop: SIGTERM from a scheduler, or Ctrl-C, becomes a flag.

The training loop looks at the flag after every step, saves, and leaves with the exit code that
means "start me again". A second signal ends the process at once. Where several processes make up
the run, a signal to any of them lets all stop after the same step.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

import jax

from bert_jax import agreement

_KEY = "stop_after"


class StopRequest:
    """Context manager; `requested` turns true at the first SIGTERM or SIGINT inside it."""

    def __init__(self) -> None:
        self.requested = False
        self._told = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def due(self, step: int) -> bool:
        """Whether to stop after `step`; every process asks after every step.

        A process that asks has read the metrics of the step before, for which all others must have
        begun that step. So whoever is signalled after step n has told so before any process asks
        after step n + 2, and that is where all stop.
        """
        if jax.process_count() == 1:
            return self.requested
        if self.requested and not self._told:
            self._told = True
            agreement.offer(_KEY, str(step + 2))
        last = agreement.look_up(_KEY)
        return last is not None and step >= int(last)

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
