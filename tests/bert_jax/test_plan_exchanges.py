# SPDX-License-Identifier: Apache-2.0
"""Exchanges of scheduled programs: what they are, how long they take, what computation hides."""

import collections
import itertools

import numpy as np
import pytest

from bert_jax.plan.links import Collective, seconds
from bert_jax.plan.program import parse
from bert_jax.plan.timeline import timeline
from bert_jax.slices import find_slice
from tests.bert_jax.scheduled_program import CHAIN, PROGRAM, with_entry

V4 = find_slice("v4-32")
CLOCK = 1.05e9


@pytest.fixture(scope="module")
def program():
    return parse(PROGRAM)


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


def test_a_chain_of_fusions_is_one_exchange_that_only_these_fusions_hide():
    where = find_slice("v5e-16")
    time = timeline(parse(CHAIN), where)
    (name, gather), *others = time.exchanges.items()
    assert (name, others) == ("all-gather bf16 over 16", [])
    assert (gather.count, gather.bytes) == (1, 2 * 1024**2)
    ring = Collective("all-gather", 2 * 1024**2, 16, "bf16", ring=True)
    assert gather.seconds == seconds(ring, where)
    product = 38748 / 1.5e9
    assert time.seconds["matmul"] == pytest.approx(product)
    assert time.seconds["optimizer"] == pytest.approx(15000 / 1.5e9)
    # The product is over before the gather is; what stands behind it does not drive it on.
    assert gather.exposed == pytest.approx(gather.seconds - product)
    assert time.seconds["collectives"] == gather.exposed
    longer = timeline(parse(CHAIN.replace("38748", "387480")), where)
    assert longer.exchanges[name].exposed == 0


# The stand-in for computation takes 50 us; the exchanges take longer, all of them.
SCATTER = seconds(Collective("reduce-scatter", 2 * 4096 * 1024, 16, "bf16"), V4)
REDUCE = seconds(Collective("all-reduce", 2 * 4096 * 1024, 16, "bf16"), V4)
PERMUTE = seconds(Collective("collective-permute", 2 * 4096 * 1024, 16, "bf16"), V4)
START_SCATTER = (
    "%async-start.1 = ((bf16[4096,1024]{1,0}), bf16[256,1024]{1,0}, u32[]{:S(2)}) "
    "async-start(%param.2), calls=%async_computation.1"
)
END_SCATTER = "%async-done.1 = bf16[256,1024]{1,0} async-done(%async-start.1)"
START_PERMUTE = (
    "%collective-permute-start.{0} = "
    "(bf16[4096,1024]{{1,0}}, bf16[4096,1024]{{1,0}}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) "
    "collective-permute-start(%param.2), source_target_pairs={{{{0,1}},{{1,0}}}}"
)
END_PERMUTE = (
    "%collective-permute-done.{0} = bf16[4096,1024]{{1,0}} "
    "collective-permute-done(%collective-permute-start.{0})"
)
REDUCE_AT_ONCE = (
    "%all-reduce.1 = bf16[4096,1024]{1,0} all-reduce(%param.2), replica_groups=[1,16]<=[16], "
    "to_apply=%add.1"
)
PART = "%get-tuple-element.1 = bf16[256,1024]{1,0} get-tuple-element(%async-start.1), index=1"
COMPUTED = 52_500 / CLOCK


@pytest.mark.parametrize(
    ("lines", "exposed"),
    [
        # Awaited at once, and after a computation.
        ((START_SCATTER, END_SCATTER), SCATTER),
        ((START_SCATTER, "compute(1)", END_SCATTER), SCATTER - COMPUTED),
        ((START_SCATTER, *(f"compute({n})" for n in range(9)), END_SCATTER), 0),
        # Awaited by another name, or by nothing here.
        ((START_SCATTER, PART, END_SCATTER.replace("async-start", "get-tuple-element")), SCATTER),
        ((START_SCATTER, "compute(1)"), SCATTER - COMPUTED),
        # A ring: one travels while the next is computed.
        (
            (START_PERMUTE.format(1), "compute(1)", END_PERMUTE.format(1))
            + (START_PERMUTE.format(2), "compute(2)", END_PERMUTE.format(2)),
            2 * (PERMUTE - COMPUTED),
        ),
        # Two on the same links take turns; what holds up everything lets nothing by.
        (
            (START_PERMUTE.format(1), START_SCATTER, "compute(1)")
            + (END_PERMUTE.format(1), END_SCATTER),
            PERMUTE + SCATTER - COMPUTED,
        ),
        ((START_SCATTER, REDUCE_AT_ONCE, "compute(1)", END_SCATTER), REDUCE + SCATTER - COMPUTED),
    ],
)  # fmt: skip
def test_what_computation_does_not_hide_of_an_exchange_is_exposed(lines, exposed):
    assert min(SCATTER, REDUCE, PERMUTE) > COMPUTED
    time = timeline(parse(with_entry(*lines)), V4)
    assert time.seconds["collectives"] == pytest.approx(exposed, abs=1e-12)
    assert sum(each.exposed for each in time.exchanges.values()) == pytest.approx(
        exposed, abs=1e-12
    )
    assert time.seconds["copies"] == 0
    if START_SCATTER in lines:
        scatter = time.exchanges["reduce-scatter bf16 over 16"]
        assert (scatter.count, scatter.bytes) == (1, 2 * 4096 * 1024)


def test_what_a_sparse_core_is_called_for_is_an_exchange_beside_computation():
    start = (
        "%all-gather.66.call-start = ((bf16[256,1024]{1,0}, token[]), bf16[4096,1024]{1,0}) "
        'call-start(%param.2, %param.3), async_execution_thread="sparsecore", '
        "to_apply=%called_computation.5"
    )
    done = "%all-gather.66.call-done = bf16[4096,1024]{1,0} call-done(%all-gather.66.call-start)"
    time = timeline(parse(with_entry(start, "compute(1)", done)), V4)
    ((name, gather),) = time.exchanges.items()
    assert (name, gather.count, gather.bytes) == ("all-gather bf16 over 16", 1, 2 * 4096 * 1024)
    ring = Collective("all-gather", 2 * 4096 * 1024, 16, "bf16", ring=True)
    assert gather.seconds == seconds(ring, V4)
    assert gather.exposed == pytest.approx(gather.seconds - COMPUTED)
    assert time.seconds["collectives"] == gather.exposed


def test_a_prefetch_goes_on_while_an_exchange_holds_everything_up():
    start = (
        "%copy-start.1 = (f32[1024,128]{1,0:S(3)}, f32[1024,128]{1,0}, u32[]{:S(2)}) "
        "copy-start(%param.1)"
    )
    done = "%copy-done.1 = f32[1024,128]{1,0:S(3)} copy-done(%copy-start.1)"
    at_once = timeline(parse(with_entry(start, done)), V4)
    assert at_once.seconds["copies"] == pytest.approx(4 * 1024 * 128 / 1200e9)
    beside = timeline(parse(with_entry(start, REDUCE_AT_ONCE, done)), V4)
    assert beside.seconds["copies"] == 0


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


@pytest.mark.parametrize("name", ["v3-32", "v4-32", "v5e-16"])
def test_the_busiest_link_bounds_what_everyone_sends_everyone(name):
    """Every message on its way, along one axis of the slice after the other."""
    where = find_slice(name)
    carried = collections.Counter()
    chips = list(np.ndindex(where.shape))
    for sender, receiver in itertools.permutations(chips * where.chip.devices, 2):
        at = list(sender)
        for axis, end in enumerate(receiver):
            while at[axis] != end:
                step = 1 if end > at[axis] else -1
                carried[tuple(at), axis, step] += 1
                at[axis] += step
    size = 10**9
    expected = max(carried.values()) * size / where.devices / where.chip.link_bandwidth
    found = seconds(Collective("all-to-all", size, where.devices, "bf16"), where)
    assert found == pytest.approx(expected, rel=0.001)


def test_one_ring_through_all_chips_uses_two_links():
    size = 10**9
    ring = seconds(Collective("all-gather", size, 16, "bf16", ring=True), V4)
    assert ring == pytest.approx(size * 15 / 16 / (2 * 45e9) + 8e-6)
    gather = "%all-gather.1 = f32[1024,128]{1,0} all-gather(%param.1), replica_groups=[1,16]<=[16]"
    config = ', backend_config={"collective_algorithm_config":{"emitter":"1DAllGatherNonMajorDim"}}'
    size = 4 * 1024 * 128
    for line, one_ring in ((gather, False), (gather + config, True)):
        (found,) = timeline(parse(with_entry(line)), V4).exchanges.values()
        expected = Collective("all-gather", size, 16, "f32", ring=one_ring)
        assert found.seconds == seconds(expected, V4)


def test_a_fused_reduce_scatter_goes_the_way_that_its_fusion_names():
    size = 2 * 4096 * 1024
    fusion = (
        "%fusion.7 = bf16[256,1024]{{1,0}} fusion(%param.2), kind=kCustom, "
        "calls=%all-reduce-scatter.2, "
        'backend_config={{"collective_algorithm_config":{{'
        '"emitter":"SingleInputAllReduceScatterFusion","strategy":"{}"}}}}'
    )
    for strategy, ring in (("StrategyRing", True), ("StrategySubgroupND", False)):
        time = timeline(parse(with_entry(fusion.format(strategy))), V4)
        ((name, found),) = time.exchanges.items()
        assert (name, found.bytes) == ("reduce-scatter bf16 over 16", size)
        expected = Collective("reduce-scatter", size, 16, "bf16", ring=ring)
        assert found.seconds == seconds(expected, V4)


def test_closed_axes_have_twice_the_links():
    large = find_slice("v4-128")
    size = 10**9
    exchange = Collective("all-gather", size, 64, "f32")
    assert seconds(exchange, large) == pytest.approx(size * 63 / 64 / (6 * 45e9), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "passes", "share"),
    [("all-reduce", 2, 1), ("all-gather", 1, 1 / 2), ("reduce-scatter", 1, 1)],
)
def test_what_the_hosts_send_between_slices_takes_the_network(kind, passes, share):
    two = find_slice("v4-32", count=2)
    shape = "(f32[256,8,128]{2,1,0:T(8,128)}, u32[], token[])"
    written = kind.upper().replace("-", "_")
    started = (
        "%after-all.1 = token[] after-all()",
        f"%recv.1 = {shape} recv(%after-all.1), channel_id=2, is_host_transfer=true, "
        f'frontend_attributes={{_xla_megascale_transfer_type="{written}"}}',
        f"%send.1 = {shape} send(%param.1, %after-all.1), channel_id=3, is_host_transfer=true",
    )
    done = (
        "%send-done.1 = token[] send-done(%send.1), channel_id=3",
        "%recv-done.1 = (f32[256,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv.1)",
    )
    time = timeline(parse(with_entry(*started, "compute(1)", *done)), two)
    ((name, found),) = time.exchanges.items()
    assert name == f"{kind} f32 between 2 slices"
    # All of it goes out and comes back summed; or half of it is there already.
    assert found.seconds == pytest.approx(share * 2**20 / 6.2e9 + passes * 20e-6)
    assert found.exposed == pytest.approx(found.seconds - COMPUTED)
    assert time.total == pytest.approx(found.seconds)
    assert not time.uncosted
    # The links are free meanwhile, and busy ones do not hold up the network.
    beside = timeline(parse(with_entry(*started, REDUCE_AT_ONCE, *done)), two)
    assert beside.seconds["collectives"] == pytest.approx(max(REDUCE, found.seconds))


def test_an_exchange_with_oneself_is_none():
    assert seconds(Collective("all-reduce", 10**9, 1, "f32"), V4) == 0
