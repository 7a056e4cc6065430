# SPDX-License-Identifier: Apache-2.0
"""The time of a step, added up from a scheduled program in the order in which a device runs it.

Every fusion carries the compiler's own estimate in cycles of the chip's clock; loops are counted as
often as they run. Copies between HBM and fast memory, and collectives that the compiler starts and
awaits apart, run beside the computation on channels of their own and cost what is still missing
where they are awaited. Collectives without such a pair stop everything for as long as they take.

(XLA's `optimal_seconds` cannot be used: it counts a loop's body once and takes a second off for
every operation whose cost it does not know.)
"""

import collections
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from bert_jax.plan.kinds import split
from bert_jax.plan.links import KINDS, Collective, collective, seconds
from bert_jax.plan.program import Instruction, Program
from bert_jax.slices import Slice

# Costless: names for what is there already, and scalars.
_FREE = {"after-all", "bitcast", "constant", "get-tuple-element", "parameter", "tuple"}
SMALL_BYTES = 4096


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
    devices, and in `uncosted` the operations that the compiler makes no estimate for, whose time
    is set to that of moving their bytes.
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


def _run(
    program: Program,
    instructions: list[Instruction],
    where: Slice,
    result: Timeline,
    times: int,
) -> None:
    """Adds `times` runs of a computation to `result`."""
    clock = 0.0
    channels: dict[str, float] = {}  # when the memory's and the links' channels are free again
    pending: dict[str, tuple[float, Collective | None]] = {}

    by_name = {each.name: each for each in instructions}

    def advance(kind: str, by: float) -> None:
        nonlocal clock
        clock += by
        result.seconds[kind] += by * times

    for each in instructions:
        if each.opcode == "while":
            body = program.computations[each.attribute("body").lstrip("%")]
            before = result.total
            _run(program, body, where, result, times * program.trips(each))
            clock += (result.total - before) / times
        elif each.opcode in ("call", "conditional"):
            for name in each.called:
                _run(program, program.computations[name], where, result, times)
        elif each.opcode.endswith("-start"):
            exchange = _exchange(program, each, where)
            channel = "links" if exchange else "memory"
            takes = seconds(exchange, where) if exchange else _copy_seconds(each, where)
            channels[channel] = max(clock, channels.get(channel, 0.0)) + takes
            pending[each.name] = channels[channel], exchange
        elif each.opcode.endswith("-done"):
            finished, exchange = pending.pop(each.operands[0], (clock, None))
            waited = max(0.0, finished - clock)
            advance("collectives" if exchange else "copies", waited)
            if exchange:
                _note(result, exchange, where, waited, times)
        elif exchange := _exchange(program, each, where):
            computing = (each.cycles or 0) / where.chip.clock_hz
            exposed = max(0.0, seconds(exchange, where) - computing)
            for kind, part in split(program, each, computing, where).items():
                advance(kind, part)
            advance("collectives", exposed)
            _note(result, exchange, where, exposed, times)
        elif each.cycles is not None:
            takes = each.cycles / where.chip.clock_hz
            for kind, part in split(program, each, takes, where).items():
                advance(kind, part)
        elif each.opcode not in _FREE and each.bytes > SMALL_BYTES:
            touched = _touched_bytes(each, [by_name[name] for name in each.operands])
            if touched:
                result.uncosted[_verb(each)] += times
            # Read once and written once.
            takes = 2 * touched * where.chip.devices / where.chip.hbm_bandwidth
            for kind, part in split(program, each, takes, where).items():
                advance(kind, part)


def _exchange(program: Program, each: Instruction, where: Slice) -> Collective | None:
    """The collective in an instruction, be it bare, started, or inside of a fusion."""
    opcode = each.opcode.removesuffix("-start")
    if opcode in KINDS:
        return collective(opcode, each, where.devices)
    if each.opcode not in ("fusion", "async-start"):
        return None
    inner = program.within(each)
    for instruction in inner:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            found = collective(kind, instruction, where.devices)
            # On TPUs a reduce-scatter is a fusion of an all-reduce with the slice that is kept.
            if kind == "all-reduce" and any(i.opcode == "dynamic-slice" for i in inner):
                return dataclasses.replace(found, kind="reduce-scatter")
            return found
    return None


def _note(result: Timeline, exchange: Collective, where: Slice, exposed: float, times: int) -> None:
    name = f"{exchange.kind} {exchange.dtype} over {exchange.devices}"
    entry = result.exchanges.setdefault(name, Exchange())
    entry.count += times
    entry.bytes += exchange.bytes * times
    entry.seconds += seconds(exchange, where) * times
    entry.exposed += exposed * times


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


def _touched_bytes(each: Instruction, operands: list[Instruction]) -> int:
    """What an operation writes that the compiler does not cost.

    Rows put into an array in place touch themselves, not the whole array.
    """
    if each.opcode == "custom-call":
        return 0  # buffers given other names, or allocated
    if each.opcode == "dynamic-update-slice":
        return operands[1].bytes
    if "scatter" in each.scope:
        sizes = sorted(operand.bytes for operand in operands)
        return sum(sizes[:-1])
    return each.bytes
