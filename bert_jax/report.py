# SPDX-License-Identifier: Apache-2.0
"""Command: one page about a run, with pictures; finished or not.

    python -m bert_jax.report --workdir=RUN

Writes RUN/report.html from config.json, metrics.jsonl and, where they exist, summary.json and
fill_mask.json. The run may be one of fine-tuning, of one seed or of several. The page stands alone:
no scripts, and nothing that it loads from elsewhere.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from bert_jax import curves, report_page
from bert_jax.config import RunConfig
from bert_jax.curves import History
from bert_jax.finetune.report import find_runs, finetuning_page
from bert_jax.run_directory import read_config, read_rows
from data_pipeline.errors import DataError, OutputError, UsageError, run_command

# Nats around the unigram entropy within which a model is no better than word counts. The held-out
# loss of a thousand examples has a standard error of about 0.03.
_PLATEAU = 0.1


def standing(mlm_loss: float, unigram_entropy: float, vocab_size: int) -> str:
    """Where a held-out MLM loss stands between a blind guess and a model that reads context.

    Args:
        mlm_loss: nats.
        unigram_entropy: nats, of the same masked tokens.
        vocab_size: entries of the vocabulary.

    Returns:
        One or two sentences; with the likely causes where the run may be stuck.
    """
    uniform = math.log(vocab_size)
    gain = unigram_entropy - mlm_loss
    scale = (
        f"On the held-out text a blind guess costs {uniform:.2f} nats a masked token "
        f"(ln {vocab_size:,}), word counts without context cost {unigram_entropy:.2f} (the unigram "
        f"entropy of the same tokens), and this model {mlm_loss:.2f}: "
    )
    if gain > _PLATEAU:
        return scale + (
            f"{gain:.2f} below the plateau, so it predicts from context. Its perplexity is "
            f"{math.exp(mlm_loss):.3g}, that of word counts {math.exp(unigram_entropy):.3g}."
        )
    if gain > -_PLATEAU:
        return scale + (
            "it is on the plateau where every run passes some time, predicting frequent tokens "
            "without reading the context. A run that stays here often has repeated lines in its "
            "text (data_pipeline.doctor counts them), too few steps, too small a batch, or a "
            "learning rate that is too low or too high."
        )
    if mlm_loss < uniform:
        return scale + (
            "it has learnt a part of the token frequencies and has not come down to the plateau "
            "yet. Early in a run this is normal; later the learning rate is too low or its warm-up "
            "too long."
        )
    return scale + (
        "it has learnt nothing yet. Early in a run this is normal; later the learning rate is too "
        "high, or the store and its vocabulary do not belong together."
    )


def write_report(workdir: Path | str) -> Path:
    """Writes report.html of the run in `workdir` and returns its path.

    Raises:
        DataError: there is no run, or its files are damaged.
        OutputError: the page cannot be written.
        UsageError: matplotlib is not installed.
    """
    workdir = Path(workdir)
    runs = find_runs(workdir)
    page = finetuning_page(runs) if runs else _pretraining_page(workdir)
    path = workdir / "report.html"
    temporary = workdir / "report.html.tmp"
    try:
        temporary.write_text(page, "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return path


def _pretraining_page(workdir: Path) -> str:
    described = read_config(workdir)
    if "phases" not in described["config"]:
        raise DataError(
            f"{workdir} was made of imported weights ({described.get('imported_from')}): nothing "
            "was trained in it, so there is nothing to report"
        )
    config = RunConfig.from_mapping(described["config"])
    history = _history(workdir, config)
    figures = history.held_out[-1] if history.held_out else None
    if figures is None:
        sentence = "There are no held-out figures yet."
    else:
        sentence = standing(
            figures["mlm_loss"], figures["unigram_entropy"], config.model.vocab_size
        )
    return report_page.render(
        config=config,
        described=described,
        history=history,
        standing=sentence,
        pictures=curves.draw(history) if history.training else [],
        summary=_read_json(workdir / "summary.json"),
        samples=_read_json(workdir / "fill_mask.json") or [],
    )


def _history(workdir: Path, config: RunConfig) -> History:
    """What the run has measured, with the chance that its pairs leave."""
    rows = read_rows(workdir)
    for row in rows["validation"]:
        if "random_share" in row:  # not where rows hold no pairs
            row["nsp_chance"] = max(row["random_share"], 1 - row["random_share"])
    return History(rows["train"], rows["validation"], config.spans(), config.model.vocab_size)


def _read_json(path: Path) -> Any:
    """Content of a JSON file, None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove it or write it again") from error


def main(arguments: Sequence[str]) -> None:
    """Checks the command line and writes the page."""
    workdir = flags.FLAGS.workdir
    if len(arguments) > 1 or not workdir:
        raise UsageError("--workdir=RUN is needed, and nothing else")
    print(write_report(workdir))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the run.")
    run_command(main)
