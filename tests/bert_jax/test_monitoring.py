# SPDX-License-Identifier: Apache-2.0
"""What a run shows and writes while it trains."""

import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import types
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from bert_jax import monitoring, throughput
from bert_jax.monitoring import Monitor
from data_pipeline.errors import DiskError

METRICS = {
    "loss": 7.5,
    "mlm_loss": 6.9,
    "mlm_accuracy": 0.081,
    "nsp_loss": 0.6,
    "nsp_accuracy": 0.625,
    "learning_rate": 2.5e-4,
    "gradient_norm": 1.25,
}
HELD_OUT = {**{name: METRICS[name] for name in ("loss", "mlm_loss", "nsp_loss")}, "examples": 64}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A clock that stands until `clock.now` is changed."""
    clock = types.SimpleNamespace(now=100.0)
    time = types.SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1.7e9 + clock.now)
    for module in (monitoring, throughput):
        monkeypatch.setattr(module, "time", time)
    return clock


def run(workdir: pathlib.Path, first: int, last: int, start: int | None = None) -> None:
    """Logs the steps `first` to `last`, held-out figures at the even ones."""
    monitor = Monitor(workdir, 10, first - 1 if start is None else start)
    for step in range(first, last + 1):
        monitor.train(step, METRICS)
        if step % 2 == 0:
            monitor.evaluation(step, HELD_OUT)
    monitor.close()


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir: pathlib.Path) -> list[Event]:
    """All TensorBoard events, file after file: length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


class TestConsole:
    def test_lines_are_aligned_and_complete(
        self, tmp_path: pathlib.Path, clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monitor = Monitor(tmp_path, 1_000_000, 0)
        monitor.count(examples=256, tokens=256 * 128, wait=0.0)
        monitor.train(1, METRICS)
        clock.now += 0.5
        monitor.count(examples=256, tokens=256 * 128, wait=0.01)
        monitor.train(2, METRICS)
        monitor.evaluation(2, HELD_OUT | {"unigram_entropy": 6.4})
        monitor.message("hello")
        monitor.close()
        header, first, second, held_out, message = capsys.readouterr().out.splitlines()
        assert header.split() == [
            *("step", "loss", "MLM", "correct", "NSP", "correct"),
            *("rate", "gradient", "tokens/s", "wait", "left"),
        ]
        common = ["7.500", "6.900", "8.1%", "0.600", "62.5%", "2.50e-04", "1.25"]
        assert first.split() == ["1/1000000", "0%", *common, "-", "-", "-"]
        assert second.split() == ["2/1000000", "0%", *common, "65.5k", "2.0%", "5d18h"]
        assert held_out.split("   ")[-1] == "0.500 above the unigram plateau"
        assert message == "hello"
        assert len(header) == len(first) == len(second) <= 120
        for column in ("7.500", "6.900"):
            assert first.index(column) == second.index(column) == held_out.index(column)

    def test_time_left_counts_tokens_where_they_are_known(
        self, tmp_path: pathlib.Path, clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """90 steps of 1,000 tokens are left and then 10 of 4,000: 130 seconds, not 99."""
        monitor = Monitor(tmp_path, 100, 0, tokens_left=90 * 1000 + 10 * 4000)
        for step in range(1, 11):
            clock.now += 1
            monitor.count(examples=10, tokens=1000, wait=0.0)
            monitor.train(step, METRICS)
        monitor.close()
        assert capsys.readouterr().out.split()[-1] == "2m00s"

    def test_heading_comes_back(
        self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monitor = Monitor(tmp_path, 100, 0)
        for step in range(1, 42):
            monitor.train(step, METRICS)
        monitor.close()
        lines = capsys.readouterr().out.splitlines()
        assert [number for number, line in enumerate(lines) if "tokens/s" in line] == [0, 21, 42]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0s"), (59.6, "1m00s"), (478, "7m58s"), (11_100, "3h05m"), (187_200, "2d04h")],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert monitoring._duration(seconds) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(7.25, "7.25"), (999.7, "1k"), (12_345, "12.3k"), (2.5e9, "2.5G")]
    )
    def test_thousands(self, value: float, text: str) -> None:
        assert monitoring._thousands(value) == text


class TestFiles:
    def test_rows(self, tmp_path: pathlib.Path, clock: Any) -> None:
        run(tmp_path, 1, 2)
        train = {"kind": "train", "time": 1.7e9 + 100} | METRICS
        assert rows(tmp_path) == [
            {"step": 1} | train,
            {"step": 2} | train,
            {"step": 2, "kind": "validation", "time": 1.7e9 + 100} | HELD_OUT,
        ]

    def test_a_row_is_there_at_once(self, tmp_path: pathlib.Path) -> None:
        monitor = Monitor(tmp_path, 10, 0)
        monitor.train(1, METRICS)
        assert len(rows(tmp_path)) == 1
        monitor.close()

    def test_curves_are_flushed_to_the_disk(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monitor = Monitor(tmp_path, 10, 0)
        monitor.train(1, METRICS)
        flushed: set[int] = set()
        monkeypatch.setattr(os, "fsync", lambda number: flushed.add(os.fstat(number).st_ino))
        monitor.flush()
        (curves,) = (tmp_path / "tensorboard").iterdir()
        assert flushed == {path.stat().st_ino for path in (tmp_path / "metrics.jsonl", curves)}
        monkeypatch.undo()
        monitor._file.close()
        refused = re.escape(f"cannot write metrics into {tmp_path}")
        # Of such a file, fsync knows nothing.
        with open("/dev/full", "w") as monitor._file, pytest.raises(DiskError, match=refused):
            monitor.flush()
        monitor.close()

    def test_no_number_becomes_null(self, tmp_path: pathlib.Path) -> None:
        monitor = Monitor(tmp_path, 10, 0)
        monitor.train(1, METRICS | {"loss": math.nan, "gradient_norm": math.inf})
        monitor.close()
        assert rows(tmp_path)[0]["loss"] is None
        assert rows(tmp_path)[0]["gradient_norm"] is None

    def test_resume_drops_later_rows_and_a_torn_line(self, tmp_path: pathlib.Path) -> None:
        run(tmp_path, 1, 7)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "kind": "tr')
        run(tmp_path, 5, 10, start=4)
        steps = [row["step"] for row in rows(tmp_path) if row["kind"] == "train"]
        assert steps == list(range(1, 11))
        steps = [row["step"] for row in rows(tmp_path) if row["kind"] == "validation"]
        assert steps == [2, 4, 6, 8, 10]

    def test_start_from_zero_drops_everything(self, tmp_path: pathlib.Path) -> None:
        run(tmp_path, 1, 3)
        run(tmp_path, 1, 1)
        assert [row["step"] for row in rows(tmp_path)] == [1]

    def test_tensorboard(self, tmp_path: pathlib.Path) -> None:
        run(tmp_path, 1, 2)
        found = {
            (value.tag, event.step): value.simple_value
            for event in events(tmp_path)
            for value in event.summary.value
        }
        expected = {(f"train/{name}", step): METRICS[name] for name in METRICS for step in (1, 2)}
        expected |= {(f"validation/{name}", 2): HELD_OUT[name] for name in HELD_OUT}
        assert found == pytest.approx(expected)

    def test_tensorboard_purges_on_resume(self, tmp_path: pathlib.Path) -> None:
        run(tmp_path, 5, 6)
        starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
        assert starts == [5]

    def test_other_processes_write_nothing(
        self, tmp_path: pathlib.Path, clock: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monitor = Monitor(tmp_path, 10, 0, enabled=False)
        for step in (1, 2, 3):
            clock.now += 1
            monitor.count(examples=1, tokens=128, wait=0.5)
            monitor.train(step, METRICS)
        monitor.evaluation(3, HELD_OUT)
        monitor.message("hello")
        monitor.flush()
        monitor.close()
        assert list(tmp_path.iterdir()) == []
        assert capsys.readouterr().out == ""
        assert monitor.input_wait_share == 0.5

    def test_cannot_write(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(DiskError, match=re.escape(f"cannot write metrics into {tmp_path}")):
            Monitor(tmp_path, 10, 0)

    def test_full_disk(self, tmp_path: pathlib.Path) -> None:
        monitor = Monitor(tmp_path, 10, 0)
        monitor._file.close()
        monitor._file = open("/dev/full", "w")  # noqa: SIM115
        with pytest.raises(DiskError, match="No space left on device"):
            monitor.train(1, METRICS)
        monitor.close()


def test_no_tensorflow() -> None:
    code = "import sys, bert_jax.monitoring; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2], check=True)
