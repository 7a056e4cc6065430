# SPDX-License-Identifier: Apache-2.0
"""How long a collective takes on the links of a slice.

The model is that of jax-ml/scaling-book (docs/performance.md, "On a pod"): the chip with the
fewest links (the corner of a slice that does not close to rings: one link an axis) receives
whatever a collective brings it, at the rate of its links together; every hop adds a microsecond.
Where libtpu writes that it sends along one ring through all chips, only two links count. An
all-to-all is held up by the links across the middle of the slice; among some of the chips (`fsdp`
below the whole) it is timed as if all took part, which is too long.
What libtpu sends between slices goes over the network, at each chip's share of its host's card.
"""

import dataclasses
import math
import re

from bert_jax.plan.program import Instruction
from bert_jax.slices import Slice

HOP_SECONDS = 1e-6
NETWORK_SECONDS = 20e-6
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange: `bytes` are of the whole array, before it is scattered or after gathering.

    `ring`: it travels along one ring, instead of along all axes of the torus at once. `between`: it
    is one between slices, and `devices` counts these.
    """

    kind: str
    bytes: int
    devices: int
    dtype: str
    ring: bool = False
    between: bool = False


def collective(kind: str, instruction: Instruction, devices: int) -> Collective:
    """What an instruction exchanges.

    Args:
        kind: one of `COLLECTIVES`.
        instruction: the collective itself, with its result and its groups.
        devices: of the whole run, for instructions without groups.
    """
    group = group_size(instruction, devices)
    arrays = instruction.arrays
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        arrays = tuple(array for array in arrays if array.dims)  # without what it is awaited by
        arrays = arrays[len(arrays) // 2 :]  # operands come first, results after them
    size = sum(array.bytes for array in arrays)
    if kind == "reduce-scatter":
        size *= group
    dtypes = {array.dtype for array in arrays if array.dims} or {a.dtype for a in arrays}
    return Collective(kind, size, group, "+".join(sorted(dtypes)), one_ring(instruction))


def one_ring(instruction: Instruction) -> bool:
    """Whether libtpu writes of an instruction that it sends along one ring.

    In a chain it names none, but counts a ring's steps. Of a fused reduce-scatter the fusion says
    it, and the collective inside does not.
    """
    written = instruction.attributes
    # A SparseCore goes round a ring of so many cores, or round one of each axis in turn.
    offloaded = '"ring_type"' in written and '"ring_dim"' not in written
    named = '"emitter":"1D' in written or '"strategy":"StrategyRing"' in written
    return offloaded or named or "chain_id=" in written


def group_size(instruction: Instruction, devices: int) -> int:
    """Devices that exchange with one another."""
    groups = instruction.attribute("replica_groups")
    if groups.startswith("mesh["):  # mesh['axis_0'=4,'axis_1'=4] {'axis_1'}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups))
        named = re.findall(r"'(\w+)'", groups.split("]", 1)[1])
        return math.prod(int(sizes[name]) for name in named)
    if found := re.match(r"\[(\d+),(\d+)\]<=", groups):  # [groups,members]<=[devices]
        return int(found.group(2))
    if found := re.match(r"\{\{([\d,]*)\}", groups):  # {{0,1},{2,3}}
        return len(found.group(1).split(","))
    return devices


def seconds(exchange: Collective, where: Slice) -> float:
    """Time that an exchange takes when nothing else is on the links."""
    if exchange.devices <= 1:
        return 0.0
    passes = 2 if exchange.kind == "all-reduce" else 1
    if exchange.between:
        share = (exchange.devices - 1) / exchange.devices
        size = share * exchange.bytes * where.chip.devices
        return passes * (size / where.chip.network_bandwidth + NETWORK_SECONDS)
    chips = max(1, -(-exchange.devices // where.chip.devices))
    links, hops = _links(where, chips)
    if exchange.ring and chips > 2:
        links, hops = 2, chips // 2
    share = (chips - 1) / chips
    if exchange.kind == "collective-permute":
        share, hops = 1.0, 1
    if exchange.kind == "all-to-all":
        # Half of what the chips of one half send crosses the middle of the longest axis.
        across = max(where.shape) / (8 if where.wrapped else 4)
        share, links = across * where.chip.devices, 1
    inside = share * exchange.bytes / (links * where.chip.link_bandwidth)
    return passes * (inside + hops * HOP_SECONDS)


def _links(where: Slice, chips: int) -> tuple[int, int]:
    """Links that the worst-placed of `chips` chips receives on, and hops across the group."""
    if chips <= 1:
        return 1, 0
    links, hops, left = 0, 0, chips
    for size in sorted(where.shape, reverse=True):
        if left <= 1 or size == 1:
            break
        links += 2 if where.wrapped and left >= size else 1
        hops += size // 2 if where.wrapped else size - 1
        left = -(-left // size)
    return links, hops
