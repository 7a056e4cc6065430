# SPDX-License-Identifier: Apache-2.0
"""`python -m bert_jax.finetune` as users start it: exit codes and messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bert_jax.conftest import CACHE
from tests.bert_jax.labelled_task import write_model, write_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    write_tables(folder)
    return write_model(folder / "pretrained"), folder


def run(*arguments):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "bert_jax.finetune", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def start(task, workdir, **changes):
    model, folder = task
    settings = {
        "data.train": folder / "train.tsv",
        "data.validation": folder / "dev.tsv",
        "data.test": folder / "test.tsv",
        "length": 16,
        "batch_size": 8,
        "optimizer.learning_rate": 3e-3,
    } | changes
    return run(
        "--config=configs/finetune.py:files",
        f"--init_from={model}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    )


def test_it_trains_and_then_refuses_what_would_spoil_the_run(task, tmp_path):
    done = start(task, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout.splitlines()[-2]
    again = start(task, tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert "nothing left to train" in again.stdout
    changed = start(task, tmp_path / "run", seed=1)
    assert changed.returncode == 78, changed.stderr
    assert "seed: 0 -> 1" in changed.stderr
    (tmp_path / "run" / "predictions" / "test.tsv").write_text("precious")
    refused = start(task, tmp_path / "run")
    assert refused.returncode == 73, refused.stderr
    assert "test.tsv exists and is not overwritten" in refused.stderr
    for failed in (changed, refused):
        assert "Traceback" not in failed.stderr


def test_a_label_outside_the_set_is_one_message(task, tmp_path):
    failed = start(task, tmp_path / "run", **{"data.labels": "sea,land"})
    assert failed.returncode == 65, failed.stderr
    assert failed.stderr.startswith("error: ")
    assert "label 'letters' is not in the label set (sea, land)" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_the_command_needs_is_told():
    failed = run("--config=configs/finetune.py:sst2", "--workdir=x")
    assert failed.returncode == 64
    assert "--config=RECIPE, --init_from=MODEL and --workdir=DIRECTORY are needed" in failed.stderr
    failed = run("--config=configs/finetune.py:imdb", "--init_from=x", "--workdir=x")
    assert failed.returncode == 64
    assert "no recipe for 'imdb': use cola, sst2" in failed.stderr
    assert "Traceback" not in failed.stderr
