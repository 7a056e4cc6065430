# SPDX-License-Identifier: Apache-2.0
"""The command that plans a run: mistakes, and what ends it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIVEN = ["--config=configs/pretrain.py:base", "--slice=v4-32"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--slice=v4-32"], 64, "--config=RECIPE and --slice=NAME are needed"),
        (["--config=configs/pretrain.py:base"], 64, "--config=RECIPE and --slice=NAME are needed"),
        (["--config=configs/pretrain.py:base", "--slice=v9-32"], 64, "slice 'v9-32' is not known"),
        (["--config=configs/pretrain.py:base", "--slice=v4-33"], 64, "'v4-33': v4 comes in 8, 16"),
        (["--config=configs/nothing.py", "--slice=v4-32"], 64, "nothing.py"),
        ([*GIVEN, "more"], 64, "'more'"),
        ([*GIVEN, "--price=nan"], 64, "--price=nan is no number"),
        ([*GIVEN, "--price=inf"], 64, "--price=inf is no number"),
        ([*GIVEN, "--vocab_size=0"], 64, "vocab_size"),
        ([*GIVEN, "--output=README.md/plans"], 73, "--output=README.md/plans: Not a directory"),
        ([*GIVEN, "--output=README.md"], 73, "--output=README.md: File exists"),
    ],
)
def test_each_mistake_has_its_message_and_code(arguments, code, message, tmp_path):
    command = [sys.executable, "-m", "bert_jax.plan", f"--output={tmp_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# A compiler that is long at work and does not look at signals.
BUSY = """
import hashlib, runpy, sys
from bert_jax.plan import planning

def make_plan(*arguments):
    print("compiling", file=sys.stderr, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

planning.make_plan = make_plan
runpy.run_module("bert_jax.plan", run_name="__main__", alter_sys=True)
"""


def test_an_interrupt_ends_it_at_once_with_one_line(tmp_path):
    command = [sys.executable, "-c", BUSY, f"--output={tmp_path}", *GIVEN]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stderr.readline() == "compiling\n"
        running.send_signal(signal.SIGINT)
        try:
            _, said = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == 130
    assert said.startswith("interrupted: ") and said.count("\n") == 1
