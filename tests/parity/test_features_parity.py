# SPDX-License-Identifier: Apache-2.0
"""Features of an imported model are the `hidden_states` and means that `transformers` gives."""

import numpy as np
import pytest
import torch
import transformers

from bert_jax.convert.load import load_pretrained
from bert_jax.extract_features import extract

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##a", "##b", "ship", "."]
LINES = ["Ship abba.", "a ||| b ship c", "", "a b c d e f g h i j " * 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=48, num_hidden_layers=5, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    """For every line its tokens, hidden states [layers + 1, length, hidden] and pooled vector."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    found = []
    for line in LINES:
        encoded = tokenizer(*line.split(" ||| "), return_tensors="pt")
        with torch.no_grad():
            output = model(**encoded, output_hidden_states=True)
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
        layers = np.stack([layer[0].numpy() for layer in output.hidden_states])
        found.append((tokens, layers, output.pooler_output[0].numpy()))
    return found


def ours(folder, kind, layers):
    model = load_pretrained(folder)
    return list(extract(model, LINES, kind=kind, layers=layers, max_length=128))


def test_layers_count_from_the_top_as_in_the_original(folder, theirs):
    layers = (-1, -2, -3, -4, -6, 0)
    for line, (tokens, hidden, _) in zip(ours(folder, "tokens", layers), theirs, strict=True):
        assert line.names == tokens
        expected = hidden[[5, 4, 3, 2, 0, 1]].swapaxes(0, 1)
        np.testing.assert_allclose(line.vectors, expected, atol=1e-5)


def test_pooled_and_mean(folder, theirs):
    pooled, mean = ours(folder, "pooled", ()), ours(folder, "mean", (-1,))
    for line, average, (_, hidden, vector) in zip(pooled, mean, theirs, strict=True):
        np.testing.assert_allclose(line.vectors[0], vector, atol=1e-5)
        np.testing.assert_allclose(average.vectors[0], hidden[-1].mean(axis=0), atol=1e-5)
