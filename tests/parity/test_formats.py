# SPDX-License-Identifier: Apache-2.0
"""The same logits from a model of any shape, whichever formats it went through.

    pytest -m parity tests/parity/test_formats.py

PyTorch computes from the export what we compute from the weights that went from it to a run, to
Google's format and back, for every published size.
"""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import BertConfig
from bert_jax.convert.conversion import convert
from bert_jax.convert.huggingface import export_huggingface
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.mapping import flatten
from bert_jax.model import apply_pretraining, encode
from bert_jax.model_config import SIZES
from data_pipeline.tokenizers import load_tokenizer
from tests.parity.test_export import batch_of, random_params, their_inputs, vocabulary

VOCABULARY = 1003


def export_random(size, folder, **changes):
    """A random model of a published size; returns its configuration, parameters and export."""
    config = BertConfig.preset(size, vocab_size=VOCABULARY, **changes)
    (folder / "vocab.txt").write_text("\n".join(vocabulary(VOCABULARY)) + "\n", "utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt", lower_case=True)
    params = random_params(config)
    export_huggingface(config, params, tokenizer, "# card\n", folder / "export")
    return config, params, folder / "export"


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        assert found[path].tobytes() == array.tobytes(), path


@pytest.mark.parametrize("size", SIZES)
def test_logits_of_every_size_after_every_format(size, tmp_path):
    config, params, export = export_random(size, tmp_path)
    convert(export, tmp_path / "run", "huggingface", "orbax")
    convert(tmp_path / "run", tmp_path / "google", "orbax", "google")
    convert(tmp_path / "google", tmp_path / "back", "google", "huggingface")
    back = tmp_path / "back" / "model.safetensors"
    assert back.read_bytes() == (export / "model.safetensors").read_bytes()
    config, found, _, missing = load_pretrained(tmp_path / "google")
    assert missing == ()
    assert_same(found, params)

    batch = batch_of(config, rows=2, length=24)
    ours = jax.jit(apply_pretraining, static_argnums=0)(config, found, batch)
    errors = {}
    for directory in (export, tmp_path / "back"):
        model = transformers.BertForPreTraining.from_pretrained(directory).eval()
        with torch.no_grad():
            theirs = model(**their_inputs(batch))
        real = batch["input_mask"] == 1
        mlm, nsp = theirs.prediction_logits.numpy()[real], theirs.seq_relationship_logits.numpy()
        error = np.abs(np.asarray(ours.mlm)[real] - mlm).max() / np.abs(mlm).max()
        errors[directory.name] = float(error)
        np.testing.assert_allclose(np.asarray(ours.nsp), nsp, atol=1e-5, rtol=0)
    print(f"\n{size}: largest error of a logit, relative to the largest logit: {errors}")
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("whole", [True, False])
def test_a_pytorch_model_bin_is_what_pytorch_saved(tmp_path, whole):
    _, params, export = export_random("tiny", tmp_path)
    kind = transformers.BertForPreTraining if whole else transformers.BertModel
    model = kind.from_pretrained(export).half() if whole else kind.from_pretrained(export)
    (export / "model.safetensors").unlink()
    torch.save(model.state_dict(), export / "pytorch_model.bin")
    found = load_pretrained(export)
    assert found.missing == (() if whole else ("mlm", "nsp"))
    expected = {part: params[part] for part in found.params}
    if whole:
        expected = jax.tree.map(lambda array: array.astype(np.float16).astype(np.float32), params)
    assert_same(found.params, expected)


def test_a_file_of_pytorch_before_1_6_is_refused(tmp_path):
    _, _, export = export_random("tiny", tmp_path)
    (export / "model.safetensors").unlink()
    tensors = {"a": torch.ones(2)}
    torch.save(tensors, export / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(Exception, match="written before PyTorch 1.6"):
        load_pretrained(export)


def test_the_feature_extraction_pipeline_gives_our_hidden_states(tmp_path):
    config, params, export = export_random("mini", tmp_path)
    extract = transformers.pipeline("feature-extraction", model=str(export))
    tokenizer = load_pretrained(export).tokenizer
    for text in ("word7 is not a ship.", "a"):
        special = tokenizer.special
        ids = np.array([[special.cls, *tokenizer.encode_batch([text])[0], special.sep]], np.int32)
        ours = encode(config, params, ids, np.ones_like(ids), np.zeros_like(ids)).hidden
        theirs = np.array(extract(text))
        assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("heads", "architecture"),
    [
        (("mlm",), "BertForMaskedLM"),
        (("pooler", "nsp"), "BertForNextSentencePrediction"),
        ((), "BertModel"),
    ],
)
def test_transformers_loads_what_is_there_and_misses_nothing(tmp_path, heads, architecture):
    config, params, export = export_random("tiny", tmp_path)
    kept = {name: params[name] for name in ("embeddings", "encoder", *heads)}
    tokenizer = load_pretrained(export).tokenizer
    export_huggingface(config, kept, tokenizer, "", tmp_path / "less")
    content = json.loads((tmp_path / "less" / "config.json").read_text())
    assert content["architectures"] == [architecture]
    _, report = getattr(transformers, architecture).from_pretrained(
        tmp_path / "less", output_loading_info=True
    )
    missing = {name for name in report["missing_keys"] if "pooler" not in name}
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"]
