# SPDX-License-Identifier: Apache-2.0
"""Training metrics between two log lines: read one step late, averaged exactly, checked.

Reading a device value waits for the step that makes it. `Window.add` therefore looks at the terms
of the step before, while the device works on the newest one.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipeline.batch import Batch
from data_pipeline.errors import DataError


@dataclasses.dataclass
class _Pending:
    step: int
    terms: Mapping[str, Any]
    batch: Batch


class Window:
    """(sum, weight) terms of the steps since the last `averages`.

    A loss or gradient that is not finite stops the run; its batch is kept under `directory`.

    Attributes:
        tokens: sum of the term `real_tokens`, where there is one, over all steps read so far.
    """

    def __init__(self, directory: Path) -> None:
        self.tokens = 0
        self._directory = directory
        self._pending: _Pending | None = None
        self._sums: dict[str, np.ndarray] = {}

    def add(self, step: int, terms: Mapping[str, Any], batch: Batch) -> None:
        """Takes the terms of `step` (not read yet) and reads those of the step before."""
        self.read()
        self._pending = _Pending(step, terms, batch)

    def read(self) -> None:
        """Waits for the newest step and adds its terms.

        Raises:
            DataError: a loss or the gradient norm of that step is not finite.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        terms = {name: np.asarray(pair, np.float64) for name, pair in _fetch(pending.terms)}
        broken = [name for name, (total, _) in terms.items() if not math.isfinite(total)]
        if broken:
            raise DataError(_keep_batch(self._directory, pending, broken))
        self.tokens += int(terms.get("real_tokens", [0])[0])
        for name, pair in terms.items():
            self._sums[name] = self._sums.get(name, 0) + pair

    def averages(self) -> dict[str, float]:
        """Weighted averages since the last call; `loss` is the sum of the tasks' losses."""
        result = {
            name: float(total / weight) for name, (total, weight) in self._sums.items() if weight
        }
        self._sums = {}
        losses = [value for name, value in result.items() if name.endswith("_loss")]
        return {"loss": sum(losses)} | result


def _fetch(terms: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    return list(jax.device_get(dict(terms)).items())


def _keep_batch(directory: Path, pending: _Pending, broken: list[str]) -> str:
    process = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
    path = directory / f"step-{pending.step}{process}.npz"
    kept = f"is kept in {path}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **pending.batch)
    except OSError as error:
        kept = f"cannot be kept in {path} ({error.strerror})"
    return (
        f"{' and '.join(broken)} not finite at step {pending.step}; its batch {kept}. "
        "Checkpoints hold finite steps only. Usual causes: learning rate too high or warm-up too "
        "short (optimizer.learning_rate, optimizer.warmup_steps)"
    )
