# SPDX-License-Identifier: Apache-2.0
"""The time of a step, added up from a scheduled program in the order in which a device runs it.

Every fusion carries the compiler's own estimate in cycles of the chip's clock; loops are counted as
often as they run. Copies between HBM and fast memory, and exchanges that the compiler starts and
awaits apart, go on beside the computation, one after the other on a channel each for the memory and
the links, and cost what is still missing where they are awaited. An exchange that a chain of
fusions drives goes on only beneath these. Any other exchange stops everything for as long as it
takes, those under way on the links included.

(XLA's `optimal_seconds` cannot be used: it counts a loop's body once and takes a second off for
every operation whose cost it does not know.)
"""

import collections
import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType

from bert_jax.plan.exchanges import exchanges
from bert_jax.plan.kinds import split
from bert_jax.plan.links import Collective, seconds
from bert_jax.plan.program import Instruction, Program
from bert_jax.plan.uncosted import uncosted_seconds
from bert_jax.slices import Slice

# Costless: names for what is there already, and scalars.
_FREE = {"after-all", "bitcast", "constant", "get-tuple-element", "parameter", "send", "tuple"}
SMALL_BYTES = 4096
BETWEEN = " between "  # in the name of an exchange that goes over the network, between slices


class Figures(collections.defaultdict[str, float]):
    """Numbers by name; 0 where nothing was added."""

    def __init__(self, figures: Mapping[str, float] = MappingProxyType({})) -> None:
        super().__init__(float, figures)


@dataclasses.dataclass
class Exchange:
    """All exchanges of one sort in a step; `exposed` is the time that nothing is computed under."""

    count: float = 0
    bytes: float = 0
    seconds: float = 0
    exposed: float = 0


@dataclasses.dataclass
class Timeline:
    """What a step takes.

    `seconds` by kind of operation (`kinds.KINDS`), `exchanges` by operation, type and number of
    devices, and in `uncosted` the seconds of operations that the compiler makes no estimate for.
    """

    seconds: Figures = dataclasses.field(default_factory=Figures)
    exchanges: dict[str, Exchange] = dataclasses.field(default_factory=dict)
    uncosted: Figures = dataclasses.field(default_factory=Figures)

    @property
    def total(self) -> float:
        """Seconds a step."""
        return sum(self.seconds.values())


def timeline(program: Program, where: Slice) -> Timeline:
    """Runs through a program once, on paper."""
    result = Timeline()
    _run(program, program.computations[program.entry], where, result, times=1)
    return result


@dataclasses.dataclass
class _UnderWay:
    """A copy, or an exchange, that was started; `left`: seconds of its channel that it needs."""

    left: float
    exchange: Collective | None = None
    chain: str = ""  # of fusions that drive it; none: it goes on by itself

    @property
    def channel(self) -> str:
        """What carries it."""
        if self.exchange is None:
            return "memory"
        return "network" if self.exchange.between else "links"


@dataclasses.dataclass
class _Device:
    """What a device does in one computation that it runs `times` times."""

    where: Slice
    result: Timeline
    times: int
    under_way: dict[str, _UnderWay] = dataclasses.field(default_factory=dict)

    def compute(self, parts: Mapping[str, float], driven: Collection[str] = ()) -> None:
        """Spends seconds, by kind of operation, during which what is under way goes on."""
        for kind, part in parts.items():
            self.result.seconds[kind] += part * self.times
        self.go_on(sum(parts.values()), driven)

    def go_on(self, spent: float, driven: Collection[str] = (), links: bool = True) -> None:
        """Brings what is under way on by a time; not what is on the links, if they are taken."""
        left = {"memory": spent, "links": spent if links else 0.0, "network": spent}
        for each in self.under_way.values():  # in the order in which they were started
            if not each.chain or each.chain in driven:
                done = min(each.left, left[each.channel])
                each.left -= done
                left[each.channel] -= done

    def exchange(self, exchange: Collective, exposed: float) -> None:
        """Stands still for an exchange that has the links to itself."""
        self.result.seconds["collectives"] += exposed * self.times
        self.go_on(exposed, links=False)
        self.note(exchange, exposed)

    def wait(self, name: str) -> None:
        """Stands still until what was started under a name is done, and what is ahead of it."""
        if name not in self.under_way:
            return
        awaited = self.under_way[name]
        waited = 0.0
        for each in self.under_way.values():
            ahead = each.channel == awaited.channel and not awaited.chain and not each.chain
            if each is awaited or ahead:
                waited += each.left
            if each is awaited:
                break
        kind = "collectives" if awaited.exchange else "copies"
        self.compute({kind: waited}, {awaited.chain})
        del self.under_way[name]
        if awaited.exchange:
            self.note(awaited.exchange, waited)

    def note(self, exchange: Collective, exposed: float) -> None:
        """Adds an exchange to the list."""
        number = exchange.devices
        among = f"{BETWEEN}{number} slices" if exchange.between else f" over {number}"
        name = f"{exchange.kind} {exchange.dtype}{among}"
        entry = self.result.exchanges.setdefault(name, Exchange())
        entry.count += self.times
        entry.bytes += exchange.bytes * self.times
        entry.seconds += seconds(exchange, self.where) * self.times
        entry.exposed += exposed * self.times


def _run(
    program: Program,
    instructions: list[Instruction],
    where: Slice,
    result: Timeline,
    times: int,
) -> None:
    """Adds `times` runs of a computation to `result`."""
    device = _Device(where, result, times)
    by_name = {each.name: each for each in instructions}
    for each in instructions:
        found = exchanges(program, each, where)
        if each.opcode in ("while", "call"):
            before = result.total
            trips = program.trips(each) if each.opcode == "while" else 1
            called = [each.attribute("body").lstrip("%")] if each.opcode == "while" else each.called
            for name in called:
                _run(program, program.computations[name], where, result, times * trips)
            device.go_on((result.total - before) / times)
        elif _starts(each):
            takes = seconds(found.whole, where) if found.whole else _copy_seconds(each, where)
            device.under_way[each.name] = _UnderWay(takes, found.whole)
        elif each.opcode.endswith("-done"):
            device.wait(_start(each, by_name))
        elif found.driven:
            for chain, started in found.started.items():
                device.under_way[chain] = _UnderWay(seconds(started, where), started, chain)
            if each.cycles is not None:
                device.compute(_parts(program, each, where), found.driven)
            for chain in found.awaited:
                device.wait(chain)
        elif found.whole:
            parts = _parts(program, each, where) if each.cycles is not None else {}
            device.compute(parts)
            takes = seconds(found.whole, where)
            device.exchange(found.whole, max(0.0, takes - sum(parts.values())))
        elif each.cycles is not None:
            device.compute(_parts(program, each, where))
        elif each.opcode not in _FREE and each.bytes > SMALL_BYTES:
            inner = program.within(each) if each.opcode == "fusion" else []
            given = [by_name[name] for name in each.operands]
            takes = uncosted_seconds(each, inner, given, where)
            if takes:
                result.uncosted[_verb(each)] += takes * times
            device.compute(split(program, each, takes, where))
    for name in list(device.under_way):  # awaited elsewhere, as in the next turn of a loop
        device.wait(name)


def _parts(program: Program, each: Instruction, where: Slice) -> dict[str, float]:
    return split(program, each, (each.cycles or 0) / where.chip.clock_hz, where)


def _start(done: Instruction, by_name: Mapping[str, Instruction]) -> str:
    """Name of the instruction that started what this one awaits."""
    name = done.operands[0]
    while (found := by_name.get(name)) and found.operands and not _starts(found):
        name = found.operands[0]
    return name


def _starts(each: Instruction) -> bool:
    return each.opcode.endswith("-start") or each.opcode == "recv"


def _verb(each: Instruction) -> str:
    """The operation, or the one behind a fusion, for people."""
    if each.opcode != "fusion":
        return each.opcode
    return each.scope.rsplit("/", 1)[-1] or each.name.rstrip(".0123456789")


def _copy_seconds(each: Instruction, where: Slice) -> float:
    """Of an asynchronous copy: what it brings or takes, over the bandwidth of HBM."""
    arrays = [array for array in each.arrays if array.dims]
    moved = min((array.bytes for array in arrays), default=0)
    return moved * where.chip.devices / where.chip.hbm_bandwidth
