# SPDX-License-Identifier: Apache-2.0
"""Directories of the original: one that its own code saved, ours out and in, and what is refused.

`tests/goldens/google_checkpoint` was made by the original's `modeling.py`, `run_pretraining.py` and
`optimization.py` (`make_google_checkpoint.py` beside it).
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.convert.google import (
    export_google,
    from_google_config,
    load_google,
    read_google_tokenizer,
    to_google_config,
)
from bert_jax.convert.mapping import HEADS, export_tensors, flatten
from bert_jax.convert.names import GOOGLE
from bert_jax.convert.tensor_bundle import read_bundle, read_index, write_bundle
from bert_jax.model import apply_pretraining
from data_pipeline.errors import DataError
from tests.bert_jax.tiny_model import random_params, tiny_config, tiny_tokenizer

ORIGINAL = Path(__file__).parents[1] / "goldens" / "google_checkpoint"
INDEX = "bert_model.ckpt.index"
DATA = "bert_model.ckpt.data-00000-of-00001"


@pytest.fixture
def original(tmp_path):
    """A copy of the checkpoint that the original saved."""
    return Path(shutil.copytree(ORIGINAL, tmp_path / "original"))


@pytest.fixture
def exported(tmp_path):
    """A model, its parameters and its export."""
    config, params = tiny_config(), random_params(tiny_config())
    export_google(config, params, tiny_tokenizer(tmp_path), "# card\n", tmp_path / "export")
    return config, params, tmp_path / "export"


def rewrite(directory, change):
    """Applies `change` to the tensors of an export."""
    prefix = directory / "bert_model.ckpt"
    tensors = read_bundle(prefix, lambda name: True)
    write_bundle(prefix, change(tensors))


def same(left, right):
    left, right = flatten(left), flatten(right)
    return left.keys() == right.keys() and all(
        left[path].tobytes() == right[path].tobytes() for path in left
    )


def edit_config(directory, **changes):
    path = directory / "bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_model_that_the_original_saved_computes_what_it_computed_there(original):
    edit_config(original, gelu_form="tanh")
    config, params = load_google(original)
    stored = dict(np.load(ORIGINAL / "log_probabilities.npz"))
    batch = {name: stored[name] for name in stored if name not in ("mlm", "nsp")}
    logits = jax.jit(apply_pretraining, static_argnums=0)(config, params, batch)
    for ours, theirs in ((logits.mlm, stored["mlm"]), (logits.nsp, stored["nsp"])):
        np.testing.assert_allclose(jax.nn.log_softmax(ours), theirs, atol=1e-5, rtol=0)
        assert np.ptp(theirs) > 1


def test_our_export_has_the_variables_of_the_original_and_nothing_else(original):
    theirs, _ = read_index(original / "bert_model.ckpt")
    config, params = load_google(original)
    tensors = export_tensors(config, params, GOOGLE)
    left = theirs.keys() - tensors.keys()
    assert {name: theirs[name].shape for name in tensors} == {
        name: array.shape for name, array in tensors.items()
    }
    slots = {f"{name}/adam_{slot}" for name in tensors for slot in "mv"}
    assert left == slots | {"global_step"}


def test_what_training_left_is_skipped_and_counted(original, caplog):
    load_google(original)
    count = len(read_index(original / "bert_model.ckpt")[0]) // 3 * 2 + 1
    assert f"{count} tensors of the optimiser were left behind" in caplog.text


def test_comes_back_bit_for_bit(exported):
    config, params, directory = exported
    loaded_config, loaded = load_google(directory)
    assert loaded_config == config and same(loaded, params)
    tokenizer = read_google_tokenizer(directory)
    assert tokenizer.fingerprint == tiny_tokenizer(directory.parent).fingerprint
    export_google(config, loaded, tokenizer, "# card\n", directory.parent / "again")
    for path in directory.iterdir():
        assert path.read_bytes() == (directory.parent / "again" / path.name).read_bytes()


def test_tensorflow_restores_an_export_into_the_variables_of_a_graph(exported):
    """As `init_checkpoint` of the original's scripts does it."""
    tensorflow = pytest.importorskip("tensorflow")
    tf = tensorflow.compat.v1
    config, params, directory = exported
    expected = export_tensors(config, params, GOOGLE)
    with tf.Graph().as_default(), tf.Session() as session:
        variables = {n: tf.get_variable(n, array.shape) for n, array in expected.items()}
        tf.train.Saver(variables).restore(session, str(directory / "bert_model.ckpt"))
        for name, variable in variables.items():
            assert session.run(variable).tobytes() == expected[name].tobytes(), name


def test_every_setting_of_the_model_comes_back():
    config = tiny_config(
        hidden_dropout=0.21,
        attention_dropout=0.22,
        initializer_range=0.03,
        num_segments=4,
        activation="gelu_tanh",
    )
    content = json.loads(json.dumps(to_google_config(config)))
    assert from_google_config(content, "bert_config.json") == config
    assert content["hidden_act"] == "gelu" and content["gelu_form"] == "tanh"


def test_released_configurations_mean_the_erf_form_and_may_say_more(original):
    content = json.loads((original / "bert_config.json").read_text())
    content |= {"directionality": "bidi", "pooler_type": "first_token_transform"}
    config = from_google_config(content, "bert_config.json")
    assert config.activation == "gelu" and config.layer_norm_epsilon == 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' of the form 'erf' is not known"),
        ({"gelu_form": "quick"}, "hidden_act 'gelu' of the form 'quick' is not known"),
        ({"hidden_size": 25}, "hidden_size 25 is not a multiple of model.num_heads 3"),
        ({"vocab_size": "47"}, "vocab_size is '47', which is no int"),
        ({"intermediate_size": 60}, "[56], the configuration needs [60]"),
        ({"max_position_embeddings": 39}, "position_embeddings [40, 24], the configuration needs"),
        ({"num_hidden_layers": 1}, "unexpected: bert/encoder/layer_1/attention/output/dense/bias"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(original, changes, message):
    edit_config(original, **changes)
    with pytest.raises(DataError) as raised:
        load_google(original)
    assert message in str(raised.value) and str(original) in str(raised.value)


def test_a_size_that_is_not_there_is_not_guessed(original):
    """The default of the original's class is 16 segments."""
    content = json.loads((original / "bert_config.json").read_text())
    del content["type_vocab_size"], content["hidden_size"]
    with pytest.raises(DataError, match="lacks hidden_size, type_vocab_size"):
        from_google_config(content, "bert_config.json")


def test_what_the_original_cannot_compute_is_not_exported(tmp_path):
    with pytest.raises(DataError, match="layer_norm_epsilon is 1e-05; the original's code has"):
        to_google_config(tiny_config(layer_norm_epsilon=1e-5))
    tokenizer = tiny_tokenizer(tmp_path)
    config = tiny_config(vocab_size=tokenizer.vocab_size + 1)
    with pytest.raises(DataError, match="do not belong together"):
        export_google(config, random_params(config), tokenizer, "", tmp_path / "a")
    tokenizer.kind = "sentencepiece"
    with pytest.raises(DataError, match="sentencepiece tokenizer, which the original cannot read"):
        export_google(config, random_params(config), tokenizer, "", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_heads_may_be_absent_as_a_whole(exported):
    config, params, directory = exported
    rewrite(directory, lambda t: {n: a for n, a in t.items() if not n.startswith("cls/")})
    with pytest.raises(DataError, match="missing: cls/seq_relationship/output_weights"):
        load_google(directory)
    encoder = load_google(directory, optional=HEADS)[1]
    assert same(encoder, {k: v for k, v in params.items() if k not in ("mlm", "nsp")})
    again = directory.parent / "again"
    export_google(config, encoder, tiny_tokenizer(directory.parent), "", again)
    assert (again / DATA).read_bytes() == (directory / DATA).read_bytes()


def test_a_task_head_is_unexpected(exported):
    directory = exported[2]
    rewrite(directory, lambda t: t | {"output_weights": np.zeros((3, 24), np.float32)})
    with pytest.raises(DataError, match=r"unexpected: output_weights \[3, 24\]"):
        load_google(directory, optional=HEADS)


def test_wider_numbers_are_not_rounded_in_silence(exported):
    rewrite(exported[2], lambda t: {n: a.astype(np.float64) for n, a in t.items()})
    with pytest.raises(DataError, match="is float64; float32, float16 and bfloat16 can be"):
        load_google(exported[2])


def test_half_precision_is_widened_exactly(exported):
    rewrite(exported[2], lambda t: {n: a.astype(np.float16) for n, a in t.items()})
    loaded = flatten(load_google(exported[2])[1])
    for path, array in flatten(exported[1]).items():
        np.testing.assert_array_equal(loaded[path], array.astype(np.float16).astype(np.float32))


def test_a_checkpoint_of_tensorflow_2_is_told_apart(exported):
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    rewrite(exported[2], lambda t: {n + suffix: a for n, a in t.items()})
    with pytest.raises(DataError, match="is an object-based checkpoint of TensorFlow 2"):
        load_google(exported[2])


def test_the_one_checkpoint_is_found_whatever_its_name(exported):
    _, params, directory = exported
    for name in (INDEX, DATA):
        (directory / name).rename(directory / name.replace("bert_model.ckpt", "model.ckpt-20"))
    assert same(load_google(directory)[1], params)
    shutil.copy(directory / "model.ckpt-20.index", directory / "model.ckpt-10.index")
    with pytest.raises(DataError, match=r"several checkpoints, model.ckpt-10.index, model.ckpt-20"):
        load_google(directory)
    for path in directory.glob("*.index"):
        path.unlink()
    with pytest.raises(DataError, match="holds no checkpoint: bert_model.ckpt.index is expected"):
        load_google(directory)


def test_a_vocabulary_with_capitals_is_a_cased_one(exported, tmp_path):
    directory = exported[2]
    (directory / "tokenizer_settings.json").unlink()
    assert read_google_tokenizer(directory).settings["lower_case"] is True
    path = directory / "vocab.txt"
    path.write_text(path.read_text().replace("\nsea\n", "\nSea\n"))
    assert read_google_tokenizer(directory).settings["lower_case"] is False
