# SPDX-License-Identifier: Apache-2.0
"""`python -m bert_jax.finetune` as users start it: killed, resumed, refused, and on two hosts."""

import json

import pytest

from tests.bert_jax.labelled_task import write_model, write_tables
from tests.bert_jax.pods import run_pod, start
from tests.bert_jax.runs import rows_of

STEPS = 22


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    write_tables(folder)
    return write_model(folder / "pretrained"), folder


def flags(task, workdir, **changes):
    model, folder = task
    settings = {
        "data.train": folder / "train.tsv",
        "data.validation": folder / "dev.tsv",
        "data.test": folder / "test.tsv",
        "length": 16,
        "batch_size": 8,
        "optimizer.learning_rate": 3e-3,
        "checkpoint.every": 3,
        "log_every": 1,
    } | changes
    return [
        "--config=configs/finetune.py:files",
        f"--init_from={model}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def run(arguments, *, kill_after=None):
    """Exit code and all that was printed; killed after a line about step `kill_after`."""
    lines = []
    with start(["-m", "bert_jax.finetune", *arguments]) as process:
        for line in process.stdout:
            lines.append(line)
            if kill_after and line.strip().startswith(f"{kill_after}/"):
                process.kill()
    return process.returncode, "".join(lines)


def test_a_killed_run_is_resumed_and_another_recipe_refused(task, tmp_path):
    code, printed = run(flags(task, tmp_path / "run"), kill_after=12)
    assert code == -9, printed
    code, printed = run(flags(task, tmp_path / "run"))
    assert code == 0, printed
    assert "resuming after step" in printed
    assert "dev.tsv  accuracy  " in printed
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert (tmp_path / "run" / "predictions" / "test.tsv").exists()
    code, printed = run(flags(task, tmp_path / "run", seed=1))
    assert code == 78, printed
    assert "seed: 0 -> 1" in printed
    assert "Traceback" not in printed


def test_what_the_command_needs_is_told():
    code, printed = run(["--config=configs/finetune.py:sst2", "--workdir=x"])
    assert code == 64
    needed = "--config=RECIPE, --init_from=MODEL and --workdir=DIRECTORY are needed"
    assert printed == f"error: {needed}\n"


@pytest.mark.soak
def test_two_hosts_end_with_the_figures_of_one(task, tmp_path):
    for hosts, devices in ((2, 1), (1, 2)):
        arguments = flags(task, tmp_path / str(hosts), seeds=2)
        code, printed = run_pod(hosts, devices, arguments, module="bert_jax.finetune")
        assert code == 0, printed
    for seed in ("seed-0", "seed-1"):
        two, one = (rows_of(tmp_path / hosts / seed) for hosts in ("2", "1"))
        assert two == one
        name = f"{seed}/predictions/test.tsv"
        assert (tmp_path / "2" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    summaries = [
        json.loads((tmp_path / hosts / "summary.json").read_text()) for hosts in ("2", "1")
    ]
    assert summaries[0]["validation"] == summaries[1]["validation"]
