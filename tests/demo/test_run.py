# SPDX-License-Identifier: Apache-2.0
"""The demo's bookkeeping, with small programs standing in for the commands."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from demo import run

FIGURES = {
    "mlm_loss": 5.0,
    "unigram_entropy": 5.6,
    "mlm_accuracy": 0.2,
    "nsp_accuracy": 0.6,
    "nsp_standard_error": 0.015,
    "random_share": 0.5,
    "examples": 1000,
}
SUMMARY = {
    "parameters": 1_234_567,
    "steps": 10,
    "tokens_seen": 7_654,
    "wall_seconds": 90.0,
    "tokens_per_second": 85.0,
    "phases": [
        {"length": 128, "batch_size": 16, "first_step": 0, "last_step": 9},
        {"length": 512, "batch_size": 4, "first_step": 9, "last_step": 10},
    ],
    "validation": FIGURES,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where `python -m` finds the programs below."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_stage(folder: Path, program: str, transcript: bool = False) -> run.Stage:
    (folder / "program.py").write_text(program)
    return run.Stage("Some work", folder / "output.txt", ["program"], transcript)


def test_a_transcript_is_shown_and_kept(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage = make_stage(folder, "print('all is well')", transcript=True)
    run.run_stage(stage)
    assert stage.output.read_text() == capfd.readouterr().out == "all is well\n"


def test_the_transcript_of_a_failure_does_not_count_as_done(folder: Path) -> None:
    stage = make_stage(folder, "print('so far', flush=True); raise SystemExit(65)", transcript=True)
    with pytest.raises(run.StageError, match="Some work.*make demo.*continues") as caught:
        run.run_stage(stage)
    assert caught.value.exit_code == 65
    assert not stage.output.exists()


def test_a_killed_command_is_told_by_its_signal(folder: Path) -> None:
    stage = make_stage(folder, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(run.StageError) as caught:
        run.run_stage(stage)
    assert caught.value.exit_code == 128 + signal.SIGKILL


def test_a_request_to_stop_reaches_the_command(folder: Path) -> None:
    stage = make_stage(
        folder,
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n",
    )

    def ask() -> None:
        while not (folder / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(run.StageError) as caught:
        run.run_stage(stage)
    thread.join()
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_finished_demo_has_nothing_left_to_do(tmp_path: Path) -> None:
    for stage in run.stages(tmp_path, 0):
        stage.output.parent.mkdir(parents=True, exist_ok=True)
        stage.output.touch()
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    command = [sys.executable, "-m", "demo.run", f"--workdir={tmp_path}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(run.__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 8 and "$" not in done.stdout
    for fact in ("1,234,567", "10: 9 of 128 tokens then 1 of 512", "1.5 minutes", "0.600 nats"):
        assert fact in done.stdout
    assert "Nothing is left to do" in done.stdout


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"mlm_loss": 5.31}, "0.290 nats below the unigram plateau"),
        ({"mlm_loss": float("nan")}, "below the unigram plateau"),
        ({"nsp_accuracy": 0.515}, "NSP accuracy of 51.5% is not above chance"),
        ({"random_share": 0.41}, "NSP accuracy of 60.0% is not above chance"),
    ],
)
def test_a_model_that_learnt_nothing_is_no_success(
    change: dict[str, float], complaint: str
) -> None:
    run.check_learnt(FIGURES)
    with pytest.raises(run.DidNotLearn, match=complaint):
        run.check_learnt(FIGURES | change)
