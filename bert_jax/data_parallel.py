# SPDX-License-Identifier: Apache-2.0
"""Gradients over many devices: each differentiates on its own rows, and says what it exchanges.

Inside of `DataParallel.map` a device sees its rows and its shards of the parameters. `fetch` brings
parameters together just before they are used; its derivative sums their gradient over all devices
and leaves each its shards. What travels does so in the compute dtype, and layer by layer, so that
the links can work beside the matrix units; `hold` says by when a gradient must have arrived. The
mesh axis `tensor` stays with the compiler.

Weights spread over `fsdp` or by `mesh.shard_optimizer` are gathered and their gradients scattered
(ZeRO, arXiv 1910.02054); what every device has whole is summed. Under `model.remat` a layer's
weights are fetched again for the backward pass.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from bert_jax.layers import exact_dtype
from bert_jax.partitioning import BATCH_AXES, is_matrix

# For each dimension of a parameter the mesh axes that it is spread over.
Dimensions = tuple[tuple[str, ...], ...]

# Devices (`jax.Device.device_kind`) that reduce-scatter by themselves while they compute: another
# unit of the chip, its SparseCore, does it. Of all TPUs libtpu 0.0.42 sees to that on this one.
_SCATTERING = ("TPU7x",)


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """The devices that share the rows of a batch.

    Attributes:
        mesh: all devices.
        specs: tree like the parameters: how each is spread over `BATCH_AXES`.
        dtype: in which matrices and their gradients travel, if it is smaller than their own.
            Vectors weigh nothing and stay exact.
    """

    mesh: Mesh
    specs: Any
    dtype: jnp.dtype

    @classmethod
    def over(cls, mesh: Mesh, params: Any, dtype: DTypeLike) -> Self:
        """For parameters as they are laid out: arrays on the mesh, or shapes with shardings."""
        specs = jax.tree.map(lambda param: _batch_spec(mesh, param.sharding, param.ndim), params)
        return cls(mesh, specs, jnp.dtype(dtype))

    @property
    def scattering(self) -> bool:
        """Whether these devices reduce-scatter by themselves."""
        return self.mesh.devices.flat[0].device_kind in _SCATTERING

    def map(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(params, batch, key) -> (gradients, sums)` as run by each device for its rows.

        Gradients are laid out like the parameters; sums, of anything, are the same on all devices.
        """
        rows, same = PartitionSpec(BATCH_AXES), PartitionSpec()
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(self.specs, rows, same),
            out_specs=(self.specs, same),
            axis_names=set(BATCH_AXES),
            check_vma=False,  # what is summed, and when, is said here
        )

    def fetch(self, params: Any, *part: str) -> Any:
        """Whole parameters from shards: all of them, or those of a part of the model.

        Of `encoder` also those of one layer, without the axis `layers`.

        Args:
            params: the shards.
            part: names on the way to the part in the tree; none for all parameters.
        """

        def whole(path: tuple[Any, ...], param: jax.Array, spec: PartitionSpec) -> jax.Array:
            smaller = is_matrix(path) and self.dtype.itemsize < param.dtype.itemsize
            dimensions = tuple(_axes(entry) for entry in spec)[len(spec) - param.ndim :]
            dtype = self.dtype if smaller else param.dtype
            return _fetch(param, dimensions, dtype, self.scattering)

        specs = functools.reduce(lambda tree, name: tree[name], part, self.specs)
        return jax.tree_util.tree_map_with_path(whole, params, specs)

    def hold(self, x: jax.Array, param: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both as they are; the gradient of `x` waits until that of `param` has arrived.

        So the compiler is told by when to have sent a gradient that `fetch` passes on. Not where
        all devices keep the whole: there everything stands still for a sum, whenever it is made.
        """
        spread = any(any(spec) for spec in jax.tree.leaves(self.specs))
        return _hold(x, param) if spread else (x, param)

    def sum(self, tree: Any) -> Any:
        """Sums over all devices."""
        return jax.lax.psum(tree, BATCH_AXES)

    def row_numbers(self, rows: int) -> jax.Array:
        """Places of a device's rows in the batch, int32 [rows]."""
        return jax.lax.axis_index(BATCH_AXES) * rows + jnp.arange(rows)


def _batch_spec(mesh: Mesh, sharding: NamedSharding, dimensions: int) -> PartitionSpec:
    """The part of a layout that `BATCH_AXES` have in it, with an entry for every dimension."""
    spreading = {axis for axis in BATCH_AXES if mesh.shape[axis] > 1}
    entries = [*sharding.spec, *[None] * (dimensions - len(sharding.spec))]
    return PartitionSpec(
        *(tuple(axis for axis in _axes(entry) if axis in spreading) for entry in entries)
    )


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _fetch(
    shard: jax.Array, dimensions: Dimensions, dtype: DTypeLike, scattering: bool
) -> jax.Array:
    whole = shard.astype(dtype)
    for dimension, axes in enumerate(dimensions):
        if axes:
            whole = jax.lax.all_gather(whole, axes, axis=dimension, tiled=True)
    return whole


def _fetch_forward(
    shard: jax.Array, dimensions: Dimensions, dtype: DTypeLike, scattering: bool
) -> tuple[jax.Array, jax.Array]:
    return _fetch(shard, dimensions, dtype, scattering), jnp.zeros((), shard.dtype)


def _fetch_backward(
    dimensions: Dimensions,
    dtype: DTypeLike,
    scattering: bool,
    like: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array]:
    reduce_scatter = _scatter if scattering else _send_and_add
    for dimension, axes in enumerate(dimensions):
        if axes:
            gradient = reduce_scatter(gradient.astype(dtype), axes, dimension)
    scattered = {axis for axes in dimensions for axis in axes}
    left = tuple(
        axis for axis in BATCH_AXES if axis not in scattered and jax.lax.axis_size(axis) > 1
    )
    if left:
        gradient = _sum(gradient.astype(dtype), left)
    return (gradient.astype(like.dtype),)


_fetch.defvjp(_fetch_forward, _fetch_backward)


# By hand: the barrier itself would stand in the forward pass, too, and gathers would wait for x.
@jax.custom_vjp
def _hold(x: jax.Array, param: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, param


def _hold_forward(x: jax.Array, param: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
    return (x, param), None


def _hold_backward(_: None, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jax.lax.optimization_barrier(gradients)


_hold.defvjp(_hold_forward, _hold_backward)


def _sum(gradient: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return _added(lambda x: jax.lax.psum(x, axes), gradient)


def _scatter(gradient: jax.Array, axes: tuple[str, ...], dimension: int) -> jax.Array:
    """This device's shard of the sum over all, added up on the way."""
    return _added(
        lambda x: jax.lax.psum_scatter(x, axes, scatter_dimension=dimension, tiled=True), gradient
    )


def _added(over_devices: Callable[[jax.Array], jax.Array], gradient: jax.Array) -> jax.Array:
    """A sum over devices in the gradient's type: every addition on the way rounds to that."""
    exact = exact_dtype(gradient.dtype)

    # XLA for CPUs (0.10) aborts the process where bfloat16 is summed over devices.
    def on_cpu(x: jax.Array) -> jax.Array:
        return over_devices(x.astype(exact)).astype(x.dtype)

    return jax.lax.platform_dependent(gradient, cpu=on_cpu, default=over_devices)


def _send_and_add(gradient: jax.Array, axes: tuple[str, ...], dimension: int) -> jax.Array:
    """This device's shard of the sum over all, in float32 at least.

    Each device sends every other one its shard of the gradient, and adds up what it gets. Of a
    `psum_scatter` libtpu 0.0.42 makes an all-reduce, but for `_SCATTERING`, which moves twice the
    bytes while nothing is computed.
    """
    devices = math.prod(jax.lax.axis_size(axis) for axis in axes)
    before, after = gradient.shape[:dimension], gradient.shape[dimension + 1 :]
    shards = gradient.reshape(*before, devices, -1, *after)
    shards = jax.lax.all_to_all(shards, axes, dimension, dimension, tiled=True)
    exact = exact_dtype(gradient.dtype)
    # Slices, not one reduction: XLA adds them while it reads them, for the update if none waits.
    parts = [
        jax.lax.index_in_dim(shards, device, dimension, keepdims=False).astype(exact)
        for device in range(devices)
    ]
    while len(parts) > 1:
        parts = [functools.reduce(jnp.add, parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]
