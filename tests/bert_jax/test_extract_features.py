# SPDX-License-Identifier: Apache-2.0
"""Features against one unpadded row at a time; files of all formats; input as users have it."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.convert.huggingface import export_huggingface
from bert_jax.convert.load import Pretrained
from bert_jax.extract_features import check_layers, encode_line, extract
from bert_jax.feature_files import check_output, open_writer
from bert_jax.model import encode
from data_pipeline.errors import DiskError, OutputError, UsageError
from tests.bert_jax.tiny_model import VOCABULARY, random_params, tiny_config, tiny_tokenizer

ROOT = Path(__file__).parents[2]
LINES = [
    "The ship sailed across the wide sea.",
    "",
    "it is not the sea ||| It was.",
    "   ",
    "Ships",
    "a b c d e f g h i j k l m n o p q r s t",
    "is ||| ",
]


@pytest.fixture
def model(tmp_path):
    config = tiny_config()
    return Pretrained(config, random_params(config), tiny_tokenizer(tmp_path), ())


def run(model, lines=LINES, kind="tokens", layers=(-1, -2), max_length=40, batch_tokens=64):
    options = {"kind": kind, "layers": layers, "max_length": max_length}
    return list(extract(model, lines, **options, batch_tokens=batch_tokens))


def alone(model, tokens, segments):
    """Embeddings and layers [layers + 1, length, hidden] and pooled vector of one row."""
    ids = np.array([[VOCABULARY.index(token) for token in tokens]], np.int32)
    output = encode(
        model.config, model.params, ids, np.ones_like(ids), np.array([segments]), all_layers=True
    )
    return np.asarray(output.layers)[:, 0], np.asarray(output.pooled)[0]


ROWS = {
    0: ("[CLS] the ship sailed across the wide sea . [SEP]", ""),
    1: ("[CLS] [SEP]", ""),
    2: ("[CLS] it is not the sea [SEP]", "it was . [SEP]"),
    4: ("[CLS] ship ##s [SEP]", ""),
}


@pytest.mark.parametrize("place", ROWS)
def test_tokens_have_the_vectors_of_the_line_alone_in_the_order_of_the_input(model, place) -> None:
    found = run(model, layers=(-1, 0, -3))
    assert [features.line for features in found] == list(range(len(LINES)))
    first, second = (text.split() for text in ROWS[place])
    tokens = first + second
    layers, _ = alone(model, tokens, [0] * len(first) + [1] * len(second))
    assert found[place].names == tokens
    expected = np.stack([layers[2], layers[1], layers[0]], axis=1)
    np.testing.assert_allclose(found[place].vectors, expected, atol=2e-6)


def test_the_size_of_batches_changes_nothing(model) -> None:
    for one, many in zip(run(model, batch_tokens=16), run(model, batch_tokens=1024), strict=True):
        assert one.names == many.names
        np.testing.assert_allclose(one.vectors, many.vectors, atol=2e-6)


def test_sentence_vectors(model) -> None:
    layers, pooled = alone(model, "[CLS] ship ##s [SEP]".split(), [0] * 4)
    np.testing.assert_allclose(run(model, kind="pooled")[4].vectors[0], pooled, atol=2e-6)
    mean = run(model, kind="mean")[4].vectors
    np.testing.assert_allclose(mean, layers[[2, 1]].mean(axis=1), atol=2e-6)


def test_a_model_without_a_pooler_has_all_vectors_but_its_own(model) -> None:
    params = {name: value for name, value in model.params.items() if name not in ("pooler", "mlm")}
    bare = model._replace(params=params, missing=("pooler", "mlm"))
    np.testing.assert_array_equal(run(bare)[0].vectors, run(model)[0].vectors)


def test_words_have_the_vector_of_their_first_piece(model) -> None:
    lines = ["Ships  sailed\u3000across.\u200b \u200b it", "is ||| it, \u00ad"]
    words, tokens = run(model, lines, "words"), run(model, lines)
    assert words[0].names == ["Ships", "sailed", "across.\u200b", "it"]
    assert words[0].words == [0, 1, 2, 4]  # the word between has nothing that could be seen
    assert [tokens[0].names[row] for row in (1, 3, 4, 6)] == ["ship", "sailed", "across", "it"]
    assert tokens[0].words == [-1, 0, 0, 1, 2, 2, 4, -1]
    np.testing.assert_array_equal(words[0].vectors, tokens[0].vectors[[1, 3, 4, 6]])
    assert words[1].names == ["is", "it,"]
    assert words[1].words == [0, 1]


def test_pairs_are_cut_and_split_as_by_the_original(tmp_path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    line = encode_line(tokenizer, " the ||| sea ||| a b c d e f g ", 12)
    tokens = [VOCABULARY[number] for number in line.ids]
    assert tokens == "[CLS] the [UNK] [UNK] [UNK] sea [SEP] a b c d [SEP]".split()
    assert line.segments == [0] * 7 + [1] * 5
    assert line.lost == 3
    assert encode_line(tokenizer, "a b c d e", 5).lost == 2


def write(path, features, kind, layers=(-1, -2)):
    with open_writer(path, kind, layers, 24) as add:
        for line in features:
            add(line)
    return path


def test_files_hold_the_same(model, tmp_path) -> None:
    import pyarrow.parquet as pq

    features = run(model)
    lines = [
        json.loads(line)
        for line in write(tmp_path / "a.jsonl", features, "tokens").read_text("utf-8").splitlines()
    ]
    arrays = np.load(write(tmp_path / "a.npz", features, "tokens"))
    table = pq.read_table(write(tmp_path / "a.parquet", features, "tokens")).to_pylist()
    assert arrays["layers"].tolist() == [-1, -2]
    for number, line in enumerate(features):
        rows = line.vectors.reshape(len(line.names), 48)
        assert list(lines[number]) == ["linex_index", "features"]
        assert lines[number]["linex_index"] == number
        assert [f["token"] for f in lines[number]["features"]] == line.names
        layers = [[part["values"] for part in f["layers"]] for f in lines[number]["features"]]
        assert layers == line.vectors.astype(np.float64).round(6).tolist()
        assert [part["index"] for part in lines[number]["features"][0]["layers"]] == [-1, -2]
        part = slice(*arrays["line_offsets"][number : number + 2])
        np.testing.assert_array_equal(arrays["vectors"][part], rows)
        assert arrays["words"][part].tolist() == line.words
        assert [VOCABULARY[n] for n in arrays["token_ids"][part]] == line.names
        assert table[number] == {
            "line": number,
            "tokens": line.names,
            "words": line.words,
            "vectors": rows.tolist(),
        }


@pytest.mark.parametrize("kind", ["pooled", "mean"])
def test_files_of_sentence_vectors_hold_the_same(model, tmp_path, kind) -> None:
    import pyarrow.parquet as pq

    features = run(model, kind=kind, layers=(-1,))
    vectors = np.stack([line.vectors.ravel() for line in features])
    arrays = np.load(write(tmp_path / "a.npz", features, kind, (-1,)))
    assert sorted(arrays) == ["layers", "vectors"]
    np.testing.assert_array_equal(arrays["vectors"], vectors)
    table = pq.read_table(write(tmp_path / "a.parquet", features, kind, (-1,))).to_pylist()
    assert [row["vector"] for row in table] == vectors.tolist()
    text = write(tmp_path / "a.jsonl", features, kind, (-1,)).read_text("utf-8")
    found = [json.loads(line)["vector"] for line in text.splitlines()]
    np.testing.assert_allclose(found, vectors, atol=6e-7)


@pytest.mark.parametrize("name", ["a.jsonl", "a.npz", "a.parquet"])
def test_no_input_makes_an_empty_file_and_an_error_leaves_none(tmp_path, name) -> None:
    write(tmp_path / name, [], "tokens")
    with (
        pytest.raises(DiskError, match="No space"),
        open_writer(tmp_path / f"b{name}", "mean", [-1], 4),
    ):
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_layers() -> None:
    config = tiny_config(num_layers=6)
    assert check_layers(config, None) == (-1, -2, -3, -4)
    assert check_layers(tiny_config(), None) == (-1, -2)
    assert check_layers(config, [5, -7]) == (5, -7)
    for layer in (6, -8):
        with pytest.raises(UsageError, match=f"6 layers, no layer {layer}; -1 .top. to -6 are"):
            check_layers(config, [-1, layer])


def test_a_place_that_is_taken_or_unknown_is_refused(tmp_path) -> None:
    taken = tmp_path / "a.npz"
    taken.write_text("here")
    with pytest.raises(OutputError, match=r"a.npz exists; name another --output, or add --over"):
        check_output(taken, overwrite=False)
    check_output(taken, overwrite=True)
    with pytest.raises(OutputError, match="nowhere does not exist"):
        check_output(tmp_path / "nowhere" / "a.npz", overwrite=False)
    with pytest.raises(UsageError, match="must end in .jsonl, .npz, .parquet"):
        check_output(tmp_path / "a.csv", overwrite=False)


def command(*arguments, text=None):
    return subprocess.run(
        [sys.executable, "-m", "bert_jax.extract_features", *map(str, arguments)],
        input=text, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


def test_the_command(model, tmp_path) -> None:
    export = tmp_path / "export"
    config, params, tokenizer, _ = model
    export_huggingface(config, params, tokenizer, "", export)
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(("a b " * 40 + "\nit\ra\n").encode()))
    output = tmp_path / "out.npz"
    common = (f"--checkpoint={export}", f"--output={output}")
    done = command(*common, f"--input={tmp_path / 'in.txt.gz'}", "--vectors=words", "--layers=-1")
    assert done.returncode == 0, done.stderr
    assert "words of 2 lines" in done.stderr
    assert "1 lines had more than 40 tokens and were cut, first line 1" in done.stderr
    assert np.load(output)["vectors"].shape == (40, 24)
    refused = command(*common, text="it\n")
    assert refused.returncode == 73
    assert np.load(output)["vectors"].shape == (40, 24)
    again = command(*common, "--overwrite", "--vectors=pooled", text="it\n\nis\n")
    assert again.returncode == 0, again.stderr
    assert np.load(output)["vectors"].shape == (3, 24)
    (export / "vocab.txt").unlink()
    (export / "tokenizer.json").unlink()
    lost = command(*common, "--overwrite", text="it\n")
    assert (lost.returncode, "vocab" in lost.stderr) == (65, True), lost.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--output=a.npz"], 64, "--checkpoint=MODEL and --output=FILE are needed"),
        (["--checkpoint=nowhere", "--output=/tmp/a.npz"], 65, "nowhere holds no model"),
    ],
)
def test_the_command_says_what_it_needs(arguments, code, message) -> None:
    done = command(*arguments, text="")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
