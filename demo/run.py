# SPDX-License-Identifier: Apache-2.0
"""Command behind `make demo`: from bundled text to an exported BERT, by the real commands.

    python -m demo.run [--workdir=runs/demo] [--steps=N]

Prints every command before it runs it, so that the same can be done by hand with other text. What
is finished is not done again: started anew, the demo continues where it was stopped or killed.
Run it in the repository's root.
"""

import json
import math
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from absl import flags

from data_pipeline.errors import UsageError, UserError, run_command

CORPUS = "demo/corpus/*.txt"
VOCABULARY = 4096
MARGIN = 0.3  # nats below the unigram plateau that count as having learnt from context
SENTENCES = (
    "The king said unto the [MASK], Arise, and go into the land.",
    "She was very happy to see her [MASK] again.",
    "The captain of the ship looked out upon the [MASK].",
    "The economy depends on the export of oil and [MASK].",
    "The transaction is written to the database [MASK].",
)


class StageError(UserError):
    """A command of the demo failed; it has said why."""

    def __init__(self, stage: str, exit_code: int) -> None:
        super().__init__(f"the demo stopped at: {stage}; `make demo` continues from there")
        self.exit_code = exit_code


class DidNotLearn(UserError):
    """Everything ran, but the model is no better than word counts or chance."""

    exit_code = 1


class Stage(NamedTuple):
    """One command of the demo; it is done when `output` exists."""

    title: str
    output: Path
    command: Sequence[str]
    transcript: bool = False  # what the command prints is the output


def stages(workdir: Path, steps: int) -> list[Stage]:
    """The commands in order; each reads what the ones before it left in `workdir`."""
    tokenizer, store, run = f"{workdir}/tokenizer", f"{workdir}/store", str(workdir)
    export = workdir / "export" / "huggingface"
    pretrain = ["bert_jax.pretrain", "--config=configs/demo.py", f"--workdir={run}"]
    pretrain += [f"--config.data.store={store}"]
    pretrain += [f"--config.steps={steps}", "--config.optimizer.warmup_steps=1"] if steps else []
    return [
        Stage(
            "Train a vocabulary",
            workdir / "tokenizer" / "tokenizer_settings.json",
            ["data_pipeline.vocab", f"--input={CORPUS}", "--kind=wordpiece"]
            + [f"--size={VOCABULARY}", f"--output={tokenizer}"],
        ),
        Stage(
            "Turn the text into a store of token ids",
            workdir / "store" / "store.json",
            ["data_pipeline.prepare", f"--input={CORPUS}", "--format=lines"]
            + [f"--tokenizer={tokenizer}", f"--output={store}", "--validation_fraction=0.06"]
            + ["--licence=public domain", "--provenance=demo/corpus/README.md"],
        ),
        Stage(
            "Look at the data before training on it",
            workdir / "doctor.txt",
            ["data_pipeline.doctor", f"--store={store}"],
            transcript=True,
        ),
        Stage("Pre-train", workdir / "summary.json", pretrain),
        Stage(
            "Score on held-out documents",
            workdir / "score.json",
            ["bert_jax.score", f"--checkpoint={run}", f"--store={store}"]
            + [f"--json={workdir}/score.json"],
        ),
        Stage(
            "Fill in blanks",
            workdir / "fill_mask.json",
            ["bert_jax.fill_mask", f"--checkpoint={run}", f"--json={workdir}/fill_mask.json"]
            + list(SENTENCES),
        ),
        Stage(
            "Export to Hugging Face",
            export / "config.json",
            ["bert_jax.convert", "--from=orbax", "--to=huggingface"]
            + [f"--source={run}", f"--target={export}"],
        ),
        Stage("Draw the report", workdir / "report.html", ["bert_jax.report", f"--workdir={run}"]),
    ]


def wait(process: subprocess.Popen[str]) -> int:
    """Exit status of `process`; Ctrl-C and SIGTERM are left to it, so that it can save first."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal has sent it to the command as well
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_stage(stage: Stage) -> None:
    """Runs one command under the eyes of the user.

    Raises:
        StageError: the command failed.
    """
    partial = stage.output.with_name(stage.output.name + ".partial")
    command = [sys.executable, "-m", *stage.command]
    if stage.transcript:
        with partial.open("w") as file:
            status = wait(subprocess.Popen(command, stdout=file, text=True))
        print(partial.read_text(), end="", flush=True)
    else:
        status = wait(subprocess.Popen(command, text=True))
    if status != 0:
        raise StageError(stage.title, status if status > 0 else 128 - status)
    if stage.transcript:
        partial.replace(stage.output)


def closing_table(workdir: Path) -> str:
    """What was reached, and where it lies."""
    summary = json.loads((workdir / "summary.json").read_text())
    figures = summary["validation"]
    lengths = " then ".join(
        f"{phase['last_step'] - phase['first_step']} of {phase['length']} tokens"
        for phase in summary["phases"]
    )
    rows = [
        ("model", f"{summary['parameters']:,} parameters"),
        ("steps", f"{summary['steps']:,}: {lengths}"),
        ("tokens seen", f"{summary['tokens_seen']:,}"),
        ("training", f"{summary['wall_seconds'] / 60:.1f} minutes"),
        ("speed", f"{summary['tokens_per_second']:,.0f} tokens/s"),
        ("held-out MLM loss", f"{figures['mlm_loss']:.3f} nats"),
        ("without context (unigram)", f"{figures['unigram_entropy']:.3f} nats"),
        ("learnt from context", f"{margin(figures):.3f} nats"),
        ("held-out MLM accuracy", f"{figures['mlm_accuracy']:.1%}"),
        (
            "held-out NSP accuracy",
            f"{figures['nsp_accuracy']:.1%} ± {figures['nsp_standard_error']:.1%}"
            f" (chance {chance(figures):.1%})",
        ),
        ("report with curves", f"{workdir}/report.html"),
        ("model for transformers", f"{workdir}/export/huggingface"),
        ("TensorBoard", f"tensorboard --logdir {workdir}/tensorboard"),
    ]
    return "\n".join(f"{name:<28}{value}" for name, value in rows)


def margin(figures: dict[str, Any]) -> float:
    """Nats by which the model beats the unigram frequencies of the same masked tokens."""
    return figures["unigram_entropy"] - figures["mlm_loss"]


def chance(figures: dict[str, Any]) -> float:
    """NSP accuracy of the better constant guess."""
    return max(figures["random_share"], 1 - figures["random_share"])


def check_learnt(figures: dict[str, Any]) -> None:
    """Refuses to call it a success when nothing was learnt.

    Raises:
        DidNotLearn: naming the figure that fell short.
    """
    if not margin(figures) >= MARGIN:
        raise DidNotLearn(
            f"the held-out MLM loss is only {margin(figures):.3f} nats below the unigram plateau, "
            f"{MARGIN} were to be reached"
        )
    error = math.sqrt(0.25 / figures["examples"])
    if not figures["nsp_accuracy"] > chance(figures) + error:
        raise DidNotLearn(
            f"the held-out NSP accuracy of {figures['nsp_accuracy']:.1%} is not above chance"
        )


def main(arguments: Sequence[str]) -> None:
    """Runs what is left to do and prints the closing table."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}: flags look like --name=value")
    workdir = Path(flags.FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    plan = stages(workdir, flags.FLAGS.steps)
    started = time.monotonic()
    for number, stage in enumerate(plan, 1):
        if stage.output.exists():
            print(f"[{number}/{len(plan)}] {stage.title}: done before", flush=True)
            continue
        shown = shlex.join(["python", "-m", *stage.command])
        print(f"\n[{number}/{len(plan)}] {stage.title}\n$ {shown}", flush=True)
        run_stage(stage)
    print(
        f"\n{closing_table(workdir)}\n\nThis took {(time.monotonic() - started) / 60:.1f} minutes."
    )
    print(f"Nothing is left to do; `rm -r {workdir}` and `make demo` would start afresh.")
    check_learnt(json.loads((workdir / "summary.json").read_text())["validation"])


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/demo", "Directory for everything the demo makes.")
    flags.DEFINE_integer("steps", 0, "Training steps; 0: the recipe's.", lower_bound=0)
    run_command(main)
