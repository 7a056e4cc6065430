# SPDX-License-Identifier: Apache-2.0
"""The command itself: killed and started again it ends the same, and each mistake has its code."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.config import RunConfig
from configs import pretrain
from tests.bert_jax.runs import params_of, rows_of

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "jax"
STEPS = 40
RECIPE = {
    "steps": STEPS,
    "phases.short.length": 32,
    "phases.short.batch_size": 8,
    "phases.long.length": 64,
    "phases.long.batch_size": 4,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.mlp_size": 64,
    "model.max_positions": 64,
    "model.compute_dtype": "float32",
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 5,
    "data.reader": "threads",
    "evaluation.every": 20,
    "evaluation.examples": 20,
    "evaluation.batch_size": 4,
    "checkpoint.every": 3,
    "log_every": 1,
}


def command(workdir, store, **changes):
    keys = RECIPE | {"data.store": str(store)} | changes
    return [
        *(sys.executable, "-m", "bert_jax.pretrain", "--config=configs/pretrain.py:tiny"),
        *(f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in keys.items())),
    ]


def start(arguments):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments):
    process = start(arguments)
    printed, errors = process.communicate()
    return process.returncode, printed, errors


def wait_for_progress(process, workdir, step):
    """Waits until the run has a row for `step`, then a moment more."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and f'"step": {step},' in path.read_text():
            time.sleep(random.uniform(0, 0.05))
            return
        time.sleep(0.01)


def kill_until_done(workdir, store, kills):
    """Kills the command after a few more steps each time, then lets it end."""
    chosen = sorted(random.sample(range(1, STEPS), kills))
    for step in chosen:
        process = start(command(workdir, store))
        wait_for_progress(process, workdir, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, errors = run(command(workdir, store))
    assert code == 0, errors
    return chosen


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_and_started_again_it_ends_with_the_same_bits(tmp_path, topics_store, kills):
    code, _, errors = run(command(tmp_path / "whole", topics_store))
    assert code == 0, errors
    chosen = kill_until_done(tmp_path / "killed", topics_store, kills)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for kind in ("train", "validation"):
        assert rows_of(killed, kind) == rows_of(whole, kind), chosen
    config = pretrain.get_config("tiny")
    config.update_from_flattened_dict(RECIPE | {"data.store": str(topics_store)})
    config = RunConfig.from_mapping(config.to_dict())
    jax.tree.map(np.testing.assert_array_equal, params_of(killed, config), params_of(whole, config))


def test_asked_to_stop_it_leaves_with_75_and_resumes(tmp_path, topics_store):
    process = start(command(tmp_path / "run", topics_store))
    wait_for_progress(process, tmp_path / "run", 4)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert "the same command resumes the run" in errors
    code, printed, _ = run(command(tmp_path / "run", topics_store))
    assert code == 0
    assert "resuming after step" in printed


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"stepz": 3}, 78, "stepz"),
        ({"steps": "many"}, 64, "steps"),
        ({"model.num_heads": 5}, 78, "not a multiple of model.num_heads 5"),
        ({"data.store": "absent"}, 65, "no store at absent"),
        ({"phases.short.length": 128}, 78, "exceeds model.max_positions 64"),
    ],
)
def test_a_mistake_in_the_recipe_is_one_message(tmp_path, topics_store, changes, code, message):
    found, _, errors = run(command(tmp_path / "run", topics_store, **changes))
    assert found == code, errors
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=RECIPE and --workdir=DIRECTORY are needed"),
        (["--config=configs/absent.py", "--workdir=x"], "configs/absent.py"),
        (["--config=configs/demo.py", "--workdir=x", "extra"], "unexpected argument 'extra'"),
        (["--confg=configs/demo.py"], "Unknown command line flag 'confg'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(arguments, message):
    found, _, errors = run([sys.executable, "-m", "bert_jax.pretrain", *arguments])
    assert found == 64, errors
    assert message in errors
    assert "Traceback" not in errors
