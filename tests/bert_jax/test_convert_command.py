# SPDX-License-Identifier: Apache-2.0
"""The command `python -m bert_jax.convert`: every pair of formats, and what it refuses."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_jax import run_directory
from bert_jax.convert import files, huggingface
from bert_jax.convert.conversion import convert
from bert_jax.convert.huggingface import export_huggingface
from bert_jax.convert.load import FORMATS, Pretrained, find_format, load_pretrained
from bert_jax.convert.mapping import HEADS, flatten
from bert_jax.convert.model_card import SOURCE_CARD, model_card
from bert_jax.model import encode
from data_pipeline.errors import DataError, OutputError
from data_pipeline.mixture import open_mixture
from data_pipeline.store import open_store
from tests.bert_jax.tiny_model import random_params, tiny_config, tiny_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exported(tmp_path):
    """A Hugging Face directory with random weights."""
    directory = tmp_path / "huggingface"
    params = random_params(tiny_config())
    export_huggingface(tiny_config(), params, tiny_tokenizer(tmp_path), "# card\n", directory)
    return directory


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax.convert", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done


def import_run(source, target, **options):
    return convert(source, target, "huggingface", "orbax", **options)


def same(left, right):
    left, right = flatten(left), flatten(right)
    return left.keys() == right.keys() and all(
        left[path].tobytes() == right[path].tobytes() for path in left
    )


def cut_heads(exported):
    path = exported / "model.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if not name.startswith("cls.")}, path)


@pytest.mark.parametrize("middle", FORMATS)
def test_there_and_back_through_every_format(exported, tmp_path, middle):
    """The weights, the model and the tokenizer's files come back to the byte."""
    convert(exported, tmp_path / "middle", "huggingface", middle)
    assert find_format(tmp_path / "middle") == middle
    convert(tmp_path / "middle", tmp_path / "back", middle, "huggingface")
    for path in exported.iterdir():
        if path.name != "README.md":
            assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes(), path.name
    assert (tmp_path / "back" / SOURCE_CARD).read_text() == "# card\n"


@pytest.mark.parametrize("source_format", FORMATS)
@pytest.mark.parametrize("target_format", FORMATS)
def test_every_pair_of_formats(exported, tmp_path, source_format, target_format):
    expected = load_pretrained(exported)
    convert(exported, tmp_path / "source", "huggingface", source_format)
    convert(tmp_path / "source", tmp_path / "target", source_format, target_format)
    found = load_pretrained(tmp_path / "target")
    assert (found.config, found.missing) == (expected.config, ())
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint
    assert same(found.params, expected.params)


def test_the_command_converts_and_says_what_it_wrote(exported, tmp_path):
    run, google = tmp_path / "run", tmp_path / "google"
    done = command("--from=huggingface", "--to=orbax", f"--source={exported}", f"--target={run}")
    assert (done.returncode, done.stdout) == (0, f"wrote {run}\n"), done.stderr
    done = command("--from=orbax", "--to=google", f"--source={run}", f"--target={google}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {google}\n", "")
    assert {path.name for path in google.iterdir()} == {
        "README.md",
        "SOURCE_README.md",
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "tokenizer_settings.json",
        "vocab.txt",
    }


def test_neither_tensorflow_nor_pytorch_is_needed(exported, tmp_path):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'torch', 'transformers')))\n"
        "from pathlib import Path\n"
        "from bert_jax.convert.conversion import convert\n"
        "source, middle, target = map(Path, sys.argv[1:])\n"
        "convert(source, middle, 'huggingface', 'google')\n"
        "convert(middle, target, 'google', 'orbax')"
    )
    paths = (exported, tmp_path / "google", tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert same(load_pretrained(tmp_path / "run").params, random_params(tiny_config()))


def test_an_imported_run_holds_the_weights_and_where_they_come_from(exported, tmp_path):
    assert import_run(exported, tmp_path / "run").missing == ()
    config, params, tokenizer, missing = load_pretrained(tmp_path / "run", heads=HEADS)
    assert (config, missing) == (tiny_config(), ())
    assert tokenizer.fingerprint == tiny_tokenizer(tmp_path).fingerprint
    assert same(params, random_params(config))
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["imported_from"] == "huggingface" and described["fresh_heads"] == []


def test_heads_that_the_source_lacks_are_named_everywhere(exported, tmp_path):
    cut_heads(exported)
    run = tmp_path / "run"
    done = command("--from=huggingface", "--to=orbax", f"--source={exported}", f"--target={run}")
    assert done.returncode == 0
    assert "not in the source, random values instead: mlm, nsp" in done.stderr
    assert json.loads((run / "config.json").read_text())["fresh_heads"] == ["mlm", "nsp"]
    assert load_pretrained(run).missing == ("mlm", "nsp")
    with pytest.raises(DataError, match=r"run lacks what this needs, a trained head mlm: take a"):
        load_pretrained(run, heads=["mlm"])


@pytest.mark.parametrize("target_format", ["huggingface", "google"])
def test_heads_that_were_never_trained_are_not_exported(exported, tmp_path, target_format):
    cut_heads(exported)
    import_run(exported, tmp_path / "run")
    out = tmp_path / "out"
    arguments = (f"--to={target_format}", f"--source={tmp_path / 'run'}", f"--target={out}")
    done = command("--from=orbax", *arguments)
    assert "not in the source, nor in the target: mlm, nsp" in done.stderr
    assert "Never trained, and not here: mlm, nsp." in (out / "README.md").read_text()
    found = load_pretrained(out)
    assert found.missing == ("mlm", "nsp")
    assert same(found.params, load_pretrained(exported).params)
    if target_format == "huggingface":
        assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModel"]
        assert "pipeline_tag: feature-extraction" in (out / "README.md").read_text()


def test_licence_and_card_of_the_source_go_along(exported, tmp_path):
    card = "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- bert\n---\n# Theirs\n"
    (exported / "README.md").write_text(card)
    convert(exported, tmp_path / "a", "huggingface", "google")
    convert(tmp_path / "a", tmp_path / "b", "google", "orbax")
    convert(tmp_path / "b", tmp_path / "c", "orbax", "huggingface")
    ours = (tmp_path / "c" / "README.md").read_text()
    assert "\nlicense: apache-2.0\n" in ours.split("---\n")[1]
    assert "figures are those of the source: see SOURCE_README.md" in ours
    assert (tmp_path / "c" / SOURCE_CARD).read_text() == card


@pytest.mark.parametrize("positions", [16, 40, 100])
def test_positions_are_cut_or_extended_when_asked(exported, tmp_path, positions):
    out = tmp_path / "out"
    arguments = ("--from=huggingface", "--to=google", f"--source={exported}", f"--target={out}")
    assert command(*arguments, f"--max_positions={positions}").returncode == 0
    config, params, *_ = load_pretrained(out)
    assert config.max_positions == positions
    table = random_params(tiny_config())["embeddings"]["position"]
    for row in range(positions):
        np.testing.assert_array_equal(params["embeddings"]["position"][row], table[row % 40])
    ids = np.arange(5, 17, dtype=np.int32)[None]
    inputs = (ids, np.ones_like(ids), np.zeros_like(ids))
    before = encode(tiny_config(), random_params(tiny_config()), *inputs).hidden
    np.testing.assert_array_equal(encode(config, params, *inputs).hidden, before)


def test_a_pytorch_file_is_read_like_a_safetensors_file(exported, tmp_path, monkeypatch):
    tensors = load_file(exported / "model.safetensors")
    (exported / "model.safetensors").unlink()
    (exported / "pytorch_model.bin").touch()
    monkeypatch.setattr(huggingface, "read_pytorch_file", lambda path: tensors)
    assert same(load_pretrained(exported).params, random_params(tiny_config()))


def test_a_pytorch_file_that_would_run_code_ends_the_command(exported, tmp_path):
    (exported / "model.safetensors").unlink()
    with zipfile.ZipFile(exported / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch " + bytes(tmp_path) + b"/x'\ntR.")
    done = command(
        "--from=huggingface", "--to=orbax", f"--source={exported}", f"--target={tmp_path / 'run'}"
    )
    assert done.returncode == 65
    assert "asks for os.system, which is no part of a tensor and could be code" in done.stderr
    assert not (tmp_path / "x").exists() and not (tmp_path / "run").exists()


def test_the_format_is_told_by_what_lies_there(exported, tmp_path):
    """Many directories hold Google's files and Hugging Face's side by side."""
    convert(exported, tmp_path / "google", "huggingface", "google")
    for path in (tmp_path / "google").iterdir():
        if path.name.startswith("bert_"):
            (exported / path.name).write_bytes(path.read_bytes())
    assert find_format(exported) == "huggingface"
    weights = exported / "model.safetensors"
    save_file({name: array + 1 for name, array in load_file(weights).items()}, weights)
    convert(exported, tmp_path / "a", "google", "orbax")
    assert same(load_pretrained(tmp_path / "a").params, random_params(tiny_config()))
    weights.unlink()
    assert find_format(exported) == "google"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from=orbax", "--to=huggingface"], 64, "--source and --target are needed"),
        (["--from=orbax", "--to=google", "--source=a", "--target=b", "c"], 64, "and nothing else"),
        (["--max_positions=0"], 64, "max_positions"),
        (["--from=onnx", "--to=orbax", "--source=a", "--target=b"], 64, "onnx"),
        (["--from=orbax", "--to=huggingface", "--source=no", "--target=no2"], 65, "no directory"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, code, message):
    done = command(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_nothing_is_overwritten_unless_asked(exported, tmp_path):
    target = tmp_path / "run"
    import_run(exported, target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="exists; name another --target, or add --overwrite"):
        import_run(exported, target)
    (exported / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError):
        import_run(exported, target, overwrite=True)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huggingface", "run", "vocab.txt"]


def test_overwriting_replaces_the_whole_model(exported, tmp_path):
    import_run(exported, tmp_path / "run")
    (tmp_path / "run" / "old").touch()
    import_run(exported, tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "old").exists()
    assert not (tmp_path / "run.old").exists()


def test_overwriting_never_deletes_what_is_no_model(exported, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds no model: --overwrite replaces only"):
        import_run(exported, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_target_that_cannot_be_written(exported, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        import_run(exported, tmp_path / "file" / "run")


def test_the_old_model_stays_where_the_new_one_cannot_be_put(exported, tmp_path, monkeypatch):
    target = tmp_path / "run"
    import_run(exported, target)
    rename = Path.rename

    def fail_once(path, other):
        if path.name == "run.tmp":
            raise OSError(28, "No space left on device")
        return rename(path, other)

    monkeypatch.setattr(files.Path, "rename", fail_once)
    with pytest.raises(OutputError, match="No space left"):
        import_run(exported, target, overwrite=True)
    assert load_pretrained(target)[0] == tiny_config()


def test_a_run_with_another_tokenizer_is_refused(exported, tmp_path):
    import_run(exported, tmp_path / "run")
    path = tmp_path / "run" / "tokenizer" / "tokenizer_settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lower_case": False}))
    with pytest.raises(DataError, match="is not the tokenizer that this run was trained with"):
        load_pretrained(tmp_path / "run")


@pytest.mark.parametrize("wrong", ["orbax", "google"])
def test_a_hugging_face_directory_is_nothing_else(exported, tmp_path, wrong):
    with pytest.raises(DataError, match="say so with --from=huggingface|bert_config.json is miss"):
        convert(exported, tmp_path / "out", wrong, "orbax")
    assert not (tmp_path / "out").exists()


def test_a_directory_without_a_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no model: expected a run directory or a"):
        convert(tmp_path / "empty", tmp_path / "out", "google", "orbax")


def test_a_vocabulary_of_another_size_is_refused(exported, tmp_path):
    (exported / "vocab.txt").write_text((exported / "vocab.txt").read_text() + "more\n")
    with pytest.raises(DataError, match="48 entries, the model only 47"):
        import_run(exported, tmp_path / "run")


def test_a_vocabulary_in_another_order_is_refused(exported, tmp_path):
    """vocab.txt and tokenizer.json disagree: one of them belongs to another model."""
    path = exported / "vocab.txt"
    path.write_text(path.read_text().replace("\nship\nsailed\n", "\nsailed\nship\n"))
    (exported / "tokenizer_settings.json").unlink()
    with pytest.raises(DataError, match="entry 6 is 'sailed' in vocab.txt and 'ship' in token"):
        import_run(exported, tmp_path / "run")


def test_the_card_tells_recipe_data_figures_and_licence(make_recipe, topics_store, tmp_path):
    recipe = make_recipe()
    store = open_store(topics_store)
    described = run_directory.description(recipe, open_mixture(str(topics_store)))
    run_directory.write_json(tmp_path / "config.json", described)
    figures = {"mlm_loss": 1.25, "unigram_entropy": 4.0, "mlm_accuracy": 0.5, "nsp_accuracy": 0.75}
    summary = {
        "parameters": 12345,
        "tokens_seen": 678901,
        "wall_seconds": 7200.0,
        "validation_by_length": {"32": figures},
    }
    run_directory.write_json(tmp_path / "summary.json", summary)
    found = Pretrained(tiny_config(), {}, store.tokenizer, ())
    card = model_card(tmp_path, Path("out"), found, "huggingface")
    for text in ("12,345", "678,901", "| hours | 2.00 |", "none needed", "topics"):
        assert text in card
    assert "| 32 | 1.250 | 4.000 | 50.0% | 75.0% |" in card
    assert "67% of the steps, batch 16" in card and "masked LM, next sentence" in card
    assert "| corpus topics | licence: none needed |" in card
    model_card(tmp_path, Path("out"), found, "google").index(
        "--init_checkpoint=out/bert_model.ckpt"
    )
    assert f"| {recipe.optimizer.learning_rate:g}, 3 steps of warm-up" in card
