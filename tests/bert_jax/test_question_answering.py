# SPDX-License-Identifier: Apache-2.0
"""Answers against the original's code, the loss by hand, and a run that learns to answer."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.finetune.answers import find_best
from bert_jax.finetune.config import FinetuneConfig, QuestionAnswering
from bert_jax.finetune.question_answering import build, span_terms
from bert_jax.finetune.seeds import finetune_seeds
from configs import finetune
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.labelled.squad import read_squad
from data_pipeline.labelled.squad_windows import WindowOptions, make_windows
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.bert_jax.labelled_task import write_model
from tests.bert_jax.squad_files import write_squad
from tests.bert_jax.tiny_model import VOCABULARY, tiny_tokenizer
from tests.data_pipeline import original_squad


@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("threshold", [0.0, -8.0])
def test_answers_are_those_of_the_original(tmp_path, impossible, threshold) -> None:
    tokenizer = WordPieceTokenizer([*VOCABULARY, *"()"], lower_case=True)
    path = write_squad(tmp_path / "squad.json", 20, impossible=impossible)
    squad = read_squad(path)
    windows = make_windows(
        squad, tokenizer, WindowOptions(14, 4, 4), training=False, impossible=impossible
    )
    random = np.random.default_rng(0)
    outputs = [random.normal(0, 3, (32, 2)).astype(np.float32) for _ in windows.windows]
    options = QuestionAnswering(
        n_best=5, max_answer_length=4, impossible=impossible, null_threshold=threshold
    )

    def tokenize(text):
        return [tokenizer.tokens[number] for number in tokenizer.encode_batch([text])[0]]

    data = json.loads(path.read_text())["data"]
    examples = original_squad.read_squad_examples(data, False, impossible)
    features = original_squad.convert_examples_to_features(examples, tokenize, 14, 4, 4, False)
    assert len(features) > 2 * len(examples)
    logits = []
    for output, feature in zip(outputs, features, strict=True):
        length = len(feature["tokens"])
        output[length:] = 100  # padding must not be chosen; the original's is not so likely
        logits.append(output[:length].astype(float).T.tolist())
    said, best, odds = original_squad.write_predictions(
        examples, features, logits, tokenizer.words, n_best_size=5, max_answer_length=4,
        version_2_with_negative=impossible, null_score_diff_threshold=threshold,
    )  # fmt: skip
    none = 0
    for number, own in windows.of_questions().items():
        question = squad.questions[number]
        found = find_best(
            squad.contexts[question.context],
            windows.pieces[question.context],
            [windows.windows[n] for n in own],
            [outputs[n] for n in own],
            options,
        )
        assert found.text == said[question.id]
        assert [entry["text"] for entry in found.best] == [e["text"] for e in best[question.id]]
        for ours, theirs in zip(found.best, best[question.id], strict=True):
            assert ours == pytest.approx(theirs)
        none += found.text == ""
        if impossible:
            assert found.null_odds == pytest.approx(odds[question.id])
    assert (none > 0) == (impossible and threshold < 0)


def test_the_loss_is_the_mean_of_start_and_end_and_knows_no_padding() -> None:
    logits = jnp.array([[[1.0, 0.0], [3.0, 2.0], [0.5, 4.0], [9.0, 9.0]]])
    batch = {
        "input_mask": jnp.array([[1, 1, 1, 0]]),
        "start_position": jnp.array([1]),
        "end_position": jnp.array([0]),
    }
    total, weight = span_terms(logits, batch, jnp.ones(1))["loss"]
    start = np.log(np.exp([1, 3, 0.5]).sum()) - 3
    end = np.log(np.exp([0, 2, 4]).sum()) - 0
    assert float(total / weight) == pytest.approx((start + end) / 2)
    gradient = jax.grad(lambda values: span_terms(values, batch, jnp.ones(1))["loss"][0])(logits)
    assert np.isfinite(gradient).all()
    assert not gradient[0, 3].any()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squad")
    for name, count, seed in (("train", 64, 0), ("dev", 24, 1)):
        write_squad(folder / f"{name}1.json", count, seed=seed)
        write_squad(folder / f"{name}2.json", count, seed=seed, impossible=True)
    write_squad(folder / "test.json", 5, seed=2, labelled=False)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("pretrained") / "run")


def make_config(model, files, version=1, **changes):
    recipe = copy.deepcopy(finetune.get_config(f"squad{version}"))
    recipe.data.train = str(files / f"train{version}.json")
    recipe.data.validation = str(files / f"dev{version}.json")
    recipe.data.test = str(files / "test.json")
    recipe.update(length=32, batch_size=8, epochs=10.0, log_every=1)
    recipe.question_answering.update(doc_stride=16, max_query_length=8)
    recipe.evaluation.update(batch_size=8, every=100)
    recipe.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    recipe.optimizer.learning_rate = 3e-3
    recipe.update_from_flattened_dict(changes)
    return FinetuneConfig.from_mapping(recipe.to_dict() | {"init_from": str(model)})


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_learns_to_answer_and_writes_the_official_files(
    model, files, tmp_path, version
) -> None:
    summary = finetune_seeds(make_config(model, files, version), tmp_path / "run")
    (figures,) = summary["validation"].values()
    assert figures["f1"] > 80
    folder = tmp_path / "run" / "predictions" / "test"
    found = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    names = ["nbest_predictions.json", "null_odds.json", "predictions.json"]
    assert sorted(found) == (names if version == 2 else [names[0], names[2]])
    assert set(found["predictions.json"]) == {f"q{n}" for n in range(5)}
    if version == 2:
        assert min(figures["HasAns_f1"], figures["NoAns_f1"]) > 70
        assert set(found["null_odds.json"]) == {f"q{n}" for n in range(5)}


def test_what_cannot_be_compared_or_learnt_is_refused(model, files, tmp_path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"test.json: question q0 has no answer to compare with"):
        build(make_config(model, files, **{"data.validation": str(files / "test.json")}), tokenizer)
    with pytest.raises(DataError, match=r"train2.json: question q\d+ has no answer to learn from"):
        build(make_config(model, files, **{"data.train": str(files / "train2.json")}), tokenizer)
    with pytest.raises(ConfigError, match="the first must be f1 or exact_match"):
        build(make_config(model, files, **{"evaluation.metrics": "accuracy"}), tokenizer)
    with pytest.raises(ConfigError, match="length 8 leaves no room"):
        build(make_config(model, files, length=8), tokenizer)
    with pytest.raises(ConfigError, match="SQuAD's own JSON"):
        build(make_config(model, files, **{"data.source": "squad/v1.1"}), tokenizer)
