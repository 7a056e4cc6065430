# SPDX-License-Identifier: Apache-2.0
"""The mesh, the table of axes, and rows on devices (eight simulated ones)."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bert_jax import partitioning
from bert_jax.config import BertConfig, MeshConfig, OptimizerConfig, RunConfig
from bert_jax.optimizer import make_optimizer
from bert_jax.train_step import init_state
from configs import pretrain
from data_pipeline.errors import ConfigError


def run_config(**changes):
    config = pretrain.get_config("tiny")
    config.data.store = "store"
    config.update_from_flattened_dict(changes)
    return RunConfig.from_mapping(config.to_dict())


def abstract_state(optimizer="bert_adam"):
    config = BertConfig.preset("tiny", vocab_size=1000)
    make = make_optimizer(OptimizerConfig(name=optimizer), 20_000)
    return jax.eval_shape(lambda: init_state(config, make, 0))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((-1, 1, 1), (1, 8, 1, 1)),
        ((2, 2, 2), (1, 2, 2, 2)),
        ((2, -1, 2), (1, 2, 2, 2)),
        ((1, 1, -1), (1, 1, 1, 8)),
        ((-1, 1, 2, 2), (2, 2, 1, 2)),
    ],
)
def test_mesh_takes_what_is_left(axes, shape):
    mesh = partitioning.make_mesh(MeshConfig(*axes))
    assert tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize("axes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (4, 1, 1)])
def test_mesh_that_does_not_multiply_is_refused(axes):
    with pytest.raises(ConfigError, match="does not multiply to the 8 devices"):
        partitioning.make_mesh(MeshConfig(*axes))


@pytest.mark.parametrize(
    ("slices", "message"),
    [(3, "mesh.slices=3 does not divide the 8 devices"), (0, "mesh.slices=0 does not divide")],
)
def test_slices_that_do_not_divide_are_refused(slices, message):
    with pytest.raises(ConfigError, match=message):
        partitioning.make_mesh(MeshConfig(slices=slices))


class Chip:
    """A device of a topology that this machine does not have."""

    platform, device_kind, core_on_chip = "tpu", "TPU v6 lite", 0

    def __init__(self, number, slice_index, coords):
        self.id, self.process_index, self.slice_index = number, number // 2, slice_index
        self.coords = coords


def two_slices():
    """Eight chips of two slices of 2 x 2 by turns."""
    places = [(number // 2 % 2, number // 4, 0) for number in range(8)]
    return [Chip(number, number % 2, place) for number, place in enumerate(places)]


def test_only_the_slice_axis_leaves_a_slice():
    chips = two_slices()
    mesh = partitioning.make_mesh(MeshConfig(data=2, fsdp=2, slices=2), chips)
    assert mesh.shape == {"slice": 2, "data": 2, "fsdp": 2, "tensor": 1}
    for number in range(2):
        assert {chip.slice_index for chip in mesh.devices[number].flat} == {number}
    with pytest.raises(ConfigError, match="the devices form 2 TPU slices: set mesh.slices=2"):
        partitioning.make_mesh(MeshConfig(), chips)
    with pytest.raises(ConfigError, match="does not multiply to the 4 devices there are in each"):
        partitioning.make_mesh(MeshConfig(data=8, slices=2), chips)
    with pytest.raises(ConfigError, match="the devices form 1 TPU slices: set mesh.slices=1"):
        partitioning.make_mesh(MeshConfig(slices=2), chips[::2])


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_what_hosts_say_of_slices_counts_for_tpus_alone(monkeypatch, slices):
    # Devices of a run of several processes have a number there on every platform: CPUs of one
    # machine all the same, GPUs one for each host.
    chips = two_slices()
    monkeypatch.setattr(Chip, "platform", "cpu")
    monkeypatch.setattr(Chip, "device_kind", "cpu")
    mesh = partitioning.make_mesh(MeshConfig(slices=slices), chips)
    assert mesh.shape["slice"] == slices
    assert [chip.id for chip in mesh.devices.flat] == list(range(8))


@pytest.mark.parametrize("axes", [(8, 1, 2), (4, 2, 2), (1, 8, 2), (1, 2, 8), (4, 1, 4)])
def test_a_mesh_axis_may_be_a_part_of_one_of_the_torus(axes):
    # A v6e-16, 4 x 4.
    chips = [Chip(number, 0, (number % 4, number // 4, 0)) for number in range(16)]
    mesh = partitioning.make_mesh(MeshConfig(*axes), chips)
    assert tuple(mesh.shape.values()) == (1, *axes)
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(16))
    if axes[2] == 2:
        for pair in mesh.devices.reshape(-1, 2):
            assert np.abs(np.subtract(pair[0].coords, pair[1].coords)).sum() == 1


def test_slots_are_spread_over_data_where_a_dimension_divides():
    mesh = partitioning.make_mesh(MeshConfig(data=4, tensor=2))
    state = abstract_state()
    shardings = partitioning.state_shardings(mesh, state, shard_optimizer=True)
    slots = shardings["optimizer"][1].mu
    # Not where `tensor` has spread it, if there is another dimension.
    assert slots["embeddings"]["word"].spec == PartitionSpec("tensor", ("fsdp", "data"))
    assert slots["encoder"]["mlp"]["up"]["kernel"].spec == PartitionSpec(
        None, ("fsdp", "data"), "tensor"
    )
    assert slots["nsp"]["bias"].spec == PartitionSpec(None)  # two labels: on every device
    assert shardings["params"] == slots  # weights are kept beside their slots


@pytest.mark.parametrize(
    ("axes", "shard_optimizer", "sizes"),
    [
        ({"data": 8}, False, (1, 1, 1, 1)),
        ({"data": 8}, True, (1, 1, 8, 1)),
        ({"data": 1, "fsdp": 8}, False, (1, 1, 8, 1)),
        ({"data": 2, "fsdp": 4}, True, (1, 1, 8, 1)),
        ({"data": 1, "fsdp": 4, "tensor": 2}, False, (1, 1, 2, 4)),  # columns: `tensor` has rows
    ],
)
def test_a_shard_of_query_key_and_value_is_whole_rows(axes, shard_optimizer, sizes):
    mesh = partitioning.make_mesh(MeshConfig(**axes))
    placed = partitioning.with_shardings(mesh, abstract_state(), shard_optimizer=shard_optimizer)
    kernel = placed["params"]["encoder"]["attention"]["qkv"]["kernel"]
    shard = kernel.sharding.shard_shape(kernel.shape)
    assert tuple(np.floor_divide(kernel.shape, shard)) == sizes


@pytest.mark.parametrize("optimizer", ["bert_adam", "adamw", "lamb"])
def test_slots_are_laid_out_like_their_parameters(optimizer):
    mesh = partitioning.make_mesh(MeshConfig(2, 2, 2))
    state = abstract_state(optimizer)
    shardings = partitioning.state_shardings(mesh, state)
    kernel = PartitionSpec(None, "fsdp", "tensor")
    assert shardings["params"]["encoder"]["mlp"]["up"]["kernel"].spec == kernel
    assert shardings["params"]["embeddings"]["word"].spec == PartitionSpec("tensor", "fsdp")
    assert shardings["step"].spec == PartitionSpec()
    slots = [
        (leaf.shape, sharding.spec)
        for leaf, sharding in zip(
            jax.tree.leaves(state["optimizer"]),
            jax.tree.leaves(shardings["optimizer"]),
            strict=True,
        )
        if leaf.shape
    ]
    params = [
        (leaf.shape, sharding.spec)
        for leaf, sharding in zip(
            jax.tree.leaves(state["params"]), jax.tree.leaves(shardings["params"]), strict=True
        )
    ]
    assert slots == params * 2  # first and second moment


def test_parameter_without_axes_is_an_error():
    mesh = partitioning.make_mesh(MeshConfig())
    state = {"params": {"adapter": {"kernel": jax.ShapeDtypeStruct((2, 2), np.float32)}}}
    with pytest.raises(KeyError, match="adapter"):
        partitioning.state_shardings(mesh, state)


def test_table_has_no_parameter_that_does_not_exist():
    paths = {
        "/".join(entry.key for entry in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(abstract_state()["params"])
    }
    fine_tuned = {"head/kernel", "head/bias"}
    assert paths | fine_tuned == set(partitioning.PARAMETER_AXES)
    used = {axis for axes in partitioning.PARAMETER_AXES.values() for axis in axes}
    assert used == set(partitioning.AXIS_RULES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"phases.short.batch_size": 10},
            "batch_size 10 is not divisible by 4 data-parallel devices: use 12",
        ),
        ({"phases.long.batch_size": 6}, "phases.long.batch_size 6 is not divisible by 4"),
        (
            {"phases.short.batch_size": 36, "phases.long.batch_size": 24, "accumulation": 3},
            None,
        ),
        (
            {"phases.short.batch_size": 30, "phases.long.batch_size": 24, "accumulation": 3},
            "phases.short.batch_size 30 is not divisible by 4 data-parallel devices x "
            "accumulation 3: use 36",
        ),
        ({"evaluation.batch_size": 2}, "evaluation.batch_size 2 is not divisible by 4"),
        (
            {"optimizer.per_replica": True, "evaluation.batch_size": 8},
            "optimizer.per_replica clips where one device has a whole gradient: it needs mesh.fsdp",
        ),
        ({"model.num_heads": 1}, "model.num_heads 1 is not divisible by mesh.tensor 2"),
        ({"model.mlp_size": 511}, "model.mlp_size 511 is not divisible by mesh.tensor 2"),
    ],
)
def test_sizes_that_do_not_divide_are_named(changes, message):
    mesh = partitioning.make_mesh(MeshConfig(2, 2, 2))
    config = run_config(**changes)
    if message is None:
        partitioning.check_divisible(config, mesh)
        return
    with pytest.raises(ConfigError) as caught:
        partitioning.check_divisible(config, mesh)
    assert message in str(caught.value)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 2, 2)])
def test_rows_arrive_where_they_belong(axes):
    mesh = partitioning.make_mesh(MeshConfig(*axes))
    np.testing.assert_array_equal(partitioning.local_rows(mesh, 16), np.arange(16))
    rows = np.arange(32, dtype=np.int32).reshape(16, 2)
    array = partitioning.to_devices(mesh, {"input_ids": rows})["input_ids"]
    np.testing.assert_array_equal(array, rows)
    parallel = 8 // axes[2]
    assert {shard.data.shape for shard in array.addressable_shards} == {(16 // parallel, 2)}
