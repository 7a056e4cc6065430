# SPDX-License-Identifier: Apache-2.0
"""Command: weights from one format into another.

    python -m bert_jax.convert --from=orbax --to=huggingface --source=runs/demo --target=export
    python -m bert_jax.convert --from=huggingface --to=orbax --source=DIR --target=runs/imported

`orbax` is a run directory. An imported one holds the weights as step 0: start from it with
`--config.init_from=runs/imported`, or ask it with `python -m bert_jax.fill_mask`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from bert_jax.convert.files import new_directory
from bert_jax.convert.huggingface import add_fresh_heads, export_huggingface, load_huggingface
from bert_jax.convert.huggingface_tokenizer import read_tokenizer
from bert_jax.convert.mapping import HEADS
from bert_jax.convert.model_card import model_card
from bert_jax.convert.runs import load_run, save_run
from data_pipeline.errors import DataError, UsageError, run_command

FORMATS = ("orbax", "huggingface")

_FROM = flags.DEFINE_enum("from", None, FORMATS, "Format of the source.")
_TO = flags.DEFINE_enum("to", None, FORMATS, "Format of the target.")
_SOURCE = flags.DEFINE_string("source", None, "Directory to read.")
_TARGET = flags.DEFINE_string("target", None, "Directory to write; must not exist.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the model in --target.")


def export_run(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Exports the newest good checkpoint of a run as a Hugging Face directory.

    Raises:
        OutputError: `target` exists.
        DataError: the run holds nothing that can be trusted.
    """
    with new_directory(target, overwrite) as scratch:
        config, params, tokenizer = load_run(source)
        params, _ = add_fresh_heads(config, params)
        mask = tokenizer.tokens[tokenizer.special.mask]
        card = model_card(source, config, target, mask)
        export_huggingface(config, params, tokenizer, card, scratch)


def import_run(source: Path, target: Path, *, overwrite: bool = False) -> list[str]:
    """Makes a run directory of a Hugging Face directory.

    Returns:
        The heads that the source lacks, and that therefore have random values.

    Raises:
        OutputError: `target` exists.
        DataError: the source cannot be converted without loss.
    """
    with new_directory(target, overwrite) as scratch:
        config, params = load_huggingface(source, optional=HEADS)
        params, fresh = add_fresh_heads(config, params)
        tokenizer = read_tokenizer(source)
        if tokenizer.vocab_size != config.vocab_size:
            raise DataError(
                f"{source}: the tokenizer has {tokenizer.vocab_size} entries and the model "
                f"{config.vocab_size}: they do not belong together"
            )
        save_run(config, params, tokenizer, scratch, source=source.name, fresh_heads=fresh)
    return fresh


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and converts."""
    if len(arguments) > 1 or not (_FROM.value and _TO.value and _SOURCE.value and _TARGET.value):
        raise UsageError("--from, --to, --source and --target are needed, and nothing else")
    if _FROM.value == _TO.value:
        raise UsageError(f"--from and --to are both {_TO.value}: there is nothing to convert")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
    source, target = Path(_SOURCE.value), Path(_TARGET.value)
    if _TO.value == "huggingface":
        export_run(source, target, overwrite=_OVERWRITE.value)
    else:
        fresh = import_run(source, target, overwrite=_OVERWRITE.value)
        if fresh:
            print(f"not in the source, random values instead: {', '.join(fresh)}", file=sys.stderr)
    print(f"wrote {target}")


if __name__ == "__main__":
    run_command(main)
