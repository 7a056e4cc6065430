# SPDX-License-Identifier: Apache-2.0
"""What devices exchange, value by value; whole steps are compared in `test_train_step`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import data_parallel
from bert_jax.config import MeshConfig
from bert_jax.data_parallel import DataParallel
from bert_jax.partitioning import BATCH_AXES, make_mesh

SHAPES = {"kernel": (16, 3, 5), "bias": (5,)}


def exchange(mesh_config, spec, gradients):
    """Whole parameters and gradients, if device number d of 8 makes `gradients[d]` of them."""
    mesh = make_mesh(mesh_config, jax.devices()[:8])
    specs = {"kernel": spec, "bias": PartitionSpec()}
    params = {
        name: jax.device_put(
            np.random.default_rng(1).normal(size=shape).astype(np.float32),
            NamedSharding(mesh, specs[name]),
        )
        for name, shape in SHAPES.items()
    }
    devices = DataParallel.over(mesh, params, jnp.bfloat16)

    def run(shards, batch, key):
        whole, send = jax.vjp(devices.fetch, shards)
        mine = {name: batch[name][0].astype(whole[name].dtype) for name in whole}
        assert whole["kernel"].dtype == jnp.bfloat16
        everyones = jax.tree.map(lambda x: jax.lax.pmean(x.astype(jnp.float32), BATCH_AXES), whole)
        return send(mine)[0], everyones

    found, whole = jax.jit(devices.map(run))(params, gradients, jax.random.key(0))
    return params, whole, found


@pytest.mark.parametrize(
    ("mesh", "spec", "scattered"),
    [
        (MeshConfig(), PartitionSpec("data"), True),
        (MeshConfig(data=4, fsdp=2), PartitionSpec(("fsdp", "data")), True),
        (MeshConfig(data=2, fsdp=4), PartitionSpec(("data", "fsdp"), None, None), True),
        (MeshConfig(data=2, fsdp=4), PartitionSpec("fsdp"), False),
        (MeshConfig(slices=2), PartitionSpec("data"), False),
        (MeshConfig(), PartitionSpec(), False),
    ],
    ids=["zero", "fsdp and zero", "other order", "fsdp", "two slices", "replicated"],
)
@pytest.mark.parametrize("scattering", [False, True], ids=["added here", "by the devices"])
def test_matrices_travel_in_bfloat16_and_shards_received_are_added_in_float32(
    monkeypatch, mesh, spec, scattered, scattering
):
    if scattering:
        monkeypatch.setattr(data_parallel, "_SCATTERING", (jax.devices()[0].device_kind,))
    random = np.random.default_rng(0)
    # Values of bfloat16 whose sums are none.
    gradients = {
        name: (1 + random.integers(0, 2, (8, *shape)) / 128).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    params, whole, found = exchange(mesh, spec, gradients)
    np.testing.assert_array_equal(whole["kernel"], params["kernel"].astype(jnp.bfloat16))
    np.testing.assert_array_equal(whole["bias"], params["bias"])  # a vector stays exact
    exact = jax.tree.map(lambda each: each.sum(0), gradients)
    np.testing.assert_array_equal(found["bias"], exact["bias"])
    if scattered and not scattering:
        np.testing.assert_array_equal(found["kernel"], exact["kernel"])
    # What devices sum on the way, along other axes or all, is summed in bfloat16.
    np.testing.assert_allclose(found["kernel"], exact["kernel"], rtol=2**-7)
    for name, shape in SHAPES.items():
        assert found[name].sharding.is_equivalent_to(params[name].sharding, len(shape))


@pytest.mark.parametrize(
    ("kinds", "expected", "other"),
    [(("cpu",), "reduce_scatter", "all_to_all"), (("TPU7x",), "all_to_all", "reduce_scatter")],
)
def test_devices_that_reduce_scatter_by_themselves_are_left_to_it(
    monkeypatch, kinds, expected, other
):
    assert jax.devices()[0].device_kind == "cpu"
    monkeypatch.setattr(data_parallel, "_SCATTERING", kinds)
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    kernel = {"kernel": jax.ShapeDtypeStruct((16, 3, 5), jnp.float32, sharding=sharding)}
    devices = DataParallel.over(mesh, kernel, jnp.bfloat16)

    def run(shards, batch, key):
        whole, send = jax.vjp(devices.fetch, shards)
        return send(whole)[0], batch.sum()

    traced = str(jax.make_jaxpr(devices.map(run))(kernel, np.ones(8), jax.random.key(0)))
    assert expected in traced and other not in traced


@pytest.mark.parametrize("spread", [True, False])
def test_a_gradient_held_back_waits_for_one_that_is_scattered(spread):
    mesh = make_mesh(MeshConfig(), jax.devices()[:8])
    sharding = NamedSharding(mesh, PartitionSpec("data" if spread else None))
    kernel = jax.ShapeDtypeStruct((16, 3, 5), jnp.float32, sharding=sharding)
    devices = DataParallel.over(mesh, {"kernel": kernel}, jnp.float32)
    inputs = np.full(3, 2.0), np.ones(kernel.shape)
    outputs, back = jax.vjp(devices.hold, *inputs)
    jax.tree.map(np.testing.assert_array_equal, outputs, inputs)
    gradients = jax.tree.map(lambda x: 3 * x, outputs)
    jax.tree.map(np.testing.assert_array_equal, back(gradients), gradients)
    found = jax.make_jaxpr(back)(gradients).eqns
    expected = [("optimization_barrier", [(3,), kernel.shape])] if spread else []
    assert [(e.primitive.name, [x.aval.shape for x in e.outvars]) for e in found] == expected
