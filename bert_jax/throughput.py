# SPDX-License-Identifier: Apache-2.0
"""How fast a run trains, and how long it waits for its input."""

import collections
import time
from typing import NamedTuple, Self

_WINDOW_SECONDS = 30.0  # throughput is that of the last seconds, and
_WINDOW_STEPS = 20  # of at least so many steps


class _Amounts(NamedTuple):
    seconds: float = 0.0
    examples: float = 0
    tokens: float = 0
    wait: float = 0.0

    def plus(self, other: Self, sign: int = 1) -> Self:
        return type(self)(*(one + sign * two for one, two in zip(self, other, strict=True)))


class Throughput:
    """Examples and tokens a second over the last steps, without compilation and evaluation.

    The clock of a step runs from the step before. A step is left out where that would count
    something else: the first one, the first of another sequence length (both compile), and the
    first one after `pause`.
    """

    def __init__(self) -> None:
        self._steps: collections.deque[_Amounts] = collections.deque()
        self._window = _Amounts()
        self._total = _Amounts()
        self._last: float | None = None
        self._length = 0.0

    def count(self, examples: int, tokens: int, wait: float) -> None:
        """Takes a step that has just ended, with the seconds that it waited for input."""
        now = time.monotonic()
        if tokens / examples != self._length:
            self._steps.clear()
            self._window = _Amounts()
        elif self._last is not None:
            step = _Amounts(now - self._last, examples, tokens, wait)
            self._steps.append(step)
            self._window = self._window.plus(step)
            self._total = self._total.plus(step)
        while len(self._steps) > _WINDOW_STEPS and self._window.seconds > _WINDOW_SECONDS:
            self._window = self._window.plus(self._steps.popleft(), -1)
        self._last, self._length = now, tokens / examples

    def pause(self) -> None:
        """Leaves out the time from the last step to the next one."""
        self._last = None

    def rates(self) -> dict[str, float]:
        """The current figures; empty before anything was measured."""
        if not self._steps:
            return {}
        return {
            "examples_per_second": self._window.examples / self._window.seconds,
            "tokens_per_second": self._window.tokens / self._window.seconds,
            "input_wait_share": self._window.wait / self._window.seconds,
        }

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds a step takes now."""
        return self._window.seconds / len(self._steps) if self._steps else None

    @property
    def input_wait_share(self) -> float:
        """Share of all measured time that was spent waiting for input."""
        return self._total.wait / self._total.seconds if self._total.seconds else 0.0
