# SPDX-License-Identifier: Apache-2.0
"""Runs a command of the data pipeline as a user does."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    module: str, *arguments: str, file_kilobytes: int | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Runs the module; a limit on the size of files, set by a shell, fails as a full disk does."""
    command = [sys.executable, "-m", f"data_pipeline.{module}", *arguments]
    if file_kilobytes:
        command = ["bash", "-c", f'ulimit -f {file_kilobytes}; exec "$@"', "bash", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def assert_fails(done: subprocess.CompletedProcess[str], exit_code: int, message: str) -> None:
    """The command ended with one message and no traceback."""
    assert done.returncode == exit_code, done.stderr
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
