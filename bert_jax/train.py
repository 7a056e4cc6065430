# SPDX-License-Identifier: Apache-2.0
"""Pre-training from the first step to the last, or from wherever the run was left.

`train_and_evaluate(config, workdir)` reads top to bottom: open the store, restore the state or make
it, run the phases (128 tokens, then 512) under one schedule, evaluate and save on the way. The only
position kept is the number of updates made: examples, masks and dropout are functions of it.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from bert_jax import (
    agreement,
    distributed,
    partitioning,
    preflight,
    run_directory,
    run_lock,
    summary,
)
from bert_jax.checkpoint import Checkpoints, load_params
from bert_jax.config import RunConfig
from bert_jax.evaluate import HeldOut
from bert_jax.metrics import Window
from bert_jax.monitoring import PRETRAINING, WITHOUT_PAIRS, Monitor
from bert_jax.optimizer import learning_rate_schedule, make_optimizer
from bert_jax.preemption import StopRequest
from bert_jax.profiling import ProfilerWindow
from bert_jax.train_step import State, init_state, jit_train_step, make_eval_step
from data_pipeline.batch import Batch, BatchSpec, validate
from data_pipeline.errors import ConfigError, Preempted
from data_pipeline.mixture import Mixture, open_mixture
from data_pipeline.source import ExampleOptions, batches


@dataclasses.dataclass
class Progress:
    """What a checkpoint remembers beside the state: updates made, and what they took."""

    step: int = 0
    tokens_seen: int = 0  # without padding
    wall_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step of a run to the last."""

    config: RunConfig
    workdir: Path
    store: Mixture
    mesh: Mesh
    optimizer: optax.GradientTransformation
    description: dict[str, Any]
    checkpoints: Checkpoints
    held_out: dict[int, HeldOut]
    eval_step: Callable[..., Any]


def train_and_evaluate(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Runs or resumes `config` in `workdir`.

    Returns:
        The content of summary.json.

    Raises:
        UserError: anything the user can put right; what was saved stays intact.
    """
    with contextlib.ExitStack() as stack:
        agreement.from_primary(lambda: stack.enter_context(run_lock.exclusive(workdir)))
        run = prepare(config, workdir)
        stop = stack.enter_context(StopRequest())  # a signal does not cut off the last save either
        stack.enter_context(contextlib.closing(run.checkpoints))
        stack.enter_context(distributed.leave_together(run.checkpoints.settle))
        state, progress = restore_or_init(run)
        monitor = Monitor(
            workdir,
            run.config.steps,
            progress.step,
            tokens_left=run.config.token_slots(progress.step),
            columns=PRETRAINING if config.data.pairs != "none" else WITHOUT_PAIRS,
            enabled=agreement.primary(),
        )
        stack.enter_context(contextlib.closing(monitor))
        parameters = summary.count_parameters(run.config.model, state["params"])
        monitor.message(summary.opening(run.config, run.mesh, parameters, progress.step))
        state = train(run, state, progress, monitor, stop)
        return finish(run, state, progress, monitor)


def prepare(config: RunConfig, workdir: Path) -> Run:
    """Opens the store and settles everything that can be refused before compiling."""
    store = open_mixture(config.data.store)
    config = with_vocabulary(config, store)
    mesh = partitioning.make_mesh(config.mesh)
    partitioning.check_divisible(config, mesh)
    description = run_directory.description(config, store)
    if config.optimizer.per_replica:
        description["replicas"] = mesh.size
    preflight.check(description, workdir)
    agreement.from_primary(lambda: run_directory.begin(workdir, description, store))
    return Run(
        config=config,
        workdir=workdir,
        store=store,
        mesh=mesh,
        optimizer=make_optimizer(config.optimizer, config.steps),
        description=description,
        checkpoints=Checkpoints(
            workdir / "checkpoints",
            keep_last=config.checkpoint.keep_last,
            keep_best_metric="mlm_loss",
        ),
        held_out={
            span.length: HeldOut(
                store,
                length=span.length,
                examples=config.evaluation.examples,
                batch_size=config.evaluation.batch_size,
                options=example_options(config),
            )
            for span in config.spans()
        },
        eval_step=jax.jit(make_eval_step(config.model)),
    )


def with_vocabulary(config: RunConfig, store: Mixture) -> RunConfig:
    """`config` with the store's vocabulary size filled in.

    Raises:
        ConfigError: the configuration names another size.
    """
    size = config.model.vocab_size
    if size not in (0, store.vocab_size):
        raise ConfigError(
            f"model.vocab_size is {size}, but the vocabulary of the store {store.path} has "
            f"{store.vocab_size} entries; set it to 0 to take the store's"
        )
    model = dataclasses.replace(config.model, vocab_size=store.vocab_size)
    return dataclasses.replace(config, model=model)


def example_options(config: RunConfig) -> ExampleOptions:
    """How the run's examples are made."""
    return ExampleOptions(
        pairs=config.data.pairs,
        short_sequence_probability=config.data.short_sequence_probability,
        whole_word=config.data.whole_word,
        dupe_factor=config.data.dupe_factor,
    )


def restore_or_init(run: Run) -> tuple[State, Progress]:
    """The newest good checkpoint, or a fresh state sharded from its first byte on."""
    init = functools.partial(init_state, run.config.model, run.optimizer, run.config.seed)
    abstract = partitioning.with_shardings(
        run.mesh, jax.eval_shape(init), shard_optimizer=run.config.mesh.shard_optimizer
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    restored = run.checkpoints.restore(abstract)
    if restored is not None:
        _, state, meta = restored
        return state, Progress(**meta["progress"])
    if run.config.init_from:
        params, _ = load_params(run.config.init_from, abstract["params"])
        return jax.jit(init, out_shardings=shardings)(params), Progress()
    return jax.jit(init, out_shardings=shardings)(), Progress()


def train(run: Run, state: State, progress: Progress, monitor: Monitor, stop: StopRequest) -> State:
    """Makes the steps that are left; `progress` is updated in place.

    Step n is dispatched before the metrics of step n-1 are read (`Window`), so that the device
    does not wait for the host.
    """
    config = run.config
    train_step = jit_train_step(config, run.mesh, run.optimizer, state)
    schedule = learning_rate_schedule(config.optimizer, config.steps)
    boundaries = {span.last_step for span in config.spans()}
    window = Window(run.workdir / "nonfinite")
    profiler = ProfilerWindow(config.profile, run.workdir / "tensorboard")
    feed = training_batches(run, progress.step)
    seen_before = progress.tokens_seen
    started = time.monotonic() - progress.wall_seconds
    while progress.step < config.steps:
        waited = time.monotonic()
        batch = next(feed)
        waited = time.monotonic() - waited
        arrays = partitioning.to_devices(run.mesh, batch)
        state, terms = train_step(state, arrays)
        progress.step += 1
        progress.wall_seconds = time.monotonic() - started
        window.add(progress.step, terms, batch)
        distributed.step_made()
        profiler.after_step(progress.step, terms)
        examples, length = arrays["input_ids"].shape  # of all hosts
        monitor.count(examples=examples, tokens=examples * length, wait=waited)
        stopping = stop.due(progress.step)
        last = progress.step in boundaries or stopping
        if progress.step % config.log_every == 0 or progress.step == 1 or last:
            window.read()
            rate = float(schedule(progress.step - 1))
            monitor.train(progress.step, window.averages() | {"learning_rate": rate})
        held_out = None
        if progress.step % config.evaluation.every == 0 or progress.step in boundaries:
            held_out = evaluate(run, state, progress.step)
            monitor.evaluation(progress.step, held_out)
        if progress.step % config.checkpoint.every == 0 or last:
            window.read()  # a step that is not finite must never be saved
            progress.tokens_seen = seen_before + window.tokens
            monitor.flush()
            save(run, state, progress, held_out)
            monitor.pause()
        run.checkpoints.poll()
        if stopping and progress.step < config.steps:
            raise Preempted(
                f"asked to stop: step {progress.step} is saved; the same command resumes the run"
            )
    profiler.close()
    return state


def training_batches(run: Run, start: int) -> Iterator[Batch]:
    """This process's rows of the batches of steps `start`, `start` + 1, ... to the run's end.

    Each phase has its own endless stream of examples, so its batches depend on nothing before it.
    The first batch of a phase is checked against the model.
    """
    config = run.config
    for span in config.spans():
        first = max(start, span.first_step)
        if first >= span.last_step:
            continue
        rows = partitioning.local_rows(run.mesh, span.batch_size)
        stream = run.store.stream(
            "train", length=span.length, seed=config.seed, options=example_options(config)
        )
        feed = batches(
            stream,
            batch_size=span.batch_size,
            rows=rows,
            first_step=first - span.first_step,
            last_step=span.last_step - span.first_step,
            reader=config.data.reader,
        )
        for number, batch in enumerate(feed):
            if number == 0:
                validate(batch, BatchSpec(len(rows), span.length), run.store.vocab_size)
            yield batch


def evaluate(run: Run, state: State, step: int) -> dict[str, float]:
    """Held-out figures at the length that the run is training, or has just trained, at `step`."""
    span = next(span for span in run.config.spans() if step <= span.last_step)
    return run.held_out[span.length].evaluate(state["params"], run.eval_step, run.mesh)


def save(run: Run, state: State, progress: Progress, held_out: dict[str, float] | None) -> None:
    """Starts saving the state; Orbax writes in the background."""
    meta = run.description | {"progress": dataclasses.asdict(progress)}
    run.checkpoints.save(progress.step, state, meta, metrics=held_out)


def finish(run: Run, state: State, progress: Progress, monitor: Monitor) -> dict[str, Any]:
    """Evaluates at every length that was trained and writes summary.json."""
    validation = {
        length: held_out.evaluate(state["params"], run.eval_step, run.mesh)
        for length, held_out in run.held_out.items()
    }
    content = summary.figures(
        run.config,
        parameters=summary.count_parameters(run.config.model, state["params"]),
        progress=dataclasses.asdict(progress),
        input_wait_share=monitor.input_wait_share,
        validation=validation,
    )
    path = run.workdir / "summary.json"
    agreement.from_primary(lambda: run_directory.write_json(path, content))
    return content
