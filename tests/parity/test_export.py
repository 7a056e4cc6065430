# SPDX-License-Identifier: Apache-2.0
"""Exports in the hands of `transformers`: the same logits, the same blanks, the same tokens."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import BertConfig
from bert_jax.convert.huggingface import add_fresh_heads, export_huggingface, load_huggingface
from bert_jax.convert.huggingface_tokenizer import read_tokenizer
from bert_jax.convert.mapping import flatten, parameter_shapes, unflatten
from bert_jax.fill_mask import fill_mask
from bert_jax.model import apply_pretraining, encode
from data_pipeline.errors import DataError
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import load_tokenizer
from data_pipeline.vocab import train_sentencepiece

ROOT = Path(__file__).parents[2]
GOLDENS = json.loads((ROOT / "tests" / "goldens" / "wordpiece.json").read_text())
SIGNS = "abcdefghijklmnopqrstuvwxyzàéß0123456789.,;:!?'\"-()中文あ"
UNMASKED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MASK_TEXTS = ["the ship [MASK] the sea.", "[MASK]", "a [MASK] is (not) a ship, it is 42!"]


def vocabulary(size):
    signs = [*SIGNS, *(f"##{sign}" for sign in SIGNS)]
    return [*SPECIAL_NAMES, *signs, *(f"word{n}" for n in range(size - len(signs) - 5))]


def random_params(config, seed=0):
    """Of the size that trained weights have, biases and scales too."""
    random = np.random.default_rng(seed)
    flat = {}
    for path, shape in parameter_shapes(config).items():
        flat[path] = random.normal(0, 0.04, shape).astype(np.float32) + path.endswith("scale")
        if path in ("embeddings/word", "mlm/bias"):
            flat[path][config.vocab_size :] = 0
    return unflatten(flat)


MODELS = {
    "tiny": BertConfig.preset("tiny", vocab_size=1000),
    "tiny tanh": BertConfig.preset("tiny", vocab_size=1024, activation="gelu_tanh"),
    "mini": BertConfig.preset("mini", vocab_size=997, layer_norm_epsilon=1e-3),
    "small": BertConfig.preset("small", vocab_size=1001, num_segments=3, max_positions=64),
    "base": BertConfig.preset("base", vocab_size=30522),
}


@pytest.fixture(scope="module", params=MODELS)
def export(request, tmp_path_factory):
    """A model with its export."""
    config = MODELS[request.param]
    folder = tmp_path_factory.mktemp("export")
    (folder / "vocab.txt").write_text("\n".join(vocabulary(config.vocab_size)) + "\n", "utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt", lower_case=True)
    params = random_params(config)
    export_huggingface(config, params, tokenizer, "# card\n", folder / "export")
    return config, params, tokenizer, folder / "export"


def batch_of(config, seed=0, rows=3, length=48):
    random = np.random.default_rng(seed)
    lengths = np.array([length, length // 2, 1])[:rows]
    input_mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = random.integers(5, config.vocab_size, (rows, length)).astype(np.int32)
    return {
        "input_ids": ids * input_mask,
        "input_mask": input_mask,
        "segment_ids": ((np.arange(length) > 9) * input_mask).astype(np.int32),
        "masked_positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }


def their_inputs(batch):
    names = {"input_ids": "input_ids", "input_mask": "attention_mask"}
    names["segment_ids"] = "token_type_ids"
    return {theirs: torch.from_numpy(batch[ours]) for ours, theirs in names.items()}


def test_logits_are_equal(export):
    config, params, _, directory = export
    model = transformers.AutoModelForPreTraining.from_pretrained(directory).eval()
    assert type(model) is transformers.BertForPreTraining
    batch = batch_of(config)
    with torch.no_grad():
        theirs = model(**their_inputs(batch))
    ours = jax.jit(apply_pretraining, static_argnums=0)(config, params, batch)
    real = batch["input_mask"] == 1
    mlm = theirs.prediction_logits.numpy()[real]
    assert np.abs(np.asarray(ours.mlm)[real] - mlm).max() < 1e-5 * np.abs(mlm).max()
    assert np.std(mlm) > 0.1
    nsp = theirs.seq_relationship_logits.numpy()
    np.testing.assert_allclose(np.asarray(ours.nsp), nsp, atol=1e-5, rtol=0)


def test_the_pipeline_fills_the_same_blanks(export):
    config, params, tokenizer, directory = export
    fill = transformers.pipeline("fill-mask", model=str(directory), top_k=5)
    ours = fill_mask(config, params, tokenizer, MASK_TEXTS)
    for result, theirs in zip(ours, fill(MASK_TEXTS), strict=True):
        ids = [tokenizer.tokens.index(p["token"]) for p in result["predictions"]]
        assert ids == [prediction["token"] for prediction in theirs]
        for mine, other in zip(result["predictions"], theirs, strict=True):
            assert mine["probability"] == pytest.approx(other["score"], rel=1e-4)


def test_what_transformers_saves_comes_back(export, tmp_path):
    config, params, _, directory = export
    model = transformers.BertForPreTraining.from_pretrained(directory)
    model.save_pretrained(tmp_path)
    loaded_config, loaded = load_huggingface(tmp_path)
    assert loaded_config == config
    expected = flatten(params)
    for path, array in flatten(loaded).items():
        assert array.tobytes() == expected[path].tobytes(), path


@pytest.mark.parametrize("name", GOLDENS)
def test_auto_tokenizer_reads_hard_strings_as_we_do(name, tmp_path):
    golden = GOLDENS[name]
    (tmp_path / "vocab.txt").write_text("\n".join(golden["vocabulary"]) + "\n", "utf-8")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt", lower_case=golden["lower_case"])
    config = BertConfig.preset("tiny", vocab_size=tokenizer.vocab_size)
    export_huggingface(config, random_params(config), tokenizer, "", tmp_path / "export")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert auto.model_max_length == config.max_positions and auto.mask_token == "[MASK]"
    assert read_tokenizer(tmp_path / "export").fingerprint == tokenizer.fingerprint
    special, compared = tokenizer.special, 0
    for case in golden["cases"]:
        text = case["text"]
        # Rust has no lone surrogates, and takes special tokens in a text for what they stand for.
        if any(0xD800 <= ord(c) < 0xE000 for c in text) or any(t in text for t in UNMASKED):
            continue
        compared += 1
        expected = [special.cls, *tokenizer.encode_with_mask(text), special.sep]
        assert auto(text).input_ids == expected, ascii(text)
    assert compared > 0.9 * len(golden["cases"])


def test_auto_tokenizer_reads_a_sentencepiece_model(tmp_path):
    text = (ROOT / "demo" / "corpus" / "natsume-botchan.txt").read_text("utf-8")
    lines = [line for line in text.split("\n") if line][:300]
    (tmp_path / "spiece.model").write_bytes(train_sentencepiece(lines, 300, lower_case=True))
    tokenizer = load_tokenizer(tmp_path / "spiece.model")
    config = BertConfig.preset("tiny", vocab_size=tokenizer.vocab_size)
    params = random_params(config)
    export_huggingface(config, params, tokenizer, "", tmp_path / "export")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    for line in [*lines[:50], "the [MASK] sea"]:
        ours = [tokenizer.special.cls, *tokenizer.encode_with_mask(line), tokenizer.special.sep]
        assert auto(line).input_ids == ours
    (theirs,) = transformers.pipeline("fill-mask", str(tmp_path / "export"), top_k=1)(["a [MASK]"])
    (mine,) = fill_mask(config, params, tokenizer, ["a [MASK]"], top=1)
    assert tokenizer.tokens[theirs["token"]] == mine["predictions"][0]["token"]


def test_a_directory_that_transformers_saved_whole(tmp_path):
    """Model and tokenizer as their own users save them: our reading of both agrees with theirs."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(vocabulary(500)) + "\n", "utf-8")
    theirs = transformers.BertTokenizer(str(path), do_lower_case=False)
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    settings = transformers.BertConfig(vocab_size=500, hidden_act="gelu_new", **sizes)
    transformers.BertForPreTraining(settings).save_pretrained(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    config, _ = load_huggingface(tmp_path / "model")
    ours = read_tokenizer(tmp_path / "model")
    assert config.activation == "gelu_tanh" and ours.vocab_size == config.vocab_size
    for text in ("Word7 word7 héllo 中", "a-b (c)"):
        assert ours.encode_batch([text])[0] == theirs(text, add_special_tokens=False).input_ids


def test_an_encoder_without_heads(tmp_path):
    settings = transformers.BertConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = transformers.BertModel(settings).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="missing: cls.predictions.bias"):
        load_huggingface(tmp_path)
    config, params = load_huggingface(tmp_path, optional=("mlm", "nsp"))
    batch = batch_of(config)
    with torch.no_grad():
        theirs = model(**their_inputs(batch)).last_hidden_state.numpy()
    params, fresh = add_fresh_heads(config, params)
    inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
    ours = np.asarray(encode(config, params, *inputs).hidden)
    assert fresh == ["mlm", "nsp"]
    assert np.abs(ours - theirs)[batch["input_mask"] == 1].max() < 1e-5
