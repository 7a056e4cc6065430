# SPDX-License-Identifier: Apache-2.0
"""Reading scheduled programs, and the time a device spends on them, against sums made by hand."""

import pytest

from bert_jax.plan.kinds import product_flops
from bert_jax.plan.links import Collective, seconds
from bert_jax.plan.program import Array, parse
from bert_jax.plan.timeline import timeline
from bert_jax.slices import find_slice
from tests.bert_jax.scheduled_program import HEADER, PROGRAM

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
    # Rows fetched from a table: not costed by the compiler, read once and written once.
    assert time.seconds["embeddings"] == pytest.approx(2 * 2048 * 768 * 4 / 1200e9)
    assert time.uncosted == {"gather": 1}
    assert time.seconds["other"] == 0


def test_exchanges_are_told_apart_and_timed(program):
    time = timeline(program, V4)
    whole = 1024 * 128
    assert set(time.exchanges) == {
        "all-reduce f32 over 16",
        "reduce-scatter bf16 over 16",
        "all-gather f32 over 16",
    }
    reduce = time.exchanges["all-reduce f32 over 16"]
    assert (reduce.count, reduce.bytes) == (1, 4 * (whole + 16))
    # Nothing runs beside an exchange that is not started and awaited apart.
    assert reduce.exposed == reduce.seconds
    assert time.exchanges["reduce-scatter bf16 over 16"].bytes == 2 * whole
    gather = time.exchanges["all-gather f32 over 16"]
    assert gather.bytes == 4 * whole
    assert gather.exposed == pytest.approx(gather.seconds - 2100 / CLOCK)
    assert time.seconds["collectives"] == pytest.approx(
        sum(each.exposed for each in time.exchanges.values())
    )


# Reduce-scatter of bfloat16 gradients plus all-gather of bfloat16 weights of BERT-base, worked out
# by hand: 2 x 220 MB x 15/16 over the corner chip's links, and two microseconds a hop.
@pytest.mark.parametrize(
    ("name", "links", "rate", "hops"),
    [("v3-32", 2, 82e9, 6), ("v4-32", 3, 45e9, 5), ("v5e-16", 2, 45e9, 6), ("v6e-16", 2, 90e9, 6)],
)
def test_the_corner_chip_bounds_an_exchange(name, links, rate, hops):
    where = find_slice(name)
    size = 2 * 110_000_000
    exchange = Collective("all-reduce", size, where.devices, "bf16")
    expected = 2 * size * 15 / 16 / (links * rate) + 2 * hops * 1e-6
    assert seconds(exchange, where) == pytest.approx(expected)
    halves = [
        seconds(Collective(kind, size, where.devices, "bf16"), where)
        for kind in ("reduce-scatter", "all-gather")
    ]
    assert sum(halves) == pytest.approx(expected)


def test_rings_have_twice_the_links():
    large = find_slice("v4-128")
    size = 10**9
    exchange = Collective("all-gather", size, 64, "f32")
    assert seconds(exchange, large) == pytest.approx(size * 63 / 64 / (6 * 45e9), rel=0.01)


def test_between_slices_the_network_counts():
    one, two = find_slice("v4-32"), find_slice("v4-32", count=2)
    size = 4 * 10**8
    inside = seconds(Collective("all-reduce", size, 16, "f32"), two)
    assert inside == seconds(Collective("all-reduce", size, 16, "f32"), one)
    across = seconds(Collective("all-reduce", size, 32, "f32"), two)
    assert across - inside == pytest.approx(2 * size / 16 / 2 / 6.2e9, rel=0.01)


def test_an_exchange_with_oneself_is_none():
    assert seconds(Collective("all-reduce", 10**9, 1, "f32"), V4) == 0
