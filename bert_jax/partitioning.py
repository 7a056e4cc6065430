# SPDX-License-Identifier: Apache-2.0
"""Which device holds what: the mesh, one table of axis rules, and batches onto the mesh.

Every dimension of every parameter has a logical name (`PARAMETER_AXES`); every logical name maps to
the mesh axis `tensor` or to none (`AXIS_RULES`). A parameter that the table does not know is an
error, so that a new one cannot end up replicated by oversight. Matrices are spread over `fsdp`
besides, and with `mesh.shard_optimizer` over `data` (ZeRO, arXiv 1910.02054): along which dimension
follows from the sizes. Optimiser slots follow their parameter.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import BertConfig, MeshConfig, RunConfig
from data_pipeline.errors import ConfigError

MESH_AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = ("slice", "data", "fsdp")

AXIS_RULES: dict[str, str | None] = {
    "vocab": "tensor",
    "all_heads": "tensor",
    "mlp": "tensor",
    "hidden": None,
    "hidden_out": None,
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
    "encoder/attention/qkv/kernel": ("layers", "qkv", "all_heads", "hidden"),
    "encoder/attention/qkv/bias": ("layers", "qkv", "all_heads"),
    "encoder/attention/output/kernel": ("layers", "all_heads", "hidden"),
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
    "head/kernel": ("hidden", "labels"),
    "head/bias": ("labels",),
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh `slice` x `data` x `fsdp` x `tensor` over `devices` (default: all there are).

    The last three axes lie within a slice, where links are fast; only `slice` crosses the
    data-centre network.

    Raises:
        ConfigError: the axes do not multiply to the number of devices, or `config.slices` is not
            the number of TPU slices.
    """
    groups = _by_slice(list(jax.devices() if devices is None else devices), config.slices)
    available = len(groups[0])
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and available % known == 0:
        sizes[sizes.index(-1)] = available // known
    if min(sizes) < 1 or math.prod(sizes) != available:
        where = " in each slice" if len(groups) > 1 else ""
        raise ConfigError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} does not multiply "
            f"to the {available} devices there are{where}; one axis may be -1 to take the rest"
        )
    grids = [_grid(tuple(sizes), group) for group in groups]
    return Mesh(np.stack(grids), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _grid(sizes: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    """The devices of a slice, neighbours in the mesh on neighbouring chips where that can be."""
    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:  # an axis of the mesh is only a part of one of the torus
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def _by_slice(devices: list[jax.Device], slices: int) -> list[list[jax.Device]]:
    """Devices of each slice of TPUs; of others, whose slices mean nothing, equal runs of them."""
    if devices[0].platform == "tpu":
        numbers = sorted({getattr(device, "slice_index", 0) for device in devices})
        if len(numbers) != slices:
            raise ConfigError(
                f"the devices form {len(numbers)} TPU slices: set mesh.slices={len(numbers)}"
            )
        return [[d for d in devices if getattr(d, "slice_index", 0) == n] for n in numbers]
    if slices < 1 or len(devices) % slices:
        raise ConfigError(f"mesh.slices={slices} does not divide the {len(devices)} devices")
    size = len(devices) // slices
    return [devices[first : first + size] for first in range(0, len(devices), size)]


def check_divisible(config: RunConfig, mesh: Mesh) -> None:
    """Refuses a recipe that does not fit the mesh, before anything is compiled.

    Raises:
        ConfigError: naming the key, and the nearest batch size that fits.
    """
    rows = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    batches = {f"phases.{n}.batch_size": p.batch_size for n, p in config.phases.items()}
    for key, size in (batches | {"evaluation.batch_size": config.evaluation.batch_size}).items():
        unit = rows if key.startswith("evaluation") else rows * config.accumulation
        if size % unit:
            raise ConfigError(
                f"{key} {size} is not divisible by {rows} data-parallel devices"
                + (f" x accumulation {config.accumulation}" if unit > rows else "")
                + f": use {-(-size // unit) * unit}"
            )
    if config.optimizer.per_replica and (rows != mesh.size or config.accumulation > 1):
        raise ConfigError(
            "optimizer.per_replica clips where one device has a whole gradient: it needs "
            "mesh.fsdp 1, mesh.tensor 1 and accumulation 1"
        )
    check_model_divisible(config.model, mesh)


def check_model_divisible(model: BertConfig, mesh: Mesh) -> None:
    """Refuses a model that does not divide over the mesh.

    Raises:
        ConfigError: naming the key.
    """
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


def state_shardings(mesh: Mesh, state: Any, *, shard_optimizer: bool = False) -> Any:
    """A `NamedSharding` for every leaf of a training state (arrays or their shapes).

    A leaf whose path ends in a parameter's path (the parameter itself, or an optimiser slot of it)
    is laid out by that parameter's axes; scalars are replicated. Vectors are not worth spreading
    over `fsdp`, and with `shard_optimizer` over `data`, as matrices are.

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
                over: tuple[str, ...] = ("fsdp",) if is_matrix(path) else ()
                if over and shard_optimizer:
                    over = ("fsdp", "data")
                return NamedSharding(mesh, _layout(mesh, axes, leaf.shape, over))
        raise KeyError(f"no logical axes for {jax.tree_util.keystr(path)}: add to PARAMETER_AXES")

    return jax.tree_util.tree_map_with_path(sharding, state)


def is_matrix(path: tuple[Any, ...]) -> bool:
    """Whether a parameter (its path in the tree) is a matrix, and not a bias or LayerNorm's."""
    return path[-1].key not in ("scale", "bias")


def _layout(
    mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...], over: Sequence[str]
) -> PartitionSpec:
    """By the rules, and each mesh axis of `over` along a dimension that it divides, if any.

    The first, because parts of the last are no whole tiles of a TPU's memory; never the layers; and
    one that `tensor` has only if no other divides.
    """
    rules = [AXIS_RULES[axis] for axis in axes]
    layout: list[tuple[str, ...]] = [(rule,) if rule else () for rule in rules]
    shared = [bool(rule) and mesh.shape[rule] > 1 for rule in rules]
    for added in over:
        divided = [
            index
            for index, spread in enumerate(layout)
            if axes[index] != "layers"
            and shape[index] % math.prod(mesh.shape[axis] for axis in (*spread, added)) == 0
        ]
        if divided:
            layout[min(divided, key=lambda index: shared[index])] += (added,)
    return PartitionSpec(*layout)


def with_shardings(mesh: Mesh, state: Any, *, shard_optimizer: bool = False) -> Any:
    """The shapes and dtypes of a training state, or of parameters alone, with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(mesh, state, shard_optimizer=shard_optimizer),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows spread over the data-parallel axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process has to bring, ascending, int64 [rows].

    They need not follow each other: the order of TPU chips in a mesh is that of their links, not
    that of their hosts.
    """
    return np.concatenate([np.arange(*bounds) for bounds in _local_blocks(mesh, batch_size)])


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Host-local rows of a batch (those of `local_rows`) as one global array per feature."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    blocks = [first for first, _ in _local_blocks(mesh, parts)]
    sharding = batch_sharding(mesh)

    def assemble(rows: np.ndarray) -> jax.Array:
        size = len(rows) // len(blocks)

        def block(index: Any) -> np.ndarray:
            first = blocks.index(index[0].indices(parts * size)[0] // size) * size
            return rows[first : first + size]

        return jax.make_array_from_callback((parts * size, *rows.shape[1:]), sharding, block)

    return {name: assemble(rows) for name, rows in batch.items()}


def _local_blocks(mesh: Mesh, batch_size: int) -> list[tuple[int, int]]:
    """First row and end of every block of rows that a device of this process holds."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({index[0].indices(batch_size)[:2] for index in indices if index is not None})
