# SPDX-License-Identifier: Apache-2.0
r"""Does pre-training help? The same fine-tuning from a pre-trained model and from random weights.

    python benchmarks/finetune_gain.py --model=RUN --labelled=DIRECTORY --workdir=DIRECTORY

DIRECTORY holds tables `<set>.tsv` with a column `label`; a set is named with its column of text, or
the two of a pair: `reviews:text` or `pairs:first:second`. Every set is cut once into training and
validation rows, by a hash of the first text, so that equal texts fall on the same side.
Each starting point is tried at every rate with a seed of its own; the best rate of each is then run
with the other seeds. Writes results.json and gain.svg into the work directory; finished runs are
not repeated.
"""

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).parents[1]
STARTS = ("pre-trained", "random")
TRIAL_SEED = 100

_MODEL = flags.DEFINE_string("model", None, "Pre-trained model.", required=True)
_LABELLED = flags.DEFINE_string("labelled", None, "Directory of tables.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of all runs.", required=True)
_SETS = flags.DEFINE_list(
    "sets", ["sentiment-movieReviewSnippets", "sentiment-nytEditorialSnippets"], "Tables."
)
_TRAIN = flags.DEFINE_integer("train", 4000, "Training rows at most.")
_VALIDATION = flags.DEFINE_integer("validation", 1000, "Validation rows at most.")
_RATES = flags.DEFINE_list("rates", ["1e-4", "3e-4", "1e-3"], "Learning rates to try.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each start.")
_LENGTH = flags.DEFINE_integer("length", 64, "Tokens of a sequence at most.")


def split_table(
    source: Path, target: Path, texts: Sequence[str], train: int, validation: int
) -> dict[str, Path]:
    """Cuts a table in two: a fifth of the texts, by hash, is for validation."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    hashes = [hashlib.sha256(row[texts[0]].encode()).hexdigest() for row in rows]
    parts: dict[str, list[str]] = {"validation": [], "train": []}
    for digest, number in sorted(zip(hashes, range(len(rows)), strict=True)):
        part = "validation" if int(digest[-4:], 16) % 5 == 0 else "train"
        parts[part].append("\t".join(rows[number][name] for name in (*texts, "label")) + "\n")
    target.mkdir(parents=True, exist_ok=True)
    paths = {}
    for part, limit in (("train", train), ("validation", validation)):
        paths[part] = target / f"{part}.tsv"
        header = "\t".join((*texts, "label")) + "\n"
        paths[part].write_text(header + "".join(parts[part][:limit]), "utf-8")
    return paths


def accuracies(
    start: str, rate: float, seed: int, seeds: int, table: dict[str, Path], texts: Sequence[str]
) -> list[float]:
    """Validation accuracy of each seed, of its best epoch."""
    workdir = table["train"].parent / f"{start}-{rate:g}-{seed}"
    if not (workdir / "summary.json").exists():
        settings = {
            "data.train": table["train"],
            "data.validation": table["validation"],
            "length": _LENGTH.value,
            "optimizer.learning_rate": rate,
            "random_weights": start == "random",
            "seed": seed,
            "seeds": seeds,
            "log_every": 1000,
        }
        settings |= dict(zip(("data.text_a", "data.text_b"), texts, strict=False))
        command = [sys.executable, "-m", "bert_jax.finetune", "--config=configs/finetune.py:files"]
        command += [f"--init_from={_MODEL.value}", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        subprocess.run(command, cwd=ROOT, check=True)
    summary = json.loads((workdir / "summary.json").read_text())
    runs = summary.get("runs", [summary])
    return [run["validation"][str(table["validation"])]["accuracy"] for run in runs]


def compare(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Rates tried and accuracies of both starting points on one set."""
    folder = Path(_WORKDIR.value).absolute() / name
    table = split_table(
        Path(_LABELLED.value) / f"{name}.tsv", folder, texts, _TRAIN.value, _VALIDATION.value
    )
    labels = [line.rsplit("\t", 1)[1] for line in table["validation"].open(encoding="utf-8")][1:]
    result: dict[str, Any] = {
        "rows": {
            part: sum(1 for _ in path.open(encoding="utf-8")) - 1 for part, path in table.items()
        },
        "commonest": max(labels.count(label) for label in set(labels)) / len(labels),
    }
    for start in STARTS:
        rates = [float(rate) for rate in _RATES.value]
        trials = {}
        if len(rates) > 1:
            trials = {
                rate: accuracies(start, rate, TRIAL_SEED, 1, table, texts)[0] for rate in rates
            }
        rate = max(rates, key=lambda rate: trials.get(rate, 0.0))
        each = accuracies(start, rate, 0, _SEEDS.value, table, texts)
        result[start] = {"trials": trials, "rate": rate, "accuracies": each}
    return result


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel a set, one point a seed, a bar for the median, a line for the commonest label."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "finetune_gain"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(3.4 * len(results), 3), squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        for place, start in enumerate(STARTS):
            values = sorted(result[start]["accuracies"])
            median = values[len(values) // 2]
            axis.bar(place, median, width=0.6, color=("#31688e", "#bbbbbb")[place])
            axis.plot([place] * len(values), values, "o", color="black", markersize=4)
            axis.text(place, median / 2, f"{median:.1%}", ha="center", color="white")
        axis.axhline(result["commonest"], color="black", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(STARTS)), STARTS)
        axis.set_title(name.removeprefix("sentiment-"), fontsize=10)
        axis.set_ylim(0, 1)
    axes[0][0].set_ylabel("validation accuracy")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str]) -> None:
    """Runs what is missing and writes table and picture."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    workdir = Path(_WORKDIR.value)
    sets = (chosen.split(":") for chosen in _SETS.value)
    results = {name: compare(name, texts) for name, *texts in sets}
    (workdir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, workdir / "gain.svg")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    app.run(main)
