# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned models on their way out: names, settings, the card, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from bert_jax.convert.conversion import convert
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.tensor_bundle import read_bundle
from data_pipeline.errors import DataError
from tests.bert_jax.labelled_task import FINETUNED, write_finetuned


@pytest.fixture(scope="module", params=FINETUNED)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    workdir, _, params = write_finetuned(folder, request.param)
    convert(workdir, folder / "export", "orbax", "huggingface")
    return request.param, params, folder / "export"


def test_the_head_has_the_name_that_transformers_looks_for(exported):
    task, params, directory = exported
    tensors = load_file(directory / "model.safetensors")
    name = "qa_outputs" if task == "question_answering" else "classifier"
    np.testing.assert_array_equal(tensors[f"{name}.weight"], params["head"]["kernel"].T)
    np.testing.assert_array_equal(tensors[f"{name}.bias"], params["head"]["bias"])
    others = {found.split(".")[0] for found in tensors} - {"bert"}
    assert others == {name}
    has_pooler = any(".pooler." in found for found in tensors)
    assert has_pooler == (task not in ("question_answering", "tagging"))


def test_the_configuration_says_class_and_labels(exported):
    task, _, directory = exported
    settings = json.loads((directory / "config.json").read_text())
    classes = {
        "classification": "BertForSequenceClassification",
        "regression": "BertForSequenceClassification",
        "multiple_choice": "BertForMultipleChoice",
        "question_answering": "BertForQuestionAnswering",
        "tagging": "BertForTokenClassification",
    }
    assert settings["architectures"] == [classes[task]]
    labels = {
        "classification": {"0": "letters", "1": "sea"},
        "regression": {"0": "label"},
        "tagging": {"0": "B-SEA", "1": "I-SEA", "2": "O"},
    }
    assert settings.get("id2label") == labels.get(task)
    if task in labels:
        back = {label: int(number) for number, label in labels[task].items()}
        assert settings["label2id"] == back
    kinds = {"classification": "single_label_classification", "regression": "regression"}
    assert settings.get("problem_type") == kinds.get(task)


def test_the_card_tells_recipe_data_and_figures(exported):
    task, _, directory = exported
    card = (directory / "README.md").read_text()
    for text in ("| train | x.tsv |", "| x.tsv, accuracy | 0.8750 |", "| optimiser | bert_adam"):
        assert text in card
    assert "secret" not in card
    assert ("Labels, in the order of the logits" in card) == bool(FINETUNED[task][1])
    assert (directory / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("task", "prefix"), [("classification", ""), ("question_answering", "cls/squad/")]
)
def test_the_originals_scripts_find_their_names(task, prefix, tmp_path):
    workdir, _, params = write_finetuned(tmp_path, task)
    convert(workdir, tmp_path / "google", "orbax", "google")
    tensors = read_bundle(tmp_path / "google" / "bert_model.ckpt", lambda name: True)
    np.testing.assert_array_equal(tensors[f"{prefix}output_weights"], params["head"]["kernel"].T)
    np.testing.assert_array_equal(tensors[f"{prefix}output_bias"], params["head"]["bias"])
    np.testing.assert_array_equal(tensors["bert/pooler/dense/kernel"], params["pooler"]["kernel"])
    script = "run_squad.py" if prefix else "run_classifier.py"
    assert script in (tmp_path / "google" / "README.md").read_text()


def test_what_cannot_go_is_refused(tmp_path):
    workdir, *_ = write_finetuned(tmp_path, "tagging")
    with pytest.raises(DataError, match="no script for the task tagging, only run_classifier.py"):
        convert(workdir, tmp_path / "out", "orbax", "google")
    with pytest.raises(DataError, match="is a run already, of fine-tuning: copy the directory"):
        convert(workdir, tmp_path / "out", "orbax", "orbax")
    assert not (tmp_path / "out").exists()
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    workdir.rename(seeds / "seed-0")
    with pytest.raises(DataError, match="holds the runs of several seeds: name one, seed-0 in it"):
        convert(seeds, tmp_path / "out", "orbax", "huggingface")


def test_other_commands_see_the_encoder(tmp_path):
    workdir, config, params = write_finetuned(tmp_path, "classification")
    found = load_pretrained(workdir)
    assert found.config == config
    assert found.missing == ("mlm", "nsp")
    assert sorted(found.params) == ["embeddings", "encoder", "pooler"]
    np.testing.assert_array_equal(found.params["pooler"]["kernel"], params["pooler"]["kernel"])
    with pytest.raises(DataError, match="lacks what this needs, a trained head mlm"):
        load_pretrained(workdir, heads=["mlm"])


def test_positions_are_cut_when_asked(tmp_path):
    workdir, *_ = write_finetuned(tmp_path, "classification")
    convert(workdir, tmp_path / "out", "orbax", "huggingface", max_positions=16)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["bert.embeddings.position_embeddings.weight"].shape[0] == 16
