# SPDX-License-Identifier: Apache-2.0
"""Whole runs: they learn, resume to the bit, and refuse what would spoil them."""

import math
import signal

import jax
import numpy as np
import pytest

from bert_jax.checkpoint import Checkpoints
from bert_jax.metrics import Window
from bert_jax.run_lock import exclusive
from bert_jax.train import train_and_evaluate
from data_pipeline.errors import ConfigError, DataError, OutputError, Preempted
from tests.bert_jax.runs import params_of, rows_of
from tests.bert_jax.topics import write_topics_store


def assert_same_run(workdir, other, config):
    assert rows_of(workdir) == rows_of(other)
    assert rows_of(workdir, "validation") == rows_of(other, "validation")
    trees = params_of(workdir, config), params_of(other, config)
    jax.tree.map(np.testing.assert_array_equal, *trees)


class Crash(Exception):
    """Stands for whatever ends a process between two steps."""


def crash_in_step(monkeypatch, steps):
    """Lets the next run make `steps` steps and die in the one after."""
    add = Window.add

    def dying(self, step, terms, batch):
        if step > steps:
            raise Crash
        add(self, step, terms, batch)

    monkeypatch.setattr(Window, "add", dying)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Runs a recipe once from start to end; later calls return the same directory."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"

    def run(config):
        if not workdir.exists():
            train_and_evaluate(config, workdir)
        return workdir

    return run


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Trains the recipe once for long enough to learn; returns its directory and summary."""
    workdir, made = tmp_path_factory.mktemp("learnt") / "run", []

    def run(make_recipe):
        if not made:
            config = make_recipe(
                **{
                    "steps": 180,
                    "log_every": 30,
                    "evaluation.every": 90,
                    "checkpoint.every": 90,
                    "evaluation.examples": 60,
                    "optimizer.warmup_steps": 20,
                }
            )
            made.append(train_and_evaluate(config, workdir))
        return workdir, made[0]

    return run


def test_run_learns_the_topics(make_recipe, learnt):
    _, summary = learnt(make_recipe)
    for figures in summary["validation_by_length"].values():
        assert figures["mlm_loss"] < figures["unigram_entropy"] - 1.0
        assert figures["examples"] == 60
    assert math.isclose(summary["validation"]["unigram_entropy"], math.log(60), abs_tol=0.4)
    assert summary["steps"] == 180
    assert summary["phases"][0]["last_step"] == summary["phases"][1]["first_step"] == 120
    assert 0 < summary["tokens_seen"] <= 120 * 16 * 32 + 60 * 8 * 64


def test_init_from_takes_weights_and_nothing_else(tmp_path, make_recipe, learnt):
    old, _ = learnt(make_recipe)
    train_and_evaluate(make_recipe(init_from=str(old)), tmp_path / "run")
    fresh, last = rows_of(tmp_path / "run")[0], rows_of(old)[-1]
    assert fresh["learning_rate"] == 0.0
    assert fresh["mlm_loss"] == pytest.approx(last["mlm_loss"], abs=0.4)
    assert rows_of(old)[0]["mlm_loss"] > last["mlm_loss"] + 1.0


@pytest.mark.parametrize(
    "steps", [2, 5, 8, 9, *(pytest.param(step, marks=pytest.mark.soak) for step in (7, 11))]
)
def test_resumed_is_uninterrupted(tmp_path, make_recipe, uninterrupted, monkeypatch, steps):
    """Died before the first save, at one, on either side of the phase boundary (8), and at it."""
    config = make_recipe()
    with monkeypatch.context() as patch:
        crash_in_step(patch, steps)
        with pytest.raises(Crash):
            train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted(config), config)


def test_a_different_layout_of_the_same_devices_may_resume(
    tmp_path, make_recipe, uninterrupted, monkeypatch
):
    with monkeypatch.context() as patch:
        crash_in_step(patch, 6)
        with pytest.raises(Crash):
            train_and_evaluate(make_recipe(), tmp_path / "run")
    config = make_recipe(**{"mesh.fsdp": 2, "mesh.tensor": 2, "model.unroll": 2})
    train_and_evaluate(config, tmp_path / "run")
    whole = rows_of(uninterrupted(make_recipe()))
    for row, expected in zip(rows_of(tmp_path / "run"), whole, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_asked_to_stop_it_saves_and_says_so(tmp_path, make_recipe, uninterrupted, monkeypatch):
    config, add = make_recipe(), Window.add

    def ask(self, step, terms, batch):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
        add(self, step, terms, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Window, "add", ask)
        with pytest.raises(Preempted, match="step 7 is saved; the same command resumes") as caught:
            train_and_evaluate(config, tmp_path / "run")
    assert caught.value.exit_code == 75
    assert (tmp_path / "run" / "checkpoints" / "7" / "manifest.json").exists()
    train_and_evaluate(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted(config), config)


def test_a_signal_does_not_cut_off_the_last_save(tmp_path, make_recipe, monkeypatch):
    close, handlers = Checkpoints.close, []

    def closing(self):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return close(self)

    monkeypatch.setattr(Checkpoints, "close", closing)
    train_and_evaluate(make_recipe(), tmp_path / "run")
    assert len(handlers) == 1
    assert handlers[0] not in (signal.SIG_DFL, signal.SIG_IGN)


def test_replicas_are_part_of_a_run_that_clips_on_each(tmp_path, make_recipe):
    config = make_recipe(**{"optimizer.per_replica": True})
    train_and_evaluate(config, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"replicas": 8', '"replicas": 4'))
    with pytest.raises(ConfigError, match="was started on 4 devices, and here are 8: with opti"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_finished_run_has_nothing_left_to_do(tmp_path, make_recipe, capsys):
    config = make_recipe()
    first = train_and_evaluate(config, tmp_path / "run")
    before = rows_of(tmp_path / "run")
    capsys.readouterr()
    again = train_and_evaluate(config, tmp_path / "run")
    assert "nothing left to train" in capsys.readouterr().out
    assert again["validation_by_length"] == first["validation_by_length"]
    assert rows_of(tmp_path / "run") == before


def test_another_seed_is_another_run(tmp_path, make_recipe, uninterrupted):
    train_and_evaluate(make_recipe(seed=1), tmp_path / "run")
    losses = [
        [row["loss"] for row in rows_of(d)]
        for d in (tmp_path / "run", uninterrupted(make_recipe()))
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"steps": 13}, "steps: 12 -> 13"),
        ({"phases.long.length": 48}, "phases.long.length: 64 -> 48"),
        ({"optimizer.learning_rate": 0.5}, "optimizer.learning_rate: 0.003 -> 0.5"),
        ({"model.mlp_size": 128}, "model.mlp_size: 64 -> 128"),
        ({"data.whole_word": True}, "data.whole_word: False -> True"),
    ],
)
def test_a_changed_recipe_does_not_resume(make_recipe, uninterrupted, changes, line):
    workdir = uninterrupted(make_recipe())
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    with pytest.raises(ConfigError) as caught:
        train_and_evaluate(make_recipe(**changes), workdir)
    assert line in str(caught.value)
    assert "choose another --workdir" in str(caught.value)
    assert caught.value.exit_code == 78
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before


def test_what_computes_nothing_may_change(make_recipe, uninterrupted):
    workdir = uninterrupted(make_recipe())
    config = make_recipe(**{"log_every": 3, "evaluation.every": 4, "checkpoint.keep_last": 9})
    train_and_evaluate(config, workdir)


def test_a_store_with_other_text_does_not_resume(tmp_path, make_recipe, uninterrupted):
    workdir = uninterrupted(make_recipe())
    other = write_topics_store(tmp_path / "texts", seed=1)
    with pytest.raises(DataError, match="the content of the store .* is not what") as caught:
        train_and_evaluate(make_recipe(**{"data.store": str(other)}), workdir)
    assert caught.value.exit_code == 65


def test_a_store_with_another_vocabulary_does_not_resume(tmp_path, make_recipe, uninterrupted):
    workdir = uninterrupted(make_recipe())
    other = write_topics_store(tmp_path / "texts", topics=16)
    with pytest.raises((ConfigError, DataError), match=r"vocab"):
        train_and_evaluate(make_recipe(**{"data.store": str(other)}), workdir)


def test_vocabulary_and_model_size_that_disagree_are_refused(tmp_path, make_recipe):
    with pytest.raises(ConfigError, match="model.vocab_size is 100, but the vocabulary .* has 65"):
        train_and_evaluate(make_recipe(**{"model.vocab_size": 100}), tmp_path / "run")


def test_a_batch_that_does_not_divide_is_refused(tmp_path, make_recipe):
    config = make_recipe(**{"phases.short.batch_size": 12})
    with pytest.raises(ConfigError, match="batch_size 12 is not divisible by 8"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_store_that_does_not_exist_is_named(tmp_path, make_recipe):
    config = make_recipe(**{"data.store": str(tmp_path / "absent")})
    with pytest.raises(DataError, match="no store at .*absent"):
        train_and_evaluate(config, tmp_path / "run")


def test_two_runs_cannot_share_a_directory(tmp_path, make_recipe):
    with exclusive(tmp_path / "run"), pytest.raises(OutputError, match="another run is at work"):
        train_and_evaluate(make_recipe(), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, make_recipe):
    config = make_recipe(**{"optimizer.learning_rate": 1e30})
    with pytest.raises(DataError, match="not finite at step") as caught:
        train_and_evaluate(config, tmp_path / "run")
    assert caught.value.exit_code == 65
    kept = list((tmp_path / "run" / "nonfinite").glob("step-*.npz"))
    assert len(kept) == 1
    for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        for leaf in jax.tree.leaves(params_of(path, config)):
            assert np.isfinite(leaf).all()


def test_a_damaged_config_file_is_named(tmp_path, make_recipe):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"config": ')
    with pytest.raises(DataError, match="config.json is damaged"):
        train_and_evaluate(make_recipe(), tmp_path / "run")


def test_a_window_of_steps_is_traced(tmp_path, make_recipe):
    config = make_recipe(**{"profile.first_step": 3, "profile.steps": 2})
    train_and_evaluate(config, tmp_path / "run")
    traces = list((tmp_path / "run" / "tensorboard").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 0
