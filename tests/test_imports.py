# SPDX-License-Identifier: Apache-2.0
"""Either package works on a machine where the other one's dependencies are not installed."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import data_pipeline
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import load_tokenizer

ROOT = Path(__file__).parents[1]
BLOCK = "import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"

TRAIN = """
import pathlib
import configs.pretrain
from bert_jax.config import RunConfig
from bert_jax.train import train_and_evaluate

config = configs.pretrain.get_config("tiny")
config.steps = 3
config.data.store = {store!r}
config.model.update(num_layers=1, hidden_size=32, num_heads=2, mlp_size=64)
config.model.compute_dtype = "float32"
config.optimizer.warmup_steps = 1
config.phases.short.update(length=32, batch_size=4, share=0.67)
config.phases.long.update(length=64, batch_size=2, share=0.33)
config.evaluation.update(every=3, examples=8, batch_size=4)
summary = train_and_evaluate(RunConfig.from_mapping(config.to_dict()), pathlib.Path({workdir!r}))
assert summary["steps"] == 3, summary
"""


def run_without(modules: tuple[str, ...], program: str) -> None:
    program = BLOCK.format(modules=modules) + program
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def make_store(folder: Path) -> Path:
    """A store of twenty documents of random words."""
    words = [*SPECIAL_NAMES, *(f"word{number}" for number in range(95))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    random = np.random.default_rng(0)
    with StoreWriter(folder / "store", load_tokenizer(folder / "vocab.txt")) as writer:
        for number in range(20):
            sentences = random.integers(len(SPECIAL_NAMES), len(words), (8, 10)).tolist()
            writer.add_document("train" if number < 15 else "validation", sentences)
        writer.finish({"name": "random words"})
    return folder / "store"


def test_training_needs_neither_tensorflow_nor_a_tokenizer_library(tmp_path: Path) -> None:
    store, workdir = make_store(tmp_path), tmp_path / "run"
    others = ("tensorflow", "tensorflow_datasets", "tokenizers", "sentencepiece", "sentencex")
    program = TRAIN.format(store=str(store), workdir=str(workdir))
    run_without((*others, "torch", "transformers", "matplotlib", "zstandard", "pyarrow"), program)
    assert (workdir / "summary.json").exists()
    assert (workdir / "checkpoints" / "3").is_dir()


def test_no_data_module_needs_jax() -> None:
    modules = [module.name for module in pkgutil.iter_modules(data_pipeline.__path__)]
    assert "store" in modules
    program = "".join(f"import data_pipeline.{module}\n" for module in modules)
    run_without(("jax", "jaxlib", "flax", "optax", "orbax", "bert_jax"), program)
