# SPDX-License-Identifier: Apache-2.0
"""Losses, figures, recipes and files of the tasks with one answer a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.finetune import metrics
from bert_jax.finetune.classification import (
    build,
    class_terms,
    pooled_logits,
    squared_error_terms,
)
from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.head import init_head
from bert_jax.finetune.step import make_finetune_optimizer, scale_by_layer
from bert_jax.model import encode
from configs import finetune
from data_pipeline.errors import ConfigError, DataError
from tests.bert_jax.labelled_task import make_config, write_tables
from tests.bert_jax.tiny_model import random_params, tiny_config, tiny_tokenizer


def draws(classes, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, classes, 200), random.integers(0, classes, 200)


def test_classification_figures_follow_their_formulas():
    """Formulas of GLUE's paper (arXiv 1804.07461) and of its scripts, written out."""
    expected, predicted = draws(2, seed=0)
    found = metrics.class_figures(metrics.CLASSES, expected, predicted)
    hit, miss = np.sum((expected == 1) & (predicted == 1)), np.sum(expected & (1 - predicted))
    false, right = np.sum((1 - expected) & predicted), np.sum((expected == 0) & (predicted == 0))
    precision, recall = hit / (hit + false), hit / (hit + miss)
    assert found["accuracy"] == pytest.approx((hit + right) / 200)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    root = np.sqrt(float((hit + false) * (hit + miss) * (right + false) * (right + miss)))
    assert found["matthews"] == pytest.approx((hit * right - false * miss) / root)
    other = 2 * right / (2 * right + false + miss)
    assert found["macro_f1"] == pytest.approx((found["f1"] + other) / 2)


def test_correlations_follow_their_formulas():
    random = np.random.default_rng(1)
    x = random.normal(size=50)
    y = x + random.normal(size=50)
    found = metrics.number_figures(metrics.NUMBERS, x, y)
    assert found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_constant_prediction_is_worth_nothing_and_no_warning():
    labels = np.array([0, 1, 1])
    found = metrics.class_figures(["f1", "matthews"], labels, np.zeros(3, int))
    assert found == {"f1": 0.0, "matthews": 0.0}
    found = metrics.number_figures(metrics.NUMBERS, np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert found == {"pearson": 0.0, "spearman": 0.0}


def test_terms_leave_out_rows_of_weight_zero():
    logits = jnp.asarray([[0.0, np.log(3.0)], [np.log(4.0), 0.0], [9.0, 9.0]])
    batch = {"label": jnp.asarray([1, 1, 0])}
    terms = class_terms(logits, batch, jnp.asarray([1.0, 1.0, 0.0]))
    assert float(terms["loss"][0]) == pytest.approx(-np.log(3 / 4) - np.log(1 / 5), rel=1e-6)
    assert [float(value) for value in terms["accuracy"]] == [1.0, 2.0]
    numbers = {"label": jnp.asarray([1.0, 2.0, 7.0])}
    found = squared_error_terms(jnp.asarray([[3.0], [1.5], [0.0]]), numbers, jnp.asarray([1, 1, 0]))
    assert [float(value) for value in found["loss"]] == pytest.approx([4.25, 2.0])


def test_a_choice_is_scored_as_a_sequence_of_its_own():
    config = tiny_config()
    params = random_params(config) | {"head": init_head(config, 1, jax.random.key(0))}
    random = np.random.default_rng(0)
    batch = {
        "input_ids": random.integers(0, config.vocab_size, (3, 4, 8)),
        "input_mask": np.ones((3, 4, 8), np.int32),
        "segment_ids": np.zeros((3, 4, 8), np.int32),
    }
    logits = pooled_logits(0.1, True, config, params, batch, None)
    assert logits.shape == (3, 4)
    one = [array[1, 2][None] for array in batch.values()]
    pooled = encode(config, params, *one).pooled[0]
    expected = pooled @ params["head"]["kernel"][:, 0] + params["head"]["bias"][0]
    assert float(logits[1, 2]) == pytest.approx(float(expected), abs=1e-5)


def test_rates_fall_from_head_to_embeddings():
    """Depths of `_get_layer_lrs` in google-research/electra, at three layers."""
    updates = {
        "embeddings": {"word": jnp.ones((2, 2))},
        "encoder": {"mlp": {"bias": jnp.ones((3, 5))}},
        "pooler": {"bias": jnp.ones(2)},
        "head": {"bias": jnp.ones(2)},
    }
    scaled, _ = scale_by_layer(0.5, 3).update(updates, None)
    depths = {f"layer {number}": number + 1 for number in range(3)} | {"embeddings": 0, "head": 5}
    expected = {name: 0.5 ** (3 + 2 - depth) for name, depth in depths.items()}
    assert float(scaled["head"]["bias"][0]) == expected["head"] == 1
    assert float(scaled["pooler"]["bias"][0]) == 0.5
    assert float(scaled["embeddings"]["word"][0, 0]) == expected["embeddings"]
    for number in range(3):
        row = scaled["encoder"]["mlp"]["bias"][number]
        np.testing.assert_allclose(row, expected[f"layer {number}"])


def test_layer_decay_scales_the_whole_update_of_the_optimizer(tmp_path):
    write_tables(tmp_path)
    config = tiny_config()
    params = random_params(config)
    params = {name: params[name] for name in ("embeddings", "encoder", "pooler")}
    params["head"] = init_head(config, 2, jax.random.key(0))
    gradients = jax.tree.map(jnp.ones_like, params)
    moved = []
    for decay in (1.0, 0.5):
        recipe = make_config("x", tmp_path, **{"optimizer.layer_decay": decay})
        optimizer = make_finetune_optimizer(recipe, config.num_layers, 10)
        state = optimizer.init(params)
        _, state = optimizer.update(gradients, state, params)  # the rate of step 0 is 0
        moved.append(optimizer.update(gradients, state, params)[0])
    whole, decayed = moved
    np.testing.assert_allclose(decayed["head"]["kernel"], whole["head"]["kernel"])
    np.testing.assert_allclose(
        decayed["embeddings"]["word"], whole["embeddings"]["word"] / 16, rtol=1e-6
    )


def test_all_nine_glue_recipes_are_whole():
    for task in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"):
        recipe = finetune.get_config(task).to_dict() | {"init_from": "x"}
        config = FinetuneConfig.from_mapping(recipe)
        assert config.data.source == f"glue/{task}"
        assert config.predictions.files.endswith(".tsv")
        assert (config.batch_size, config.epochs, config.optimizer.learning_rate) == (32, 3, 2e-5)
    with pytest.raises(ValueError, match="no recipe for 'imdb'"):
        finetune.get_config("imdb")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_glue_recipes_name_the_columns_and_labels_of_tfds():
    """Against the feature lists that TFDS carries in its own source."""
    from tensorflow_datasets.text.glue import Glue

    for config in Glue.BUILDER_CONFIGS:
        if config.name in ("mnli_matched", "mnli_mismatched", "ax"):
            continue
        data = finetune.get_config(config.name).data
        columns = [data[name] for name in ("text_a", "text_b") if name in data]
        assert columns == list(config.text_features), config.name
        if config.label_classes:
            assert data.labels.split(",") == list(config.label_classes), config.name
        else:
            assert data.labels == ""


def swag(path, count=12):
    random = np.random.default_rng(0)
    lines = ["video-id,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"]
    for row in range(count):
        endings = ",".join(f"was {random.choice(['a', 'b'])}" for _ in range(4))
        lines.append(f"{row},the sea is wide.,it,gold,{endings},{row % 4}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_swag_reads_its_csv_files(tmp_path):
    recipe = finetune.get_config("swag")
    recipe.data.train = recipe.data.validation = swag(tmp_path / "train.csv")
    recipe.data.test = swag(tmp_path / "test.csv", 3)
    recipe.length = 32
    config = FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": "x"})
    task = build(config, tiny_tokenizer(tmp_path))
    assert task.outputs == 1
    batch = task.train.batch(np.arange(4), 32)
    assert batch["input_ids"].shape == (4, 4, 32)
    assert batch["label"].tolist() == [0, 1, 2, 3]
    outputs = list(np.eye(4)[[2, 0, 3]])
    written = task.predictions(config.data.test, outputs)
    assert written == {"": "index\tprediction\n0\t2\n1\t0\n2\t3\n"}
    recipe.data.labels = "0,1"
    with pytest.raises(ConfigError, match=r"4 endings .* and 2 labels"):
        build(
            FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": "x"}),
            tiny_tokenizer(tmp_path),
        )


def test_regression_learns_numbers_and_writes_them(tmp_path):
    write_tables(tmp_path)
    changes = {
        "task": "regression",
        "data.label": "number",
        "data.text_b": "other",
        "evaluation.metrics": "pearson,spearman",
        "data.test": str(tmp_path / "test.tsv"),
    }
    task = build(make_config("x", tmp_path, **changes), tiny_tokenizer(tmp_path))
    assert task.train.targets["label"].dtype == np.float32
    outputs = [np.array([value]) for value in (1.23456, 0, -2, 3, 4)]
    written = task.predictions(str(tmp_path / "test.tsv"), outputs)[""]
    assert written.splitlines()[1:3] == ["0\t1.235", "1\t0.000"]
    name = str(tmp_path / "dev.tsv")
    exact = [np.array([label]) for label in task.validation[name].targets["label"]]
    assert task.score(name, exact) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    with pytest.raises(DataError, match="'sea' is no number|'letters' is no number"):
        build(
            make_config("x", tmp_path, **(changes | {"data.label": "label"})),
            tiny_tokenizer(tmp_path),
        )


def test_predictions_come_in_the_order_of_their_numbers(tmp_path):
    """TFDS stores rows shuffled; the benchmark's server reads them by index."""
    write_tables(tmp_path)
    path = tmp_path / "shuffled.tsv"
    path.write_text("idx\ttext\n10\ta\n2\tb\n0\tc\n")
    changes = {"data.test": str(path), "data.id": "idx", "predictions.labels": "0,1"}
    task = build(make_config("x", tmp_path, **changes), tiny_tokenizer(tmp_path))
    outputs = [np.array(logits) for logits in ([0.0, 1.0], [1.0, 0.0], [0.0, 1.0])]
    written = task.predictions(str(path), outputs)
    assert written == {"": "index\tprediction\n0\t1\n2\t0\n10\t1\n"}
