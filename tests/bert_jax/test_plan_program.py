# SPDX-License-Identifier: Apache-2.0
"""Reading scheduled programs, and the time a device spends on them, against sums made by hand."""

import pytest

from bert_jax.plan.kinds import product_flops
from bert_jax.plan.program import Array, parse
from bert_jax.plan.timeline import timeline
from bert_jax.slices import find_slice
from tests.bert_jax.scheduled_program import HEADER, PROGRAM, with_entry

V4 = find_slice("v4-32")
CLOCK = 1.05e9


@pytest.fixture(scope="module")
def program():
    return parse(PROGRAM)


def entry(program, name):
    return next(each for each in program.computations[program.entry] if each.name == name)


def test_instructions_stand_in_the_order_of_the_schedule(program):
    names = [each.name for each in program.computations[program.entry]]
    assert names[:3] == ["param.1", "constant.1", "copy-start.1"]
    assert names[-1] == "copy.9"


def test_an_instruction_is_read_whole(program):
    reduce = entry(program, "all-reduce.1")
    assert reduce.arrays == (Array("f32", (1024, 128), False), Array("f32", (16,), False))
    assert reduce.operands == ("param.1", "param.1")
    assert reduce.attribute("replica_groups") == (
        "mesh['axis_0'=16,'axis_1'=1] {'axis_0','axis_1'}"
    )
    assert reduce.called == ("add.1",)
    assert reduce.scope == "jit(step)/transpose(jvp())/dot_general"
    assert reduce.cycles is None
    assert entry(program, "fusion.2").cycles == 2100
    assert entry(program, "copy-done.1").arrays[0].near


@pytest.mark.parametrize(
    ("dtype", "size"), [("f32", 4), ("bf16", 2), ("pred", 1), ("u8", 1), ("s4", 0.5), ("f8e4m3", 1)]
)
def test_bytes_of_arrays(dtype, size):
    assert Array(dtype, (3, 4), False).bytes == 12 * size


def test_a_loop_runs_as_often_as_its_condition_says(program):
    assert program.trips(entry(program, "while.1")) == 12
    text = PROGRAM.replace(
        "%compare.1 = pred", "%unused = s32[]{:T(128)} constant(7)\n  %compare.1 = pred"
    )
    unclear = parse(text)
    with pytest.raises(ValueError, match="no trip count in the condition of while.1"):
        unclear.trips(entry(unclear, "while.1"))


def test_text_that_is_no_scheduled_program_is_refused():
    with pytest.raises(ValueError, match="not scheduled"):
        parse("HloModule jit_step\n")
    with pytest.raises(ValueError, match="no ENTRY"):
        parse(HEADER + "\n")


def test_operations_of_products():
    text = PROGRAM.replace("window={size=1}", "window={size=1}")
    computation = parse(text).computations["fused_computation.1"]
    shapes = {each.name: each for each in computation}
    assert product_flops(shapes["convolution.1"], shapes) == 2 * 256 * 64 * 256
    # A batch axis of 2 as libtpu writes it: dilated, so that each window sees one element.
    text = PROGRAM.replace("[64,256]", "[2,64,256]").replace(
        "window={size=1}", "window={size=2 stride=1 pad=0_0 lhs_dilate=2}"
    )
    computation = parse(text).computations["fused_computation.1"]
    shapes = {each.name: each for each in computation}
    assert product_flops(shapes["convolution.1"], shapes) == 2 * 2 * 128 * 64 * 256


def test_the_time_of_a_step_adds_up(program):
    time = timeline(program, V4)
    product = 12 * 2 * 256 * 64 * 256 / 275e12
    assert time.seconds["matmul"] == pytest.approx(product)
    assert time.seconds["GELU"] == pytest.approx(12 * 10500 / CLOCK - product)
    assert time.seconds["optimizer"] == pytest.approx(2100 / CLOCK)
    # The prefetch of 0.5 MB is done long before it is awaited; the last copy is no prefetch.
    assert time.seconds["copies"] == pytest.approx(1050 / CLOCK)
    # Rows fetched from a table, which the compiler does not cost: 100 cycles and a tile each.
    rows = 2048 * (100 / CLOCK + 8 * 128 * 4 / 1200e9)
    assert time.seconds["embeddings"] == pytest.approx(rows)
    assert time.uncosted == {"gather": pytest.approx(rows)}
    assert time.seconds["other"] == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Written to HBM, and kept near.
        ("u32[16,128,768]{2,1,0}", (800 + 2 * 1536) / CLOCK + 4 * 1536 * 1024 / 1200e9),
        ("u32[16,128,768]{2,1,0:T(8,128)S(3)}", (800 + 2 * 1536) / CLOCK),
    ],
)
def test_random_bits_of_the_hardware_take_two_cycles_a_vector(line, expected):
    bits = f"%rng-bit-generator.1 = {line} rng-bit-generator(%param.4), algorithm=rng_default"
    time = timeline(parse(with_entry(bits)), V4)
    assert time.uncosted == {"rng-bit-generator": pytest.approx(expected)}
    assert time.total == pytest.approx(expected)


def test_rows_added_into_a_table_move_whole_tiles_both_ways():
    scatter = (
        "%scatter_fusion = f32[30592,768]{1,0:T(8,128)} fusion(%param.3, %param.4, %param.5), "
        "kind=kCustom, calls=%fused_computation.4, "
        'metadata={op_name="jit(step)/transpose(jvp(embeddings))/scatter-add"}'
    )
    row = 100 / CLOCK + 2 * 8 * 768 * 4 / 1200e9
    time = timeline(parse(with_entry(scatter)), V4)
    assert time.uncosted == {"scatter-add": pytest.approx(2048 * row)}
    near = timeline(parse(with_entry(scatter.replace("(8,128)}", "(8,128)S(3)}"))), V4)
    assert near.total == pytest.approx(2048 * 100 / CLOCK)
    assert time.seconds["embeddings"] == time.total
