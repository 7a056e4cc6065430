# SPDX-License-Identifier: Apache-2.0
"""The collectives of a scheduled program: which instructions start, drive, await or are one.

libtpu writes an exchange in one of six ways: as it is; between `-start` and `-done`; as a fusion
that holds nothing else (a reduce-scatter is a fused all-reduce whose slice is kept); as a chain of
fusions, a start, computations that move it on as they run, and a done (v5e and later), each of
which repeats the collective with the chain's number; as a computation that another unit of the
chip, its SparseCore, is called for and that is awaited later (TPU7x); or, between slices, as a pair
of `send` and `recv` that the hosts carry out, of which the second is counted.
"""

import dataclasses
import re
from collections.abc import Iterable

from bert_jax.plan.links import COLLECTIVES, Collective, collective, one_ring
from bert_jax.plan.program import Instruction, Program
from bert_jax.slices import Slice


@dataclasses.dataclass(frozen=True)
class Exchanges:
    """What an instruction has to do with collectives.

    `whole` is an exchange that takes place in it; `started` and `awaited` are those whose chain
    begins or ends in it, by number of the chain; `driven` are chains that it moves on.
    """

    whole: Collective | None = None
    started: dict[str, Collective] = dataclasses.field(default_factory=dict)
    driven: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()


def exchanges(program: Program, each: Instruction, where: Slice) -> Exchanges:
    """The collectives in an instruction, be they bare, started, or inside of a fusion."""
    opcode = each.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        return Exchanges(collective(opcode, each, where.devices))
    if each.opcode == "recv":
        return Exchanges(_between(each, where))
    if each.opcode not in ("fusion", "async-start", "call-start"):
        return Exchanges()
    inner = program.within(each)
    found = [one for one in inner if one.opcode.removesuffix("-start") in COLLECTIVES]
    chained = {one.name: _chain(one) for one in found if _chain(one)}
    if not chained:
        return Exchanges(_read(found[0], inner, each, where) if found else None)
    starts = _operands(inner, "AsyncCollectiveStart")
    dones = _operands(inner, "AsyncCollectiveDone")
    return Exchanges(
        started={
            chained[one.name]: _read(one, inner, each, where)
            for one in found
            if one.name in chained and one.name in starts
        },
        driven=frozenset(chained.values()),
        awaited=frozenset(chain for name, chain in chained.items() if name in dones),
    )


def _read(
    found: Instruction, inner: Iterable[Instruction], outer: Instruction, where: Slice
) -> Collective:
    """The collective `found` among the instructions `inner` of what `outer` calls."""
    kind = found.opcode.removesuffix("-start")
    result = collective(kind, found, where.devices)
    if one_ring(outer):
        result = dataclasses.replace(result, ring=True)
    if kind == "all-reduce" and any(one.opcode == "dynamic-slice" for one in inner):
        return dataclasses.replace(result, kind="reduce-scatter")
    return result


def _between(each: Instruction, where: Slice) -> Collective:
    """What this device has its host exchange with those of other slices."""
    named = re.search(r'_xla_megascale_transfer_type="(\w+)"', each.attributes)
    kind = named.group(1).lower().replace("_", "-") if named else "transfer"
    size = each.arrays[0].bytes * (where.count if kind == "reduce-scatter" else 1)
    return Collective(kind, size, where.count, each.arrays[0].dtype, between=True)


def _chain(instruction: Instruction) -> str:
    found = re.search(r'chain_id="(\w+)"', instruction.attribute("frontend_attributes"))
    return found.group(1) if found else ""


def _operands(inner: Iterable[Instruction], target: str) -> set[str]:
    """Names of what custom calls of this target are given."""
    return {
        name
        for one in inner
        if one.opcode == "custom-call" and f'"{target}"' in one.attributes
        for name in one.operands
    }
