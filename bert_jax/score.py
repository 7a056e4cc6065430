# SPDX-License-Identifier: Apache-2.0
"""Command: held-out figures of any BERT on any store.

    python -m bert_jax.score --checkpoint=runs/demo --store=runs/demo/store [--examples=2048]
    python -m bert_jax.score --checkpoint=bert-base-uncased --store=store --length=128 --length=512

The checkpoint is a run, a Hugging Face or a Google directory. Prints MLM loss (nats), perplexity
and accuracy, NSP accuracy with its standard error, and beside them what a model without context
could reach on the very same masks: the unigram entropy. Examples are made as the run made its own;
without a run, as the original makes them. What a model has no head for is left out.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from bert_jax import partitioning
from bert_jax.config import MeshConfig, RunConfig
from bert_jax.convert.files import check_new_file
from bert_jax.convert.huggingface import add_fresh_heads
from bert_jax.convert.load import Pretrained, find_format, load_pretrained
from bert_jax.evaluate import HeldOut
from bert_jax.run_directory import read_config, write_json
from bert_jax.train import example_options
from bert_jax.train_step import make_eval_step
from data_pipeline.errors import DataError, UsageError, run_command
from data_pipeline.mixture import Mixture, open_mixture
from data_pipeline.source import ExampleOptions

LENGTH = 128  # where neither the user nor a recipe names one
_NSP_FIGURES = ("loss", "nsp_loss", "nsp_accuracy", "nsp_standard_error", "random_share")


def score(
    checkpoint: Path,
    store_path: str,
    *,
    lengths: Sequence[int] = (),
    examples: int,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Figures of a model by sequence length.

    Args:
        checkpoint: run (its newest good checkpoint), Hugging Face or Google directory.
        store_path: store, or several with weights, whose validation splits are scored.
        lengths: tokens a sequence; by default those of the run's recipe, or 128.
        examples: held-out examples a length.
        batch_size: rows a step, rounded up to a multiple of the devices.

    Raises:
        DataError: model and store have different vocabularies, or hold nothing usable; the model
            has no masked-LM head, or too few positions.
    """
    found = load_pretrained(checkpoint, heads=("mlm",))
    store = open_mixture(store_path)
    _check_vocabulary(found, store, checkpoint)
    recipe_lengths, options = _recipe(checkpoint)
    lengths = lengths or recipe_lengths
    config = found.config
    if max(lengths) > config.max_positions:
        raise DataError(
            f"{checkpoint} takes {config.max_positions} tokens at most: --length={max(lengths)} is "
            "too long for it"
        )
    mesh = partitioning.make_mesh(MeshConfig())
    params, _ = add_fresh_heads(config, found.params)  # for the shape of the tree, not for figures
    params = jax.device_put(params, partitioning.state_shardings(mesh, params))
    step = jax.jit(make_eval_step(config))
    batch_size = -(-batch_size // mesh.devices.size) * mesh.devices.size
    trained_nsp = not {"pooler", "nsp"} & set(found.missing)
    figures = {}
    for length in lengths:
        held_out = HeldOut(
            store, length=length, examples=examples, batch_size=batch_size, options=options
        )
        values = held_out.evaluate(params, step, mesh)
        if not trained_nsp:
            values = {name: value for name, value in values.items() if name not in _NSP_FIGURES}
        figures[str(length)] = values
    return figures


def _recipe(checkpoint: Path) -> tuple[list[int], ExampleOptions]:
    """Lengths and examples as the run in `checkpoint` had them, where it holds one."""
    if find_format(checkpoint) == "orbax":
        described = read_config(checkpoint)["config"]
        if "phases" in described:  # not so in a run made of imported weights
            config = RunConfig.from_mapping(described)
            return [span.length for span in config.spans()], example_options(config)
    return [LENGTH], ExampleOptions()


def _check_vocabulary(found: Pretrained, store: Mixture, checkpoint: Path) -> None:
    """Refuses a store whose ids mean other tokens to the model.

    Raises:
        DataError: saying how they differ, and how to make a store that fits.
    """
    model, text = found.tokenizer, store.tokenizer
    if model.fingerprint == text.fingerprint:
        return
    if model.vocab_size != text.vocab_size:
        how = f"{model.vocab_size} entries in the model's, {text.vocab_size} in the store's"
    elif model.tokens != text.tokens:
        pairs = enumerate(zip(model.tokens, text.tokens, strict=True))
        number, (ours, theirs) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        how = f"entry {number} is {ours!r} in the model's, {theirs!r} in the store's"
    else:
        how = (
            f"{model.kind} {model.settings} in the model, {text.kind} {text.settings} in the store"
        )
    places = (checkpoint / "tokenizer", checkpoint / "tokenizer_settings.json")
    directory = places[0] if places[0].exists() else checkpoint
    tokenizer = directory if any(map(Path.exists, places)) else directory / "vocab.txt"
    raise DataError(
        f"{checkpoint} and {store.path} were made with different vocabularies ({how}): prepare the "
        f"text again with --tokenizer={tokenizer}"
    )


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as lines of text, one column a sequence length."""
    rows = [
        ("held-out examples", lambda f: f"{f['examples']}"),
        ("MLM loss (nats)", lambda f: f"{f['mlm_loss']:.3f}"),
        ("unigram entropy (nats)", lambda f: f"{f['unigram_entropy']:.3f}"),
        ("below the unigram plateau", lambda f: f"{f['unigram_entropy'] - f['mlm_loss']:+.3f}"),
        ("MLM perplexity", lambda f: f"{math.exp(f['mlm_loss']):.1f}"),
        ("MLM accuracy", lambda f: f"{f['mlm_accuracy']:.1%}"),
    ]
    if all("nsp_accuracy" in found for found in figures.values()):
        rows += [
            ("NSP accuracy", lambda f: f"{f['nsp_accuracy']:.1%} ± {f['nsp_standard_error']:.1%}"),
            ("NSP, always guessing random", lambda f: f"{f['random_share']:.1%}"),
        ]
    lines = ["tokens a sequence".ljust(30) + "".join(length.rjust(16) for length in figures)]
    for label, show in rows:
        lines.append(label.ljust(30) + "".join(show(f).rjust(16) for f in figures.values()))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and prints the table."""
    values = flags.FLAGS
    if len(arguments) > 1 or not values.checkpoint or not values.store:
        raise UsageError("--checkpoint=DIRECTORY and --store=STORE are needed, and nothing else")
    check_new_file(values.json, values.overwrite)
    figures = score(
        Path(values.checkpoint),
        values.store,
        lengths=values.length or (),
        examples=values.examples,
        batch_size=values.batch_size,
    )
    print(table(figures))
    if values.json:
        write_json(Path(values.json), figures)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Run, Hugging Face or Google directory.")
    flags.DEFINE_string("store", None, "Store whose validation split is scored.")
    flags.DEFINE_multi_integer(
        "length", None, "Tokens a sequence; may be given several times.", lower_bound=8
    )
    flags.DEFINE_integer("examples", 2048, "Held-out examples a length.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Rows a step.", lower_bound=1)
    flags.DEFINE_string("json", None, "Also write the figures to this file.")
    flags.DEFINE_bool("overwrite", False, "Replace the file of --json.")
    run_command(main)
