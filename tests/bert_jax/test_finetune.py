# SPDX-License-Identifier: Apache-2.0
"""The loop of fine-tuning: what it learns, keeps, resumes, writes and refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax import partitioning
from bert_jax.checkpoint import load_params
from bert_jax.config import BertConfig, MeshConfig
from bert_jax.convert.finetuned import finetuned_shapes
from bert_jax.finetune import loop, setup
from bert_jax.finetune.seeds import finetune_seeds
from bert_jax.finetune.setup import prepare
from bert_jax.run_directory import read_config
from bert_jax.typed_mapping import build
from data_pipeline.errors import ConfigError, DataError, OutputError
from tests.bert_jax.labelled_task import make_config, rows, write_model, write_table, write_tables
from tests.bert_jax.runs import rows_of


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="module")
def finished(model, tables, tmp_path_factory):
    """A finished run with predictions, its configuration and its summary."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = make_config(model, tables, **{"data.test": str(tables / "test.tsv")})
    return workdir, config, finetune_seeds(config, workdir)


def params_of(workdir, step):
    model = build(BertConfig, read_config(workdir)["model"], "model")
    abstract = finetuned_shapes(model, 2, partitioning.make_mesh(MeshConfig()))
    return jax.device_get(load_params(workdir / "checkpoints" / str(step), abstract)[0])


def test_it_learns_the_task_and_tells_of_it(finished, tables):
    workdir, _, summary = finished
    figures = summary["validation"][str(tables / "dev.tsv")]
    assert figures["accuracy"] == 1.0
    assert figures["examples"] == 21
    assert json.loads((workdir / "summary.json").read_text()) == summary
    train = rows_of(workdir)
    assert [row["step"] for row in train] == list(range(1, 31))
    assert train[-1]["loss"] < train[0]["loss"] / 3
    assert [row["step"] for row in rows_of(workdir, "validation")] == [8, 15, 22, 30]
    assert any((workdir / "tensorboard").iterdir())


def test_steps_rate_and_warm_up_are_the_originals(finished):
    """`num_train_steps = int(examples / batch * epochs)`, a tenth of it warm-up."""
    workdir, config, _ = finished
    rates = [row["learning_rate"] for row in rows_of(workdir)]
    steps = int(60 / 8 * 4)
    expected = [
        3e-3 * (step / 3 if step < int(steps * 0.1) else 1 - step / steps) for step in range(steps)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_the_best_checkpoint_is_kept_and_the_later_of_two_equals(
    model, tables, tmp_path, monkeypatch
):
    scores = iter([0.5, 0.9, 0.7, 0.9, 0.8, 0.1, 0.3])
    predicted = []
    build_task, predict = setup.build_task, loop.predict

    def with_given_scores(*arguments):
        task = build_task(*arguments)
        return dataclasses.replace(task, score=lambda *_: {"accuracy": next(scores, 0.9)})

    def remember(prepared, params, examples):
        predicted.append(jax.device_get(params))
        return predict(prepared, params, examples)

    monkeypatch.setattr(setup, "build_task", with_given_scores)
    monkeypatch.setattr(loop, "predict", remember)
    config = make_config(model, tables, **{"evaluation.every": 1, "epochs": 1.0})
    summary = finetune_seeds(config, tmp_path / "run")
    assert summary["best_step"] == 4
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [4, 7]
    # The summary, and so the predictions, are made with it.
    jax.tree.map(np.testing.assert_array_equal, predicted[-1], params_of(tmp_path / "run", 4))


def test_a_killed_run_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
    whole, config, summary = finished
    workdir = tmp_path / "run"
    window = loop.Window

    class Killed(window):
        def add(self, step, *rest):
            if step == 17:
                raise KeyboardInterrupt
            super().add(step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Window", Killed)
        with pytest.raises(KeyboardInterrupt):
            finetune_seeds(config, workdir)
    resumed = finetune_seeds(config, workdir)
    assert resumed["validation"] == summary["validation"]
    for kind in ("train", "validation"):
        assert rows_of(workdir, kind) == rows_of(whole, kind)
    jax.tree.map(np.testing.assert_array_equal, params_of(workdir, 30), params_of(whole, 30))
    name = "predictions/test.tsv"
    assert (workdir / name).read_bytes() == (whole / name).read_bytes()


def test_the_last_batch_of_an_evaluation_counts_only_its_rows(model, tables):
    """21 rows in batches of 8 and of 24 (a batch must divide over the eight devices)."""
    found = []
    for size in (8, 24):
        prepared = prepare(make_config(model, tables, **{"evaluation.batch_size": size}))
        state, _ = _fresh(prepared)
        examples = prepared.task.validation[str(tables / "dev.tsv")]
        found.append(loop.predict(prepared, state["params"], examples))
    (outputs, averages), (whole, expected) = found
    assert len(outputs) == len(whole) == 21
    np.testing.assert_allclose(np.stack(outputs), np.stack(whole), atol=1e-5)
    assert averages == pytest.approx(expected, abs=1e-6)
    logits = np.stack(whole)
    labels = examples.targets["label"]
    assert averages["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert averages["loss"] == pytest.approx(-log_probabilities[range(21), labels].mean(), rel=1e-5)


def _fresh(prepared, seed=0):
    class Empty:
        def restore(self, abstract):
            return None

    return loop.restore_or_init(prepared, seed, Empty())


def test_several_seeds_share_nothing_but_the_recipe(model, tables, tmp_path, finished):
    config = make_config(model, tables, seeds=2)
    summary = finetune_seeds(config, tmp_path / "runs")
    loss = summary["validation"][str(tables / "dev.tsv")]["loss"]
    each = [run["validation"][str(tables / "dev.tsv")]["loss"] for run in summary["runs"]]
    assert each[0] != each[1]
    assert loss == {
        "median": sum(each) / 2,
        "least": min(each),
        "most": max(each),
        "each": each,
    }
    # The first seed is the run that has this seed alone.
    assert rows_of(tmp_path / "runs" / "seed-0") == rows_of(finished[0])
    assert json.loads((tmp_path / "runs" / "summary.json").read_text()) == summary


def test_a_frozen_encoder_stays_as_it_was(model, tables, tmp_path, finished):
    config = make_config(model, tables, frozen_encoder=True)
    finetune_seeds(config, tmp_path / "run")
    before = prepare(config).encoder
    after = params_of(tmp_path / "run", 30)
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, after[part], jax.device_get(before[part]))
    assert not np.array_equal(after["pooler"]["kernel"], before["pooler"]["kernel"])
    tuned = params_of(finished[0], 30)
    assert not np.array_equal(tuned["embeddings"]["word"], before["embeddings"]["word"])
    first, second = rows_of(tmp_path / "run")[0], rows_of(finished[0])[0]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert first["gradient_norm"] < second["gradient_norm"]


def test_fine_tuning_goes_on_from_a_fine_tuned_model(finished, tables, tmp_path):
    workdir, _, summary = finished
    start = prepare(make_config(workdir, tables)).encoder
    best = params_of(workdir, summary["best_step"])
    del best["head"]
    jax.tree.map(np.testing.assert_array_equal, start, best)


def test_random_weights_are_the_same_shape_and_differ_from_seed_to_seed(model, tables):
    prepared = prepare(make_config(model, tables, random_weights=True))
    assert prepared.encoder == {}
    kernels = []
    for seed in (0, 1):
        params = jax.device_get(_fresh(prepared, seed)[0]["params"])
        kernels.append(params["pooler"]["kernel"])
        assert float(np.std(kernels[-1])) == pytest.approx(0.02 * 0.88, rel=0.1)
    assert not np.array_equal(*kernels)
    trained = _fresh(prepare(make_config(model, tables)), 0)[0]["params"]
    assert jax.tree.map(np.shape, trained) == jax.tree.map(np.shape, params)


def test_predictions_are_in_the_benchmarks_format(finished, tables):
    workdir, _, _ = finished
    lines = (workdir / "predictions" / "test.tsv").read_text().splitlines()
    expected = [label for _, _, label, _ in rows(5, seed=2)]
    assert lines == ["index\tprediction", *(f"{n}\t{label}" for n, label in enumerate(expected))]


def test_predictions_are_not_overwritten(finished, model, tables, tmp_path):
    workdir, config, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    finetune_seeds(config, copy)  # the same predictions once more are no harm
    path = copy / "predictions" / "test.tsv"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"test\.tsv exists and is not overwritten.*--overwrite"):
        finetune_seeds(config, copy)
    assert path.read_text() == "precious"
    assert [entry.name for entry in path.parent.iterdir()] == ["test.tsv"]
    finetune_seeds(config, copy, overwrite=True)
    assert path.read_bytes() == (workdir / "predictions" / "test.tsv").read_bytes()
    # Before a run has begun a file cannot be its own, so no time is spent on it.
    (tmp_path / "new" / "predictions").mkdir(parents=True)
    (tmp_path / "new" / "predictions" / "test.tsv").write_text("precious")
    with pytest.raises(OutputError, match="exists and is not overwritten"):
        finetune_seeds(config, tmp_path / "new")
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.learning_rate": 2e-3}, r"optimizer.learning_rate: 0.003 -> 0.002"),
        ({"data.labels": "letters,sea,none"}, r"outputs: 2 -> 3"),
        ({"task": "regression", "data.label": "number"}, r"task: 'classification' -> 'regression'"),
        ({"model.hidden_dropout": 0.1}, r"hidden_dropout: 0.0 -> 0.1"),
    ],
)
def test_another_configuration_is_not_resumed(finished, model, tables, changes, message):
    workdir, _, _ = finished
    if "task" in changes:
        changes = changes | {"evaluation.metrics": "pearson"}
    with pytest.raises((ConfigError, DataError), match=message + "|training data is not what"):
        finetune_seeds(make_config(model, tables, **changes), workdir)


def test_other_training_data_is_not_resumed(finished, model, tables, tmp_path):
    workdir, _, _ = finished
    for name in ("train", "dev"):
        shutil.copy(tables / f"{name}.tsv", tmp_path)
    finetune_seeds(
        make_config(model, tmp_path, **{"data.validation": str(tables / "dev.tsv")}), workdir
    )
    write_table(tmp_path / "train.tsv", rows(60, seed=9))
    with pytest.raises(DataError, match="the training data is not what"):
        finetune_seeds(make_config(model, tmp_path), workdir)


def test_another_vocabulary_is_not_resumed(finished, model, tables, tmp_path):
    workdir, _, _ = finished
    other = tmp_path / "model"
    shutil.copytree(model, other)
    described = json.loads((other / "config.json").read_text())
    vocabulary = (other / "tokenizer" / "vocab.txt").read_text()
    assert "ship\nsailed" in vocabulary
    changed = vocabulary.replace("ship\nsailed", "sailed\nship")
    (other / "tokenizer" / "vocab.txt").write_text(changed)
    with pytest.raises(DataError, match="is not the tokenizer that this run was trained with"):
        finetune_seeds(make_config(other, tables), tmp_path / "run")
    from data_pipeline.tokenizers import load_tokenizer

    described["tokenizer_fingerprint"] = load_tokenizer(other / "tokenizer").fingerprint
    (other / "config.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="the vocabulary of the model is not what"):
        finetune_seeds(make_config(other, tables), workdir)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"length": 64}, ConfigError, "length 64 exceeds the 40 positions"),
        ({"batch_size": 12}, ConfigError, "batch_size 12 is not divisible by 8"),
        ({"data.text_a": "sentence"}, DataError, r"no column 'sentence' \(columns: text, other"),
        ({"data.labels": "sea,land"}, DataError, "label 'letters' is not in the label set"),
        ({"data.labels": "sea"}, ConfigError, "data.labels names one label"),
        ({"predictions.labels": "1"}, ConfigError, "names 1 words for 2 labels"),
        ({"evaluation.metrics": "bleu"}, ConfigError, "'bleu' is no figure of this task"),
        ({"task": "regression"}, ConfigError, "'accuracy' is no figure of this task; it has pea"),
        ({"epochs": 0.1}, ConfigError, "make no step: set batch_size lower"),
        ({"task": "parsing"}, ConfigError, "task 'parsing' is not known"),
    ],
)
def test_a_mistake_in_the_recipe_is_told_before_training(
    model, tables, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        finetune_seeds(make_config(model, tables, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_of_another_kind_is_not_touched(model, tables, tmp_path):
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(DataError, match="holds no fine-tuning run"):
        finetune_seeds(make_config(model, tables), tmp_path)
