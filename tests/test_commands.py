# SPDX-License-Identifier: Apache-2.0
"""The main job by its commands as users type them, on the bundled text, with a handful of steps."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from data_pipeline.store import open_store, verify_store
from demo.run import SENTENCES, VOCABULARY

ROOT = Path(__file__).parents[1]
STEPS = 10


def run_demo(workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo.run", f"--workdir={workdir}", f"--steps={STEPS}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo's directory and what it printed; so few steps cannot learn, and it says so."""
    workdir = tmp_path_factory.mktemp("demo") / "run"
    done = run_demo(workdir)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: the held-out MLM loss is only" in done.stderr
    return workdir, done.stdout


def test_every_stage_leaves_what_it_promises(finished: tuple[Path, str]) -> None:
    workdir, printed = finished
    assert printed.count("$ python -m") == 8
    assert verify_store(workdir / "store").manifest["licence"] == "public domain"
    assert (workdir / "tokenizer" / "vocab.txt").read_text().count("\n") == VOCABULARY
    assert list((workdir / "tensorboard").glob("events*"))
    assert (workdir / "checkpoints" / str(STEPS)).is_dir()
    assert "<svg" in (workdir / "report.html").read_text()
    assert (workdir / "doctor.txt").read_text() in printed
    report = (workdir / "report.html").read_text()
    for text in SENTENCES:
        assert text in report and text in (workdir / "fill_mask.json").read_text()


def test_the_summary_holds_what_a_reader_asks_for(finished: tuple[Path, str]) -> None:
    workdir, printed = finished
    summary = json.loads((workdir / "summary.json").read_text())
    figures = summary["validation"]
    assert summary["steps"] == STEPS
    assert [phase["length"] for phase in summary["phases"]] == [128, 512]
    assert summary["phases"][0]["last_step"] == summary["phases"][1]["first_step"] == 9
    assert 0 < summary["tokens_seen"] <= 9 * 16 * 128 + 4 * 512
    assert summary["tokens_per_second"] > 0 and summary["wall_seconds"] > 0
    assert {"python", "jax", "flax", "optax", "numpy"} <= set(summary["versions"])
    assert 4 < figures["unigram_entropy"] < 7
    hardly_trained = (figures["unigram_entropy"] - 0.3, np.log(VOCABULARY) + 0.5)
    assert hardly_trained[0] < figures["mlm_loss"] < hardly_trained[1]
    assert f"{summary['parameters']:,} parameters" in printed
    assert f"{figures['mlm_loss']:.3f} nats" in printed


def test_the_score_of_the_run_is_the_score_while_it_trained(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    score = json.loads((workdir / "score.json").read_text())
    for length, figures in summary["validation_by_length"].items():
        assert score[length]["examples"] >= figures["examples"]
        if score[length]["examples"] == figures["examples"]:
            assert score[length] == pytest.approx(figures, rel=1e-5)


def test_the_export_counts_what_the_summary_counts(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    summary = json.loads((workdir / "summary.json").read_text())
    with safe_open(workdir / "export" / "huggingface" / "model.safetensors", "numpy") as file:
        names = file.keys()
        sizes = {name: int(np.prod(file.get_slice(name).get_shape())) for name in names}
    tied = {name for name in sizes if name.startswith("cls.predictions.decoder")}
    assert sum(size for name, size in sizes.items() if name not in tied) == summary["parameters"]
    assert sizes["bert.embeddings.word_embeddings.weight"] == VOCABULARY * 128


def test_started_again_it_finds_nothing_to_do(finished: tuple[Path, str]) -> None:
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = run_demo(workdir)
    assert again.returncode == 1
    assert again.stdout.count("done before") == 8
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert open_store(workdir / "store").split("validation").documents > 1
