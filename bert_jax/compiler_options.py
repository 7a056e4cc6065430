# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler is told besides the program: to exchange while it computes.

Each option is tried on a program of nothing first. Options come and go with libtpu, and one that it
does not know would end a run that does well without it.
"""

import functools

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_TPU_OPTIONS = {
    # Gathers proceed beneath the fusions that stand behind them, whether of products or not.
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_fuse_kloop_fusions": True,
    "xla_enable_async_all_gather": True,
    # Gradients travel to their shards while others are computed.
    "xla_tpu_enable_async_all_to_all": True,
}


@functools.cache
def compiler_options(mesh: Mesh) -> dict[str, bool]:
    """Options for `jax.jit` that the compiler of these devices knows; none but for TPUs."""
    if mesh.devices.flat[0].platform != "tpu":
        return {}
    return {name: value for name, value in _TPU_OPTIONS.items() if _known(mesh, name, value)}


def _known(mesh: Mesh, name: str, value: bool) -> bool:
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    try:
        jax.jit(jnp.negative).lower(scalar).compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        logging.warning("the compiler does without %s: %s", name, error)
        return False
    return True
