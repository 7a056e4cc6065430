# SPDX-License-Identifier: Apache-2.0
"""What a run directory remembers of its recipe, and whether a command may continue it.

config.json       the resolved configuration and the store's fingerprint, written at the start
tokenizer/        copy of the store's tokenizer, so that the run stands alone
checkpoints/ metrics.jsonl tensorboard/   written by the modules of those names
summary.json      figures of the finished run
"""

import dataclasses
import importlib.metadata
import json
import math
import platform
import shutil
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import RunConfig
from bert_jax.typed_mapping import differences
from data_pipeline.errors import ConfigError, DataError, DiskError
from data_pipeline.mixture import Mixture

# Settings that change how a run is carried out but not what it computes; a resume may differ.
FREE_KEYS = (
    "log_every",
    "checkpoint.",
    "evaluation.",
    "mesh.",
    "profile.",
    "data.reader",
    "data.store",  # the paths; content and shares are held to the fingerprint
    "model.unroll",
    "model.remat",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers, where installed."""
    found = {"python": platform.python_version()}
    for package in ("bert_jax", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def description(config: RunConfig, store: Mixture) -> dict[str, Any]:
    """What identifies a run: kept in config.json and in every checkpoint."""
    return {
        "config": dataclasses.asdict(config),
        "store_fingerprint": store.fingerprint,
        "tokenizer_fingerprint": store.tokenizer_fingerprint,
        "backend": jax.default_backend(),
        "versions": versions(),
    }


def begin(workdir: Path, current: dict[str, Any], store: Mixture) -> None:
    """Writes config.json and the tokenizer at the first start; at a resume compares.

    Raises:
        ConfigError: the recipe has changed in a key that the computation depends on.
        DataError: the store's content or vocabulary has changed.
        DiskError: the files cannot be written.
    """
    if (workdir / "config.json").exists():
        _check_same(read_config(workdir), current, workdir)
    else:
        write_json(workdir / "config.json", current)
    if not (workdir / "tokenizer").exists():
        copy = workdir / "tokenizer.tmp"
        try:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(store.path / "tokenizer", copy)
            copy.rename(workdir / "tokenizer")
        except OSError as error:
            raise DiskError(f"cannot copy the tokenizer into {workdir}: {error}") from error


def read_config(workdir: Path) -> dict[str, Any]:
    """What `description` returned when the run in `workdir` was started.

    Raises:
        DataError: there is no run, or its config.json is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise DataError(f"{workdir} holds no run: it has no config.json")
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); restore it from a backup, or start in a new --workdir"
        ) from error


def read_rows(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of metrics.jsonl by their kind, in order; lines that a kill cut short are left out.

    A figure that was not finite, null in the file, is not a number.
    """
    path = workdir / "metrics.jsonl"
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for line in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            row = {name: math.nan if value is None else value for name, value in row.items()}
            rows.setdefault(row["kind"], []).append(row | {"step": int(row["step"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return rows


def _check_same(saved: dict[str, Any], current: dict[str, Any], workdir: Path) -> None:
    # An older version knew fewer keys; what has come since is at its default.
    before = dataclasses.asdict(RunConfig.from_mapping(saved["config"]))
    changed = differences(before, current["config"])
    changed = [line for line in changed if not line.startswith(FREE_KEYS)]
    if changed:
        raise ConfigError(
            f"{workdir} was started with another configuration:\n  "
            + "\n  ".join(changed)
            + "\nRun with the old values to resume, or choose another --workdir; "
            "--config.init_from starts a new run from old weights."
        )
    if saved.get("replicas", current.get("replicas")) != current.get("replicas"):
        raise ConfigError(
            f"{workdir} was started on {saved['replicas']} devices, and here are "
            f"{current['replicas']}: with optimizer.per_replica their number is part of the recipe"
        )
    for key, what in (("tokenizer_fingerprint", "vocabulary"), ("store_fingerprint", "content")):
        if saved[key] != current[key]:
            raise DataError(
                f"the {what} of the store {current['config']['data']['store']} is not what "
                f"{workdir} was started with ({saved[key][:12]} -> {current[key][:12]}); "
                "resume with the old store, or choose another --workdir"
            )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror}; make room or choose another place, then run "
            "the same command again"
        ) from error
