# SPDX-License-Identifier: Apache-2.0
"""Which device holds what: the mesh, one table of axis rules, and batches onto the mesh.

Every dimension of every parameter has a logical name (`PARAMETER_AXES`); every logical name maps to
mesh axes (`AXIS_RULES`). A parameter that the table does not know is an error, so that a new one
cannot end up replicated by oversight. Optimiser slots follow their parameter.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import MeshConfig, RunConfig
from data_pipeline.errors import ConfigError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

AXIS_RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "hidden": "fsdp",
    "hidden_out": None,
    "head_dim": None,
    "qkv": None,
    "positions": None,
    "segments": None,
    "labels": None,
    "layers": None,
}

PARAMETER_AXES: dict[str, tuple[str, ...]] = {
    "embeddings/word": ("vocab", "hidden"),
    "embeddings/position": ("positions", "hidden"),
    "embeddings/segment": ("segments", "hidden"),
    "embeddings/norm/scale": ("hidden",),
    "embeddings/norm/bias": ("hidden",),
    "encoder/attention/qkv/kernel": ("layers", "hidden", "qkv", "heads", "head_dim"),
    "encoder/attention/qkv/bias": ("layers", "qkv", "heads", "head_dim"),
    "encoder/attention/output/kernel": ("layers", "heads", "head_dim", "hidden"),
    "encoder/attention/output/bias": ("layers", "hidden"),
    "encoder/attention/norm/scale": ("layers", "hidden"),
    "encoder/attention/norm/bias": ("layers", "hidden"),
    "encoder/mlp/up/kernel": ("layers", "hidden", "mlp"),
    "encoder/mlp/up/bias": ("layers", "mlp"),
    "encoder/mlp/down/kernel": ("layers", "mlp", "hidden"),
    "encoder/mlp/down/bias": ("layers", "hidden"),
    "encoder/mlp/norm/scale": ("layers", "hidden"),
    "encoder/mlp/norm/bias": ("layers", "hidden"),
    "pooler/kernel": ("hidden", "hidden_out"),
    "pooler/bias": ("hidden_out",),
    "mlm/dense/kernel": ("hidden", "hidden_out"),
    "mlm/dense/bias": ("hidden_out",),
    "mlm/norm/scale": ("hidden",),
    "mlm/norm/bias": ("hidden",),
    "mlm/bias": ("vocab",),
    "nsp/kernel": ("hidden", "labels"),
    "nsp/bias": ("labels",),
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh `data` x `fsdp` x `tensor` over `devices` (default: all there are).

    Raises:
        ConfigError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ConfigError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not multiply "
            f"to the {len(devices)} devices there are; one axis may be -1 to take the rest"
        )
    return jax.make_mesh(tuple(sizes), MESH_AXES, (AxisType.Auto,) * 3, devices=devices)


def check_divisible(config: RunConfig, mesh: Mesh) -> None:
    """Refuses sizes that do not divide over the mesh, before anything is compiled.

    Raises:
        ConfigError: naming the key, and the nearest batch size that fits.
    """
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    batches = {f"phases.{n}.batch_size": p.batch_size for n, p in config.phases.items()}
    for key, size in (batches | {"evaluation.batch_size": config.evaluation.batch_size}).items():
        unit = rows if key.startswith("evaluation") else rows * config.accumulation
        if size % unit:
            raise ConfigError(
                f"{key} {size} is not divisible by {rows} data-parallel devices"
                + (f" x accumulation {config.accumulation}" if unit > rows else "")
                + f": use {-(-size // unit) * unit}"
            )
    model = config.model
    for key, size, axis in (
        ("hidden_size", model.hidden_size, "fsdp"),
        ("num_heads", model.num_heads, "tensor"),
        ("mlp_size", model.mlp_size, "tensor"),
        ("vocab_multiple", model.vocab_multiple, "tensor"),
    ):
        if size % mesh.shape[axis]:
            raise ConfigError(
                f"model.{key} {size} is not divisible by mesh.{axis} {mesh.shape[axis]}"
            )


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """A `NamedSharding` for every leaf of a training state (arrays or their shapes).

    A leaf whose path ends in a parameter's path (the parameter itself, or an optimiser slot of it)
    is laid out by that parameter's axes; scalars are replicated.

    Raises:
        KeyError: a leaf with dimensions that matches no parameter.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        if not leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        for start in range(len(names)):
            axes = PARAMETER_AXES.get("/".join(names[start:]))
            if axes is not None:
                return NamedSharding(mesh, PartitionSpec(*(AXIS_RULES[axis] for axis in axes)))
        raise KeyError(f"no logical axes for {jax.tree_util.keystr(path)}: add to PARAMETER_AXES")

    return jax.tree_util.tree_map_with_path(sharding, state)


def with_shardings(mesh: Mesh, state: Any) -> Any:
    """The shapes and dtypes of a training state, or of parameters alone, with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(mesh, state),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows spread over the data-parallel axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def local_rows(mesh: Mesh, batch_size: int) -> range:
    """The rows of a global batch that this process has to bring."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = [index[0].indices(batch_size)[:2] for index in slices if index is not None]
    return range(min(low for low, _ in bounds), max(high for _, high in bounds))


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Host-local rows of a batch as one global array per feature."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
