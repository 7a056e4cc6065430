# SPDX-License-Identifier: Apache-2.0
r"""Command: fine-tune a pre-trained BERT on a labelled task, or resume where it was left.

    python -m bert_jax.finetune --config=configs/finetune.py:sst2 --init_from=runs/base \
        --workdir=runs/sst2 [--config.seeds=5]

`--init_from` is a run, a Hugging Face or a Google directory, or an earlier fine-tuning run. The
same command resumes. Files of predictions that are there already are replaced with --overwrite
only. Exit codes are those of pre-training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from bert_jax.finetune.config import FinetuneConfig
from bert_jax.finetune.seeds import finetune_seeds, table
from data_pipeline.errors import UsageError, run_command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe and its task, for example configs/finetune.py:sst2."
)
_INIT_FROM = flags.DEFINE_string("init_from", None, "Pre-trained model: a run or a directory.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; made if absent.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files of predictions.")


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and fine-tunes."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    if _CONFIG.value is None or not _INIT_FROM.value or not _WORKDIR.value:
        raise UsageError("--config=RECIPE, --init_from=MODEL and --workdir=DIRECTORY are needed")
    recipe = _load_recipe() | {"init_from": _INIT_FROM.value}
    config = FinetuneConfig.from_mapping(recipe)
    print(table(finetune_seeds(config, Path(_WORKDIR.value), _OVERWRITE.value)))


def _load_recipe() -> dict[str, Any]:
    try:
        return _CONFIG.value.to_dict()
    except OSError as error:  # config_flags keeps what went wrong until the value is asked for
        raise UsageError(f"the recipe that --config names cannot be loaded: {error}") from error


if __name__ == "__main__":
    run_command(main)
