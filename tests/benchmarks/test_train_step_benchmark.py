# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the training step: its batches are true to life, its figures add up."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.batch import BatchSpec, validate

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "train_step.py"
sys.path.insert(0, str(SCRIPT.parent))

from train_step import synthetic_batch  # noqa: E402

# As on a machine that has only what training needs.
BARE = """
import runpy, sys
for name in ("tensorflow", "tensorflow_datasets", "ml_collections", "torch", "tokenizers"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", BARE, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize("length", [8, 128, 512])
def test_batches_are_valid_and_look_like_text(length):
    spec = BatchSpec(64, length)
    batch = synthetic_batch(spec, 30522, seed=1)
    validate(batch, spec, 30522)
    lengths = batch["input_mask"].sum(axis=1)
    assert 0.8 < (lengths == length).mean() < 1
    used = batch["masked_weights"].sum(axis=1)
    expected = np.clip(np.round(0.15 * lengths), 1, spec.predictions)
    np.testing.assert_array_equal(used, expected)
    for row in range(64):
        positions = batch["masked_positions"][row, : int(used[row])]
        assert (np.diff(positions) > 0).all()
        assert positions[0] > 0 and positions[-1] < lengths[row] - 1
        assert (batch["masked_ids"][row, int(used[row]) :] == 0).all()
    counts = np.sort(np.bincount(batch["input_ids"][batch["input_mask"] == 1]))[::-1]
    if length == 512:
        assert 0.2 < counts[:100].sum() / counts.sum() < 0.6  # Zipf, not uniform (0.003)


def test_figures_add_up_without_tensorflow_and_ml_collections():
    done = run("--size=tiny", "--length=16", "--batch_size=4", "--vocab_size=500", "--rounds=3")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["tokens_per_second"] == pytest.approx(64 / figures["step_seconds"])
    encoder = 6 * 2 * (4 * 128**2 + 2 * 128 * 512) * 16 + 12 * 2 * 128 * 16**2
    head = 6 * 3 * (128 * 500 + 128**2) + 6 * 128**2
    assert figures["model_flops_per_step"] == 4 * (encoder + head)
    low, high = figures["step_seconds_quartiles"]
    assert 0 < low <= figures["step_seconds"] <= high
    assert figures["mfu"] is None and figures["compile_seconds"] > 0
    # Parameters and both moments, 4 bytes each, are the least that a step needs.
    assert figures["peak_device_bytes"] > 3 * 4 * 500 * 128
    assert figures["mlm_loss"] == pytest.approx(np.log(500), abs=0.3)
    assert figures["dtype"] == "float32" and figures["unroll"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--compare=onnx"], 64, "cannot use ['onnx']"),
        (["--size=huge"], 78, "unknown model size 'huge'"),
    ],
)
def test_says_what_is_wrong(arguments, code, message):
    done = run(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
