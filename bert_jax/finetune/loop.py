# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning from the first step to the last, or from wherever the run was left; every task.

`finetune` trains one seed of what `bert_jax.finetune.setup` has prepared: restore or initialise,
train, evaluate, keep the best checkpoint, predict the test splits with it. The only position kept
is the number of updates: order of examples and dropout are functions of (seed, step).
"""

import contextlib
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax import agreement, distributed, partitioning, run_directory
from bert_jax.checkpoint import Checkpoints, load_params
from bert_jax.convert.finetuned import finetuned_shapes
from bert_jax.finetune import directory, predictions
from bert_jax.finetune.config import words
from bert_jax.finetune.setup import Setup
from bert_jax.finetune.step import init_finetune_state
from bert_jax.metrics import Window
from bert_jax.monitoring import Monitor
from bert_jax.optimizer import learning_rate_schedule
from bert_jax.preemption import StopRequest
from bert_jax.train_step import State
from data_pipeline.errors import Preempted
from data_pipeline.labelled.examples import Examples, at_places


@dataclasses.dataclass
class Progress:
    """What a checkpoint remembers beside the state."""

    step: int = 0
    wall_seconds: float = 0.0
    best_step: int = 0
    best_value: float = -math.inf


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of a recipe, in its directory."""

    setup: Setup
    seed: int
    workdir: Path
    description: dict[str, Any]
    checkpoints: Checkpoints
    monitor: Monitor


def finetune(setup: Setup, seed: int, workdir: Path, overwrite: bool = False) -> dict[str, Any]:
    """Runs or resumes one seed; the caller holds the lock of `workdir`.

    Returns:
        The content of summary.json.

    Raises:
        UserError: anything the user can put right; what was saved stays intact.
    """
    config = dataclasses.replace(setup.config, seed=seed, seeds=1)
    names = predictions.file_names(
        words(config.data.test), words(config.predictions.files), setup.task.suffix
    )
    description = directory.description(config, setup.model, setup.tokenizer, setup.task)
    agreement.from_primary(lambda: directory.begin(workdir, description, setup.tokenizer))
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best_metric="shortfall",
    )
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(distributed.leave_together(checkpoints.settle))
        state, progress = restore_or_init(setup, seed, checkpoints)
        if progress.step < setup.steps and not overwrite:
            files = [workdir / "predictions" / name for name in names.values()]
            agreement.from_primary(lambda: predictions.refuse_existing(files))
        monitor = Monitor(
            workdir,
            setup.steps,
            progress.step,
            columns=setup.task.columns,
            enabled=agreement.primary(),
        )
        stack.enter_context(contextlib.closing(monitor))
        run = Run(setup, seed, workdir, description, checkpoints, monitor)
        monitor.message(_opening(run, progress.step))
        train(run, state, progress, stop)
    return finish(run, progress, names, overwrite)


def restore_or_init(setup: Setup, seed: int, checkpoints: Checkpoints) -> tuple[State, Progress]:
    """The newest good checkpoint, or the pre-trained encoder under a fresh head."""
    restored = checkpoints.restore(setup.abstract)
    if restored is not None:
        _, state, meta = restored
        return state, Progress(**meta["progress"])
    init = functools.partial(init_finetune_state, setup.model, setup.task, setup.optimizer)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)
    return jax.jit(init, out_shardings=shardings)(setup.encoder, jax.random.key(seed)), Progress()


def train(run: Run, state: State, progress: Progress, stop: StopRequest) -> None:
    """Makes the steps that are left; `progress` is updated in place."""
    setup, config, monitor = run.setup, run.setup.config, run.monitor
    schedule = learning_rate_schedule(config.optimizer.over(setup.steps), setup.steps)
    marks = config.evaluated_after(len(setup.task.train))
    rows = partitioning.local_rows(setup.mesh, config.batch_size)
    key = jax.random.key(run.seed, impl="threefry2x32")
    window = Window(run.workdir / "nonfinite")
    started = time.monotonic() - progress.wall_seconds
    while progress.step < setup.steps:
        waited = time.monotonic()
        places = progress.step * config.batch_size + np.arange(config.batch_size)
        numbers = at_places(places, len(setup.task.train), run.seed)
        length = setup.task.train.padded_length(numbers)
        batch = setup.task.train.batch(numbers[rows], length)
        waited = time.monotonic() - waited
        state, terms = setup.train_step(state, partitioning.to_devices(setup.mesh, batch), key)
        progress.step += 1
        progress.wall_seconds = time.monotonic() - started
        window.add(progress.step, terms, batch)
        distributed.step_made()
        monitor.count(examples=config.batch_size, tokens=config.batch_size * length, wait=waited)
        stopping = stop.due(progress.step)
        evaluated = progress.step in marks
        if progress.step % config.log_every == 0 or progress.step == 1 or evaluated or stopping:
            window.read()
            rate = float(schedule(progress.step - 1))
            monitor.train(progress.step, window.averages() | {"learning_rate": rate})
        shortfall = None
        if evaluated:
            value = evaluate(run, state["params"], progress.step)[setup.task.selection]
            if value >= progress.best_value:
                progress.best_step, progress.best_value = progress.step, value
            shortfall = {"shortfall": -value}
        if evaluated or stopping or progress.step % config.checkpoint.every == 0:
            window.read()  # a step that is not finite must never be saved
            monitor.flush()
            meta = run.description | {"progress": dataclasses.asdict(progress)}
            run.checkpoints.save(progress.step, state, meta, metrics=shortfall)
            monitor.pause()
        run.checkpoints.poll()
        if stopping and progress.step < setup.steps:
            raise Preempted(
                f"asked to stop: step {progress.step} is saved; the same command resumes the run"
            )


def evaluate(run: Run, params: Any, step: int) -> dict[str, float]:
    """Figures of every validation split, shown and written; returns those of the first."""
    found = [(name, figures(run.setup, params, name)) for name in run.setup.task.validation]
    for number, (name, values) in enumerate(found):
        run.monitor.evaluation(step, values, "validation" if number == 0 else name)
    return found[0][1]


def figures(setup: Setup, params: Any, name: str) -> dict[str, float]:
    """Loss and the task's figures of one validation split."""
    examples = setup.task.validation[name]
    outputs, averages = predict(setup, params, examples)
    return averages | setup.task.score(name, outputs) | {"examples": len(examples)}


def predict(
    setup: Setup, params: Any, examples: Examples
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Logits of each example, and averages of the task's terms where there are labels.

    The last batch is filled up with rows of weight 0, whose logits are dropped.
    """
    size = setup.config.evaluation.batch_size
    rows = partitioning.local_rows(setup.mesh, size)
    outputs: list[np.ndarray] = []
    sums: dict[str, np.ndarray] = {}
    for first in range(0, len(examples), size):
        numbers = first + np.arange(size)
        weights = (numbers < len(examples)).astype(np.float32)
        numbers = np.minimum(numbers, len(examples) - 1)
        batch = examples.batch(numbers[rows], examples.padded_length(numbers))
        placed = partitioning.to_devices(setup.mesh, batch | {"weights": weights[rows]})
        row_weights = placed.pop("weights")
        logits, terms = jax.device_get(setup.predict_step(params, placed, row_weights))
        outputs += list(logits[: int(weights.sum())])
        for name, pair in terms.items():
            sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
    return outputs, {name: float(total / weight) for name, (total, weight) in sums.items()}


def finish(run: Run, progress: Progress, names: dict[str, str], overwrite: bool) -> dict[str, Any]:
    """Evaluates the best checkpoint, predicts the test splits with it, writes summary.json."""
    setup = run.setup
    best = run.workdir / "checkpoints" / str(progress.best_step)
    abstract = finetuned_shapes(setup.model, setup.task.outputs, setup.mesh)
    params, _ = load_params(best, abstract)
    contents = {}
    for split, name in names.items():
        outputs, _ = predict(setup, params, setup.task.test[split])
        for part, text in setup.task.predictions(split, outputs).items():
            contents[str(Path(name) / part)] = text
    summary = {
        "name": setup.config.name,
        "seed": run.seed,
        "steps": progress.step,
        "training_examples": len(setup.task.train),
        "best_step": progress.best_step,
        "selection": setup.task.selection,
        "validation": {name: figures(setup, params, name) for name in setup.task.validation},
        "wall_seconds": round(progress.wall_seconds, 1),
        "versions": run_directory.versions(),
    }

    def write() -> None:
        predictions.write_all(run.workdir / "predictions", contents, overwrite)
        run_directory.write_json(run.workdir / "summary.json", summary)

    agreement.from_primary(write)
    return summary


def _opening(run: Run, step: int) -> str:
    setup = run.setup
    devices = f"{setup.mesh.devices.size} x {setup.mesh.devices.flat[0].device_kind}"
    lines = [
        f"{setup.config.name}, seed {run.seed}: {len(setup.task.train):,} examples, "
        f"{setup.steps:,} steps of {setup.config.batch_size} on {devices}"
    ]
    if step == setup.steps:
        lines.append(f"all {step:,} steps are made: nothing left to train")
    elif step > 0:
        lines.append(f"resuming after step {step:,} of {setup.steps:,}")
    return "\n".join(lines)
