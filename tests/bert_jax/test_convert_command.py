# SPDX-License-Identifier: Apache-2.0
"""The command `python -m bert_jax.convert`: both directions, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from bert_jax import run_directory
from bert_jax.convert import files
from bert_jax.convert.__main__ import export_run, import_run
from bert_jax.convert.huggingface import export_huggingface
from bert_jax.convert.load import load_pretrained
from bert_jax.convert.mapping import flatten
from bert_jax.convert.model_card import model_card
from data_pipeline.errors import DataError, OutputError
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


def test_there_and_back_through_a_run(exported, tmp_path):
    done = command(
        "--from=huggingface", "--to=orbax", f"--source={exported}", f"--target={tmp_path / 'run'}"
    )
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'run'}\n"), done.stderr
    done = command(
        "--from=orbax",
        "--to=huggingface",
        f"--source={tmp_path / 'run'}",
        f"--target={tmp_path / 'b'}",
    )
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'b'}\n"), done.stderr
    for path in exported.iterdir():
        if path.name != "README.md":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    card = (tmp_path / "b" / "README.md").read_text()
    assert "converted by bert_jax" in card and "from huggingface" in card
    assert 'model="b"' in card and "the [MASK]." in card


def test_an_imported_run_holds_the_weights_and_where_they_come_from(exported, tmp_path):
    assert import_run(exported, tmp_path / "run") == []
    config, params, tokenizer, _ = load_pretrained(tmp_path / "run")
    assert config == tiny_config()
    assert tokenizer.fingerprint == tiny_tokenizer(tmp_path).fingerprint
    expected = flatten(random_params(config))
    for path, array in flatten(params).items():
        assert array.tobytes() == expected[path].tobytes(), path
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["imported_from"] == "huggingface" and described["fresh_heads"] == []


def test_fresh_heads_are_named_everywhere(exported, tmp_path):
    path = exported / "model.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if not name.startswith("cls.")}, path)
    done = command(
        "--from=huggingface", "--to=orbax", f"--source={exported}", f"--target={tmp_path / 'run'}"
    )
    assert done.returncode == 0
    assert "not in the source, random values instead: mlm, nsp" in done.stderr
    export_run(tmp_path / "run", tmp_path / "out")
    assert "have random values: mlm, nsp" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from=orbax", "--to=huggingface"], 64, "--source and --target are needed"),
        (["--from=orbax", "--to=orbax", "--source=a", "--target=b"], 64, "are both orbax"),
        (["--from=onnx", "--to=orbax", "--source=a", "--target=b"], 64, "onnx"),
        (["--from=orbax", "--to=huggingface", "--source=no", "--target=no2"], 65, "holds no run"),
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


def test_a_hugging_face_directory_is_no_run(exported, tmp_path):
    with pytest.raises(DataError, match="say so with --from=huggingface"):
        export_run(exported, tmp_path / "out")


def test_a_vocabulary_of_another_size_is_refused(exported, tmp_path):
    (exported / "vocab.txt").write_text((exported / "vocab.txt").read_text() + "more\n")
    with pytest.raises(DataError, match="48 entries and the model 47"):
        import_run(exported, tmp_path / "run")


def test_the_card_tells_recipe_data_figures_and_licence(make_recipe, topics_store, tmp_path):
    recipe = make_recipe()
    store = open_store(topics_store)
    described = run_directory.description(recipe, store)
    run_directory.write_json(tmp_path / "config.json", described)
    figures = {"mlm_loss": 1.25, "unigram_entropy": 4.0, "mlm_accuracy": 0.5, "nsp_accuracy": 0.75}
    summary = {
        "parameters": 12345,
        "tokens_seen": 678901,
        "wall_seconds": 7200.0,
        "validation_by_length": {"32": figures},
    }
    run_directory.write_json(tmp_path / "summary.json", summary)
    card = model_card(tmp_path, tiny_config(), Path("out"), "[MASK]")
    for text in ("12,345", "678,901", "| hours | 2.00 |", "none needed", "topics"):
        assert text in card
    assert "| 32 | 1.250 | 4.000 | 50.0% | 75.0% |" in card
    assert "67% of the steps, batch 16" in card
    assert f"| {recipe.optimizer.learning_rate:g}, 3 steps of warm-up" in card
