# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler makes of a training step; `make plan` installs it.

make plan-test       a small model, for v4-32, v5e-16 and tpu7x-32 (minutes)
pytest -m soak tests/bert_jax/test_plan_on_tpu.py      real models, the calibration (an hour)
"""

import dataclasses
import functools
import importlib.util
import re

import pytest

from bert_jax.compiler_options import _TPU_OPTIONS, compiler_options
from bert_jax.config import MeshConfig
from bert_jax.partitioning import make_mesh
from bert_jax.plan import estimate
from bert_jax.plan.compiler import DEFAULT_CACHE, compile_step, devices
from bert_jax.plan.estimate import estimate_step, with_layers
from bert_jax.plan.planning import ESTIMATED_SECONDS, MEASURED_SECONDS
from bert_jax.plan.program import parse
from bert_jax.plan.recipe import load
from bert_jax.plan.timeline import timeline
from bert_jax.slices import SLICES_OF_16, find_slice
from configs import pretrain

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler libtpu is not installed: make plan",
)
LENGTH, ROWS, PREDICTIONS = 128, 4, 20
CACHE = DEFAULT_CACHE.expanduser()  # of soak tests, which compile for an hour


def small(slice_name, sharded):
    """One layer, and rows of 128 tokens, four to a device; with ZeRO-1 if `sharded`."""
    where = find_slice(slice_name)
    config = load(pretrain.get_config("tiny").to_dict(), 1024)
    phases = {"short": dataclasses.replace(config.phases["short"], share=1.0, length=LENGTH)}
    phases["short"] = dataclasses.replace(phases["short"], batch_size=ROWS * where.devices)
    mesh = MeshConfig(shard_optimizer=sharded)
    return with_layers(dataclasses.replace(config, phases=phases, mesh=mesh), 1), where


@functools.cache
def compiled(slice_name, sharded=False):
    config, where = small(slice_name, sharded)
    found = compile_step(config, config.spans()[0], where, None, print)
    return found, parse(found.text), where


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_data_parallel_training_only_sums_and_mostly_in_bfloat16(slice_name):
    found, program, where = compiled(slice_name)
    exchanges = timeline(program, where).exchanges
    assert {name.split()[0] for name in exchanges} <= {"all-reduce", "reduce-scatter"}
    assert all(name.endswith("over 16") for name in exchanges)
    # Matrices in half the bytes of their parameters; embeddings, biases and sums in float32.
    by_type = {"bf16": 0.0, "f32": 0.0}
    for name, each in exchanges.items():
        for dtype in by_type:
            by_type[dtype] += each.bytes if dtype in name.split()[1] else 0
    assert by_type["bf16"] >= 2 * (12 * 128**2 + 1024 * 128)


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_matrices_are_gathered_and_scattered_in_bfloat16_beside_computation(slice_name):
    found, program, where = compiled(slice_name, sharded=True)
    exchanges = timeline(program, where).exchanges
    matrices = 2 * (12 * 128**2 + 1024 * 128)
    gathered = exchanges["all-gather bf16 over 16"]
    # A reduce-scatter: everyone gets the others' shards of the gradients, and adds them up.
    scattered = exchanges["all-to-all bf16 over 16"]
    assert matrices <= gathered.bytes <= 2 * matrices
    assert matrices <= scattered.bytes <= 2 * matrices
    assert "all-reduce bf16 over 16" not in exchanges
    assert "all-to-all-start(" in found.text
    assert "AsyncCollectiveStart" in found.text  # of gathers


def test_a_sparse_core_gathers_and_scatters_in_bfloat16():
    found, program, where = compiled("tpu7x-32", sharded=True)
    called = {
        inner.opcode
        for each in program.computations[program.entry]
        if each.opcode == "call-start"
        for inner in program.within(each)
    }
    assert {"all-gather", "reduce-scatter"} <= called
    assert "all-to-all(" not in found.text and "all-to-all-start(" not in found.text
    exchanges = timeline(program, where).exchanges
    matrices = 12 * 128**2 + 1024 * 128
    assert 2 * matrices <= exchanges["all-gather bf16 over 32"].bytes <= 4 * matrices
    # Of words, positions and `down`; shards of the others are less than a tile of 8 rows.
    scattered = 2 * (1024 + 512 + 512) * 128
    assert scattered <= exchanges["reduce-scatter bf16 over 32"].bytes <= 2 * scattered


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_gradients_of_the_mlp_have_arrived_before_attention_is_differentiated(slice_name):
    _, program, _ = compiled(slice_name, sharded=True)
    schedule = program.computations[program.entry]
    attention = next(
        index
        for index, each in enumerate(schedule)
        if re.search(r"transpose\(.*attention", each.scope) and each.opcode == "fusion"
    )
    arrived = [
        each.arrays[0].dims for each in schedule[:attention] if each.opcode == "all-to-all-done"
    ]
    # Of `down` and `up`, a sixteenth of the rows from each of 16 devices.
    expected = [(16, 512 // 16, 128), (16, 128 // 16, 512)]
    assert [dims for dims in arrived if dims in expected] == expected


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_the_compiler_knows_every_option(slice_name):
    mesh = make_mesh(MeshConfig(), devices(find_slice(slice_name)))
    assert compiler_options.__wrapped__(mesh).keys() == _TPU_OPTIONS.keys()


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_words_are_scored_at_masked_positions_only(slice_name):
    _, program, _ = compiled(slice_name)
    products = [
        array.elements
        for instructions in program.computations.values()
        for each in instructions
        if each.opcode == "convolution"
        for array in each.arrays
        if 1024 in array.dims and sorted(array.dims) != [128, 1024]  # the table's own gradient
    ]
    assert products
    assert max(products) <= ROWS * PREDICTIONS * 1024


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_no_scores_of_attention_are_kept_in_float32(slice_name):
    _, program, _ = compiled(slice_name)
    kept = [
        array.dtype
        for each in program.computations[program.entry]
        for array in each.arrays
        if array.dims.count(LENGTH) >= 2
        and len(array.dims) >= 4
        and 3 not in array.dims  # the kernel of query, key and value
    ]
    assert "bf16" in kept and "f32" not in kept


@pytest.mark.parametrize("slice_name", ["v4-32", "v5e-16"])
def test_memory_is_parameters_slots_and_what_a_step_needs(slice_name):
    found, program, where = compiled(slice_name)
    assert found.optimizer == pytest.approx(2 * found.parameters, rel=1e-3)
    assert 0 < found.temporary < where.hbm_bytes_per_device


@pytest.mark.soak
@pytest.mark.parametrize("slice_name", SLICES_OF_16)
def test_the_compiler_knows_every_slice(slice_name):
    found, program, where = compiled(slice_name)
    assert timeline(program, where).total > 0


@pytest.mark.soak
@pytest.mark.parametrize(
    ("slice_name", "sharded"), [("v4-32", True), ("v4-32", False), ("v5litepod-16", True)]
)
def test_a_few_layers_stand_for_all(monkeypatch, slice_name, sharded):
    """Deep models are extrapolated; this does with 3 and 6 layers what those do with 12 and 24."""
    config = load(pretrain.get_config("base").to_dict(), 30522)
    mesh = MeshConfig(shard_optimizer=sharded)
    config = with_layers(dataclasses.replace(config, mesh=mesh), 12)
    where, span = find_slice(slice_name), config.spans()[0]
    expected = estimate_step(config, span, where, CACHE, print)
    monkeypatch.setattr(estimate, "MOST_LAYERS", 6)
    monkeypatch.setattr(estimate, "FEW_LAYERS", (3, 6))
    found = estimate_step(config, span, where, CACHE, print)
    assert (expected.layers, found.layers) == ((12,), (3, 6))
    assert found.time.total == pytest.approx(expected.time.total, rel=0.05)
    assert found.memory.total >= 0.95 * expected.memory.total


@pytest.mark.soak
def test_the_calibration_is_up_to_date():
    mapping = pretrain.get_config("large,pod").to_dict()
    mapping["phases"] = {"long": {"length": 512, "batch_size": 448, "share": 1.0}}
    mapping["optimizer"]["name"] = "lamb"
    config = load(mapping, 30522)
    found = estimate_step(config, config.spans()[0], find_slice("v3-32"), CACHE, print)
    assert found.time.total == pytest.approx(ESTIMATED_SECONDS, rel=0.02)
    assert 0.5 < found.time.total / MEASURED_SECONDS < 2
