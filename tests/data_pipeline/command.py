# SPDX-License-Identifier: Apache-2.0
"""Runs a command of the data pipeline as a user does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"data_pipeline.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def assert_fails(done: subprocess.CompletedProcess[str], exit_code: int, message: str) -> None:
    """The command ended with one message and no traceback."""
    assert done.returncode == exit_code, done.stderr
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
