# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive kills and notice damage: Orbax writes them, a manifest vouches for them.

DIRECTORY/<step>/ is an Orbax composite of `state`, the arrays, and `meta`, JSON. Orbax writes it in
the background under a temporary name and commits it by a rename. Then <step>/manifest.json is
added, and only then are older steps deleted. A step whose manifest does not fit is never used.

Several processes share the directory, and each writes its part of the arrays. Process 0 alone
decides, for all: what is there, what can be trusted, what is set aside or deleted.

Orbax's `CheckpointManager` can read the directory but does not manage it: it takes every directory
with a number for a step, and deletes old steps before anything has vouched for the new one.
"""

import concurrent.futures
import math
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from bert_jax import agreement, checkpoint_directory, manifest
from bert_jax.manifest import DamageError
from data_pipeline.errors import DataError, DiskError


class Checkpoints:
    """The checkpoints of one run; the caller holds the run's lock.

    Args:
        directory: made if absent; entries that are no steps are set aside or ignored, by name.
        keep_last: how many of the newest steps stay.
        keep_best_metric: name of a validation loss; the step where it is lowest stays as well.

    Raises:
        DiskError: the directory cannot be made or tidied.
        DataError: it holds several steps and not one of them has a manifest.
    """

    def __init__(
        self,
        directory: pathlib.Path | str,
        keep_last: int,
        keep_best_metric: str | None = None,
    ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        self._keep_last = keep_last
        self._best_metric = keep_best_metric
        self._metrics: dict[int, dict[str, float]] = {}  # of every step that is there
        found = agreement.from_primary(self._open)
        self._metrics.update({step: metrics for step, metrics in found})
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            # Where a directory cannot be made, Orbax 0.12.8 reports that at once if it makes
            # directories here, and keeps threads waiting for 20 minutes if it does so elsewhere.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[int] | None = None

    def _open(self) -> list[tuple[int, dict[str, float]]]:
        """Makes or tidies the directory; returns the steps that are there, with their metrics."""
        try:
            self.directory.mkdir(exist_ok=True)
            checkpoint_directory.tidy(self.directory)
        except OSError as error:
            raise DiskError(f"cannot keep checkpoints in {self.directory}: {error}") from error
        found = []
        for step in checkpoint_directory.steps(self.directory):
            try:
                found.append((step, manifest.read(self._path(step)).metrics))
            except DamageError:
                found.append((step, {}))  # `restore` reports it
        return found

    def restore(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Loads the newest good step.

        A damaged step is renamed to `corrupt-<step>`, with a warning that names the file, and the
        step before it is tried.

        Args:
            abstract_state: tree of `jax.ShapeDtypeStruct` with shardings; these may differ from
                those that the state was saved with.

        Returns:
            (step, state, meta), or None where nothing has been saved yet.

        Raises:
            DataError: every step is damaged; or the newest good one holds other arrays, shapes or
                dtypes than `abstract_state`, for nothing is cast.
            DiskError: a damaged step cannot be renamed.
        """
        self._finish()
        expected = manifest.describe(abstract_state)
        step = agreement.from_primary(lambda: self._newest_good(expected))
        self._metrics = {
            other: metrics
            for other, metrics in self._metrics.items()
            if step is not None and other <= step
        }
        if step is None:
            return None
        restored = self._checkpointer.restore(
            self._path(step),
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), meta=ocp.args.JsonRestore()
            ),
        )
        return step, restored.state, restored.meta

    def _newest_good(self, expected: dict[str, str]) -> int | None:
        """The step to restore; those that are damaged are set aside."""
        reasons = [
            f"{path.name}: found damaged before" for path in self.directory.glob("corrupt-*")
        ]
        for step in sorted(self._metrics, reverse=True):
            try:
                checkpoint_directory.verify(self._path(step), step, expected)
            except DamageError as error:
                reasons.append(f"{step}: {error}")
                self._set_aside(step, error)
                continue
            return step
        if reasons:
            raise checkpoint_directory.all_damaged(self.directory, reasons)
        return None

    def save(
        self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Copies the state off the devices and starts to write it; waits for an earlier save.

        Args:
            step: number of the step; one that is there already is not saved again.
            state: tree of arrays, which may be donated as soon as this returns.
            meta: JSON values that come back with the state.
            metrics: validation metrics at this step, if there are any.

        Raises:
            DiskError: this save cannot start, or the one before it failed; older steps are intact.
        """
        self._finish()
        if step in self._metrics:
            return
        try:
            self._checkpointer.save(
                self._path(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
            )
        except OSError as error:
            raise self._save_failed(step, error) from error
        arrays = manifest.describe(state)
        self._saving = self._worker.submit(self._seal, step, arrays, dict(metrics or {}))

    def poll(self) -> int | None:
        """Looks, without waiting, whether the save under way has ended.

        Returns:
            The step, if one has become safe since the last call.

        Raises:
            DiskError: the save failed; older steps are intact.
        """
        if self._saving is None or not self._saving.done():
            return None
        return self._finish()

    def settle(self, seconds: float) -> None:
        """Waits for the save under way, at most so long; does not say how it ended."""
        if (saving := self._saving) is not None:
            concurrent.futures.wait([saving], timeout=seconds)

    def close(self) -> int | None:
        """Waits for the save under way and ends; returns and raises as `poll` does."""
        try:
            return self._finish()
        finally:
            self._worker.shutdown()
            self._checkpointer.close()

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _finish(self) -> int | None:
        saving, self._saving = self._saving, None
        return None if saving is None else saving.result()

    def _seal(self, step: int, arrays: dict[str, str], metrics: dict[str, float]) -> int:
        """Waits for Orbax, vouches for what it wrote, deletes what is no longer needed."""
        try:
            self._checkpointer.wait_until_finished()
            if agreement.primary():
                manifest.write(self._path(step), step, arrays, metrics)
        except Exception as error:  # a full disk comes as a ValueError from TensorStore
            raise self._save_failed(step, error) from error
        self._metrics[step] = metrics
        for old in self._metrics.keys() - self._kept():
            del self._metrics[old]
            if agreement.primary():
                checkpoint_directory.delete(self._path(old))
        return step

    def _kept(self) -> set[int]:
        """The newest steps and the best one."""
        losses = {
            step: metrics[self._best_metric]
            for step, metrics in self._metrics.items()
            if self._best_metric in metrics and math.isfinite(metrics[self._best_metric])
        }
        best = {min(losses, key=lambda step: (losses[step], -step))} if losses else set()
        return best.union(sorted(self._metrics)[-self._keep_last :])

    def _set_aside(self, step: int, error: DamageError) -> None:
        aside = checkpoint_directory.set_aside(self._path(step), f"corrupt-{step}")
        logging.warning(
            "checkpoint %s is damaged: %s; renamed to %s", self._path(step), error, aside.name
        )

    def _save_failed(self, step: int, error: Exception) -> DiskError:
        unfinished = self.directory / f"{step}.orbax-checkpoint-tmp"
        if jax.process_count() == 1:  # else others may still be writing
            shutil.rmtree(unfinished, ignore_errors=True)  # room for the next attempt
        return DiskError(
            f"saving checkpoint {self._path(step)} failed: {error}\nOlder checkpoints are intact: "
            "make room or restore access, then run the same command again."
        )


def load_params(path: pathlib.Path | str, abstract_params: Any) -> tuple[Any, dict[str, Any]]:
    """Loads the parameters alone, from the newest good step, and changes nothing on the disk.

    Process 0 chooses the step for all: the run that is read may be saving, or deleting, others.

    Args:
        path: a run directory, its checkpoints directory, or one step directory.
        abstract_params: tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
        (params, meta) as they were saved.

    Raises:
        DataError: there is no good checkpoint, or it holds other parameters.
    """
    expected = manifest.describe({"params": abstract_params})
    step = pathlib.Path(agreement.from_primary(lambda: str(_newest_good_params(path, expected))))
    if not step.is_dir():
        raise DataError(f"{step}, which process 0 has read, is not there on this host")
    return _read_params(step, abstract_params)


def _newest_good_params(path: pathlib.Path | str, expected: dict[str, str]) -> pathlib.Path:
    root = pathlib.Path(path).absolute()
    if (root / "checkpoints").is_dir():
        root = root / "checkpoints"
    candidates: list[tuple[pathlib.Path, int | None]] = [
        (root / str(step), step) for step in reversed(checkpoint_directory.steps(root))
    ]
    if (root / "state").is_dir():
        candidates = [(root, None)]
    reasons = []
    for directory, step in candidates:
        try:
            checkpoint_directory.verify(directory, step, expected, prefix="params/")
        except DamageError as error:
            logging.warning("checkpoint %s is damaged and passed over: %s", directory, error)
            reasons.append(f"{directory.name}: {error}")
            continue
        return directory
    if reasons:
        raise checkpoint_directory.all_damaged(root, reasons)
    raise DataError(f"{path} holds no checkpoint: name a run directory, or one step of a run")


def _read_params(directory: pathlib.Path, abstract_params: Any) -> tuple[Any, dict[str, Any]]:
    wanted = {"params": abstract_params}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            directory,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                ),
                meta=ocp.args.JsonRestore(),
            ),
        )
    return restored.state["params"], restored.meta
