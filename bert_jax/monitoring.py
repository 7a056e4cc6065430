# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it trains: a line on the console, a row of JSON, TensorBoard curves.

WORKDIR/metrics.jsonl   {"step": 50, "kind": "train" | "validation", "time": ..., name: value, ...}
WORKDIR/tensorboard/    the same numbers, as train/<name> and validation/<name>

A resumed run drops what was written after the step it resumes from, so that every step is there
once. TensorBoard's files are written by tensorboardX, which needs no TensorFlow.
"""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tensorboardX import SummaryWriter

from bert_jax.throughput import Throughput
from data_pipeline.errors import DiskError

_HEADER_EVERY = 20  # lines


class Column(NamedTuple):
    """How a metric is shown on the console."""

    heading: str
    width: int
    metric: str
    show: Callable[[float], str]


def _thousands(value: float) -> str:
    """Three digits and a unit: 12.3k."""
    for unit in ("", "k", "M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


PRETRAINING = (
    Column("loss", 8, "loss", "{:.3f}".format),
    Column("MLM", 9, "mlm_loss", "{:.3f}".format),
    Column("correct", 9, "mlm_accuracy", "{:.1%}".format),
    Column("NSP", 9, "nsp_loss", "{:.3f}".format),
    Column("correct", 9, "nsp_accuracy", "{:.1%}".format),
)
WITHOUT_PAIRS = PRETRAINING[:3]
_PROGRESS = (
    Column("rate", 11, "learning_rate", "{:.2e}".format),
    Column("gradient", 10, "gradient_norm", "{:.3g}".format),
    Column("tokens/s", 10, "tokens_per_second", _thousands),
    Column("wait", 7, "input_wait_share", "{:.1%}".format),
)


class Monitor:
    """Writes what a run measures; where `enabled` is false (not process 0) it only measures.

    Args:
        workdir: the run directory.
        total_steps: steps of the whole run.
        start_step: steps made before this process; rows after it are dropped.
        tokens_left: tokens from `start_step` to the end, padding included. The time left then
            counts tokens, for steps of the second phase take longer; without, it counts steps.
        columns: the metrics to show on the console; all are written.
        enabled: whether to write at all.

    Raises:
        DiskError: metrics.jsonl cannot be written.
    """

    def __init__(
        self,
        workdir: pathlib.Path | str,
        total_steps: int,
        start_step: int,
        *,
        tokens_left: int | None = None,
        columns: Sequence[Column] = PRETRAINING,
        enabled: bool = True,
    ) -> None:
        workdir = pathlib.Path(workdir)
        self._path = workdir / "metrics.jsonl"
        self._total_steps = total_steps
        self._tokens_left = tokens_left
        self._columns = tuple(columns)
        self._enabled = enabled
        self._throughput = Throughput()
        self._lines = 0
        if not enabled:
            return
        try:
            _drop_rows_after(start_step, self._path)
            self._file = self._path.open("a", encoding="utf-8")
            self._tensorboard = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=start_step + 1, flush_secs=10
            )
        except OSError as error:
            raise DiskError(f"cannot write metrics into {workdir}: {error}") from error

    @property
    def input_wait_share(self) -> float:
        """Share of this process's training time that was spent waiting for input."""
        return self._throughput.input_wait_share

    def count(self, *, examples: int, tokens: int, wait: float) -> None:
        """Takes note of every step: what it read, padding included, and its wait in seconds."""
        self._throughput.count(examples, tokens, wait)
        if self._tokens_left is not None:
            self._tokens_left -= tokens

    def pause(self) -> None:
        """Keeps the time until the next step, a save for example, out of the throughput."""
        self._throughput.pause()

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows and writes averages over the steps since the last call.

        Raises:
            DiskError: metrics.jsonl cannot be written.
        """
        metrics = {**metrics, **self._throughput.rates()}
        self._write(step, "train", metrics)
        place = f"{step}/{self._total_steps} {100 * step // self._total_steps:>3}%"
        line = _cells(metrics, (*self._columns, *_PROGRESS))
        self._show(place, line + _duration(self._seconds_left(step)).rjust(9))

    def evaluation(self, step: int, metrics: Mapping[str, float], kind: str = "validation") -> None:
        """Shows and writes held-out figures; the time they took is no training time.

        Raises:
            DiskError: metrics.jsonl cannot be written.
        """
        self.pause()
        self._write(step, kind, metrics)
        line = _cells(metrics, self._columns)
        if "unigram_entropy" in metrics:
            gain = metrics["unigram_entropy"] - metrics["mlm_loss"]
            line += f"   {abs(gain):.3f} {'below' if gain >= 0 else 'above'} the unigram plateau"
        self._show("held out", line)

    def message(self, text: str) -> None:
        """Shows a line of text."""
        if self._enabled:
            print(text, flush=True)

    def flush(self) -> None:
        """Has all that was written reach the disk, as before a checkpoint.

        A mounted bucket is given a file when it is closed or flushed to the disk. Without this a
        host that is lost takes the curve of days with it, while its checkpoints stay.

        Raises:
            DiskError: it cannot be written.
        """
        if not self._enabled:
            return
        try:
            os.fsync(self._file.fileno())
            self._tensorboard.flush()  # to the disk, too
        except OSError as error:
            raise DiskError(f"cannot write metrics into {self._path.parent}: {error}") from error

    def close(self) -> None:
        """Ends the files."""
        if self._enabled:
            with contextlib.suppress(OSError):  # a full disk, which the last row has reported
                self._file.close()
            self._tensorboard.close()

    def _write(self, step: int, kind: str, metrics: Mapping[str, float]) -> None:
        if not self._enabled:
            return
        # JSON has no NaN and no infinity.
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        row = {"step": step, "kind": kind, "time": round(time.time(), 3), **values}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise DiskError(f"cannot write {self._path}: {error.strerror}") from error
        for name, value in metrics.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def _show(self, place: str, line: str) -> None:
        width = 2 * len(str(self._total_steps)) + 6
        if self._lines % _HEADER_EVERY == 0:
            headings = [
                column.heading.rjust(column.width) for column in (*self._columns, *_PROGRESS)
            ]
            self.message("step".rjust(width) + "".join(headings) + "left".rjust(9))
        self._lines += 1
        self.message(place.rjust(width) + line)

    def _seconds_left(self, step: int) -> float | None:
        if self._tokens_left is not None:
            rate = self._throughput.rates().get("tokens_per_second")
            return self._tokens_left / rate if rate else None
        seconds = self._throughput.seconds_per_step
        return None if seconds is None else seconds * (self._total_steps - step)


def _drop_rows_after(step: int, path: pathlib.Path) -> None:
    """Keeps the rows up to `step`; a line that a kill has cut short goes as well."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), "utf-8")
    temporary.replace(path)


def _cells(metrics: Mapping[str, float], columns: Sequence[Column]) -> str:
    """The metrics under their headings; a dash where one is missing."""
    return "".join(
        (column.show(metrics[column.metric]) if column.metric in metrics else "-").rjust(
            column.width
        )
        for column in columns
    )


def _duration(seconds: float | None) -> str:
    """The two largest units of a time: 7m58s, 3h05m, 2d04h."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
