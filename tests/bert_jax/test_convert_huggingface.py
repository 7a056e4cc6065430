# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories out and in: configuration, weights, and everything that can be wrong."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_jax.convert.huggingface import (
    add_fresh_heads,
    export_huggingface,
    from_huggingface_config,
    load_huggingface,
    to_huggingface_config,
)
from bert_jax.convert.mapping import HEADS, flatten
from bert_jax.convert.model_config import FIELDS
from data_pipeline.errors import DataError
from tests.bert_jax.tiny_model import VOCABULARY, random_params, tiny_config, tiny_tokenizer


@pytest.fixture
def exported(tmp_path):
    """A model, its parameters and its export."""
    config, params = tiny_config(), random_params(tiny_config())
    export_huggingface(config, params, tiny_tokenizer(tmp_path), "# card\n", tmp_path / "export")
    return config, params, tmp_path / "export"


def rewrite(directory, change):
    """Applies `change` to the tensors of an export."""
    path = directory / "model.safetensors"
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    save_file(change(tensors), path)


def same(left, right):
    left, right = flatten(left), flatten(right)
    return left.keys() == right.keys() and all(
        left[path].tobytes() == right[path].tobytes() for path in left
    )


def test_comes_back_bit_for_bit(exported):
    config, params, directory = exported
    loaded_config, loaded = load_huggingface(directory)
    assert same(loaded, params)
    assert loaded_config == config
    again = directory.parent / "again"
    export_huggingface(config, loaded, tiny_tokenizer(directory.parent), "# card\n", again)
    for path in directory.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
        assert path.stat().st_mode & 0o777 == (directory / "config.json").stat().st_mode & 0o777


def test_every_setting_of_the_model_comes_back():
    """A value of its own for every field: none can be taken for another's or for a default."""
    config = tiny_config(
        hidden_dropout=0.21,
        attention_dropout=0.22,
        layer_norm_epsilon=1e-7,
        initializer_range=0.03,
        num_segments=4,
        activation="gelu_tanh",
    )
    content = json.loads(json.dumps(to_huggingface_config(config)))
    assert from_huggingface_config(content, "config.json") == config
    values = [content[name] for name in FIELDS.values()]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
    ],
)
def test_activations(theirs, ours):
    content = to_huggingface_config(tiny_config()) | {"hidden_act": theirs}
    assert from_huggingface_config(content, "config.json").activation == ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; only 'bert' can be converted"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not known"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": "24"}, "hidden_size is '24', which is no int"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, which is no int"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of model.num_heads 5"),
    ],
)
def test_a_model_that_is_not_bert_is_refused(changes, message):
    with pytest.raises(DataError) as raised:
        from_huggingface_config(to_huggingface_config(tiny_config()) | changes, "a/config.json")
    assert message in str(raised.value) and "a/config.json" in str(raised.value)


def test_a_size_that_is_not_there_is_not_guessed():
    content = to_huggingface_config(tiny_config())
    del content["hidden_size"], content["vocab_size"]
    with pytest.raises(DataError, match="lacks vocab_size, hidden_size"):
        from_huggingface_config(content, "config.json")


def test_names_of_older_transformers(exported):
    _, params, directory = exported

    def older(tensors):
        tensors["bert.embeddings.position_ids"] = np.arange(40)[None]
        return {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): array
            for name, array in tensors.items()
        }

    rewrite(directory, older)
    assert same(load_huggingface(directory)[1], params)


def test_position_tables_that_do_not_fit_the_configuration(exported):
    directory = exported[2]
    rewrite(directory, lambda t: t | {"bert.embeddings.position_ids": np.arange(41)[None]})
    with pytest.raises(DataError, match="position_ids does not count from 0 to 39"):
        load_huggingface(directory)
    table = "bert.embeddings.position_embeddings.weight"
    rewrite(
        directory,
        lambda t: {n: a[:39] if n == table else a for n, a in t.items() if "ids" not in n},
    )
    with pytest.raises(
        DataError, match=rf"wrong shape: {table} \[39, 24\], the configuration needs"
    ):
        load_huggingface(directory)


def test_an_encoder_without_heads(exported):
    config, params, directory = exported
    rewrite(
        directory,
        lambda tensors: {
            name.removeprefix("bert."): array
            for name, array in tensors.items()
            if name.startswith("bert.") and "pooler" not in name
        },
    )
    with pytest.raises(DataError, match="missing: cls.seq_relationship.weight"):
        load_huggingface(directory)
    _, encoder = load_huggingface(directory, optional=HEADS)
    completed, fresh = add_fresh_heads(config, encoder)
    assert fresh == ["pooler", "mlm", "nsp"]
    assert {key: completed[key] for key in ("embeddings", "encoder")} == encoder
    assert same({"encoder": completed["encoder"]}, {"encoder": params["encoder"]})
    assert 0.01 < np.std(completed["mlm"]["dense"]["kernel"]) < 0.03
    assert add_fresh_heads(config, params) == (params, [])


def test_half_precision_is_widened_exactly(exported):
    _, params, directory = exported
    rewrite(directory, lambda t: {n: a.astype(ml_dtypes.bfloat16) for n, a in t.items()})
    loaded = flatten(load_huggingface(directory)[1])
    for path, array in flatten(params).items():
        assert loaded[path].dtype == np.float32
        expected = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(loaded[path], expected)


def test_wider_numbers_are_not_rounded_in_silence(exported):
    rewrite(exported[2], lambda t: {n: a.astype(np.float64) for n, a in t.items()})
    with pytest.raises(DataError, match="is float64; float32, float16 and bfloat16 can be"):
        load_huggingface(exported[2])


@pytest.mark.parametrize("kept", [-1, 1000, 4, 0])
def test_a_truncated_file_is_noticed(exported, kept):
    path = exported[2] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="model.safetensors is damaged or no safetensors file"):
        load_huggingface(exported[2])


def test_a_file_that_is_not_there(exported):
    (exported[2] / "model.safetensors").unlink()
    with pytest.raises(DataError, match="export holds no weights: model.safetensors or"):
        load_huggingface(exported[2])
    (exported[2] / "config.json").unlink()
    with pytest.raises(DataError, match="config.json is missing: .* is no model directory"):
        load_huggingface(exported[2])


def test_configuration_and_weights_must_fit(exported):
    path = exported[2] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 60}))
    with pytest.raises(DataError) as raised:
        load_huggingface(exported[2])
    message = "wrong shape: bert.encoder.layer.0.intermediate.dense.bias [56], the configuration"
    assert message in str(raised.value) and "model.safetensors: 6 tensors" in str(raised.value)


def test_model_and_tokenizer_must_fit(tmp_path):
    config = tiny_config(vocab_size=len(VOCABULARY) + 1)
    with pytest.raises(DataError, match="do not belong together"):
        export_huggingface(
            config, random_params(config), tiny_tokenizer(tmp_path), "", tmp_path / "export"
        )


def test_padding_of_the_vocabulary_is_not_exported(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    for name, multiple in (("narrow", 1), ("wide", 128)):
        config = tiny_config(vocab_multiple=multiple)
        params = random_params(tiny_config())
        rows = config.padded_vocab_size
        word, bias = np.zeros((rows, 24), np.float32), np.zeros(rows, np.float32)
        word[: config.vocab_size] = params["embeddings"]["word"][: config.vocab_size]
        bias[: config.vocab_size] = params["mlm"]["bias"][: config.vocab_size]
        params["embeddings"]["word"], params["mlm"]["bias"] = word, bias
        export_huggingface(config, params, tokenizer, "", tmp_path / name)
    narrow, wide = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("narrow", "wide"))
    assert narrow == wide
