# SPDX-License-Identifier: Apache-2.0
"""A window of steps recorded by the JAX profiler, for TensorBoard's profile page or XProf."""

from pathlib import Path
from typing import Any

import jax

from bert_jax.config import ProfileConfig


class ProfilerWindow:
    """Traces `config.steps` steps from `config.first_step` on into `directory`; 0 steps: none."""

    def __init__(self, config: ProfileConfig, directory: Path) -> None:
        self._start = config.first_step if config.steps > 0 else -1
        self._stop = config.first_step + config.steps
        self._directory = directory
        self._tracing = False

    def after_step(self, step: int, terms: Any) -> None:
        """Opens or closes the window; waits for the device only at its edges."""
        if step == self._start:
            jax.block_until_ready(terms)
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        elif step >= self._stop and self._tracing:
            jax.block_until_ready(terms)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still open."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
