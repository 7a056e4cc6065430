# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments: no step that was called safe is ever lost, nothing wrong is loaded."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("trials", [6, pytest.param(200, marks=pytest.mark.soak)])
def test_kills(tmp_path: pathlib.Path, trials: int) -> None:
    script = ROOT / "tests" / "bert_jax" / "killed_while_saving.py"
    result = subprocess.run(
        [sys.executable, script, tmp_path / "checkpoints", str(trials)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    score = json.loads(result.stdout.splitlines()[-1])
    print(score)
    problems = {name: score.get(name, 0) for name in ("lost", "wrong", "failed")}
    assert problems == {"lost": 0, "wrong": 0, "failed": 0}, result.stderr[-5000:]
    assert score["trials"] == trials
    assert score["restored"] >= trials // 2
    assert score["safe"] >= trials // 2
