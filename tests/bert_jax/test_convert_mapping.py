# SPDX-License-Identifier: Apache-2.0
"""The table of names: against a real model's names, element by element, and how strict it is."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.convert.huggingface import from_huggingface_config, to_huggingface_config
from bert_jax.convert.mapping import (
    export_tensors,
    flatten,
    import_tensors,
    parameter_shapes,
    pieces,
)
from bert_jax.convert.names import GOOGLE, HUGGINGFACE, TABLE
from bert_jax.model import init_params
from data_pipeline.errors import DataError
from tests.bert_jax.tiny_model import random_params, tiny_config

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "huggingface_names.json").read_text())


def test_names_and_shapes_are_those_of_a_real_model():
    sizes = to_huggingface_config(tiny_config()) | GOLDEN["config"]
    config = from_huggingface_config(sizes, "golden")
    tensors = export_tensors(config, random_params(config), HUGGINGFACE)
    found = {name: str(list(array.shape)) for name, array in tensors.items()}
    copies = {name: GOLDEN["tensors"][name] for name in HUGGINGFACE.copies}
    assert found | copies == GOLDEN["tensors"]
    assert not found.keys() & copies.keys()


def test_the_table_has_every_parameter_of_the_model_once():
    config = tiny_config()
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    shapes = {
        "/".join(k.key for k in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    assert shapes == parameter_shapes(config)
    assert len({row.path for row in TABLE}) == len(TABLE)


def test_every_element_goes_where_pytorch_expects_it():
    """A linear layer of PyTorch computes `weight @ x`; ours, but for one, `x @ kernel`."""
    config = tiny_config()
    params = random_params(config)
    tensors = export_tensors(config, params, HUGGINGFACE)
    attention, mlp = params["encoder"]["attention"], params["encoder"]["mlp"]
    x = np.random.default_rng(1).normal(size=24).astype(np.float32)
    heads = np.random.default_rng(2).normal(size=24).astype(np.float32)
    for layer in range(config.num_layers):
        name = f"bert.encoder.layer.{layer}."
        fused = attention["qkv"]["kernel"][layer] @ x
        for index, part in enumerate(("query", "key", "value")):
            theirs = tensors[f"{name}attention.self.{part}.weight"] @ x
            np.testing.assert_allclose(theirs, fused[index], rtol=1e-5, atol=1e-6)
            bias = tensors[f"{name}attention.self.{part}.bias"]
            np.testing.assert_array_equal(bias, attention["qkv"]["bias"][layer, index])
        ours = heads @ attention["output"]["kernel"][layer]
        theirs = tensors[f"{name}attention.output.dense.weight"] @ heads
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
        theirs = tensors[f"{name}intermediate.dense.weight"]
        np.testing.assert_array_equal(theirs, mlp["up"]["kernel"][layer].T)
        scale = tensors[f"{name}output.LayerNorm.weight"]
        np.testing.assert_array_equal(scale, mlp["norm"]["scale"][layer])
    np.testing.assert_array_equal(tensors["bert.pooler.dense.weight"], params["pooler"]["kernel"].T)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(words, params["embeddings"]["word"][: config.vocab_size])


@pytest.mark.parametrize("naming", [HUGGINGFACE, GOOGLE], ids=lambda naming: naming.column)
def test_there_and_back_changes_no_bit(naming):
    config = tiny_config()
    params = random_params(config)
    tensors = export_tensors(config, params, naming)
    back = flatten(import_tensors(config, tensors, naming))
    assert back.keys() == flatten(params).keys()
    for path, array in flatten(params).items():
        assert back[path].dtype == array.dtype
        assert back[path].tobytes() == array.tobytes(), path
    again = export_tensors(config, import_tensors(config, tensors, naming), naming)
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in tensors.items()
    }


def test_no_two_rows_have_one_name():
    for naming in (HUGGINGFACE, GOOGLE):
        names = [piece.name for row in TABLE for piece in pieces(tiny_config(), row, naming)]
        assert len(names) == len(set(names)) == 5 + 2 * 16 + 9


def test_everything_that_does_not_fit_is_listed():
    config = tiny_config()
    tensors = export_tensors(config, random_params(config), HUGGINGFACE)
    del tensors["bert.pooler.dense.bias"]
    tensors["classifier.weight"] = np.zeros((2, 24), np.float32)
    tensors["cls.predictions.bias"] = np.zeros(9, np.float32)
    with pytest.raises(DataError) as raised:
        import_tensors(config, tensors, HUGGINGFACE)
    assert str(raised.value).splitlines() == [
        "3 tensors do not fit the model of this configuration:",
        "  missing: bert.pooler.dense.bias [24]",
        "  unexpected: classifier.weight [2, 24]",
        "  wrong shape: cls.predictions.bias [9], the configuration needs [47]",
    ]


def test_a_layer_too_many_is_unexpected():
    tensors = export_tensors(tiny_config(), random_params(tiny_config()), HUGGINGFACE)
    with pytest.raises(DataError, match=r"unexpected: bert\.encoder\.layer\.1\.attention"):
        import_tensors(tiny_config(num_layers=1), tensors, HUGGINGFACE)


def test_an_export_of_other_parameters_is_refused():
    config = tiny_config()
    params = random_params(config)
    params["pooler"]["scale"] = np.zeros(24, np.float32)
    with pytest.raises(DataError, match="unexpected: pooler/scale"):
        export_tensors(config, params, HUGGINGFACE)
    with pytest.raises(DataError, match=r"wrong shape: embeddings/word \[128, 24\]"):
        export_tensors(tiny_config(vocab_size=130), random_params(config), HUGGINGFACE)


def test_a_head_may_be_absent_as_a_whole_and_only_if_allowed():
    config = tiny_config()
    tensors = export_tensors(config, random_params(config), HUGGINGFACE)
    encoder = {name: array for name, array in tensors.items() if not name.startswith("cls.")}
    with pytest.raises(DataError, match="7 tensors do not fit"):
        import_tensors(config, encoder, HUGGINGFACE)
    assert set(import_tensors(config, encoder, HUGGINGFACE, optional=("mlm", "nsp"))) == {
        "embeddings",
        "encoder",
        "pooler",
    }
    del tensors["cls.seq_relationship.bias"]
    with pytest.raises(DataError, match="missing: cls.seq_relationship.bias"):
        import_tensors(config, tensors, HUGGINGFACE, optional=("mlm", "nsp"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_of_a_failed_training_are_named(value):
    config = tiny_config()
    tensors = export_tensors(config, random_params(config), HUGGINGFACE)
    tensors["bert.pooler.dense.bias"][3] = value
    with pytest.raises(DataError, match=r"1 tensors hold NaN or .*\n  bert.pooler.dense.bias"):
        import_tensors(config, tensors, HUGGINGFACE)


def test_a_copy_must_be_a_copy():
    config = tiny_config()
    tensors = export_tensors(config, random_params(config), HUGGINGFACE)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    tied = tensors | {"cls.predictions.decoder.weight": words.copy()}
    import_tensors(config, tied, HUGGINGFACE)
    tied["cls.predictions.decoder.weight"][0, 0] += 1
    with pytest.raises(DataError, match=r"cls\.predictions\.decoder\.weight differs"):
        import_tensors(config, tied, HUGGINGFACE)
