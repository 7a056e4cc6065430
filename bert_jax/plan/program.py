# SPDX-License-Identifier: Apache-2.0
"""A compiled program as data: the scheduled HLO text of libtpu, parsed as far as `plan` needs it.

Instructions stand in the order in which a device runs them. The text format is that of
`jax.stages.Compiled.as_text()` (XLA's `HloPrintOptions`, libtpu 0.0.42 and newer).
"""

import dataclasses
import functools
import math
import re

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128, "token": 0}
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result; `near` when it lives in fast memory, not in HBM."""

    dtype: str
    dims: tuple[int, ...]
    near: bool

    @property
    def elements(self) -> int:
        """Values in the array."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size without the padding of the device's tiles."""
        bits = _DTYPE_BITS.get(self.dtype) or int(re.sub(r"\D", "", self.dtype[:3]) or 0)
        return self.elements * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str

    @property
    def bytes(self) -> int:
        """Bytes of the result, all arrays of a tuple together."""
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate, None where it makes none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found.group(1)) if found else None

    @functools.cached_property
    def scope(self) -> str:
        """The path of JAX's names to the operation that this instruction came from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        return tuple(_CALLED.findall(self.attributes))

    def attribute(self, name: str) -> str:
        """The text after `name=` up to the next comma outside of brackets, or nothing."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if found is None:
            return ""
        return _balanced(self.attributes, found.end(), ",")


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name; `entry` is the one that a step runs."""

    entry: str
    computations: dict[str, list[Instruction]]

    def within(self, instruction: Instruction) -> list[Instruction]:
        """The instructions of a fusion, those of computations called in it included."""
        inner = []
        for name in instruction.called:
            for each in self.computations.get(name, []):
                inner.append(each)
                inner.extend(self.within(each))
        return inner

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs.

        Raises:
            ValueError: the bound is not a constant of the program.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        condition = self.computations[loop.attribute("condition").lstrip("%")]
        bounds = {
            each.operands[0]
            for each in condition
            if each.opcode == "constant" and each.arrays[0].dtype in ("s32", "u32")
        }
        if len(bounds) != 1:
            raise ValueError(f"no trip count in the condition of {loop.name}: {sorted(bounds)}")
        return int(bounds.pop())


def parse(text: str) -> Program:
    """Reads the text of a compiled module.

    Raises:
        ValueError: the text has no entry computation, or is not scheduled.
    """
    if "is_scheduled=true" not in text[: text.find("\n")]:
        raise ValueError("the program is not scheduled: its instructions are in no order of time")
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.split("\n"):
        if line.startswith("  ") and " = " in line:
            computations[current].append(_instruction(line))
        elif found := _COMPUTATION.match(line):
            current = found.group(2)
            computations[current] = []
            entry = current if found.group(1) else entry
    if not entry:
        raise ValueError("the program has no ENTRY computation")
    return Program(entry, computations)


def _instruction(line: str) -> Instruction:
    name, rest = re.sub(r"/\*.*?\*/", "", line.strip()).removeprefix("ROOT ").split(" = ", 1)
    shape = _balanced(rest, 0, " ")
    rest = rest[len(shape) + 1 :]
    opcode, rest = rest.split("(", 1)
    arguments = _balanced(rest, 0, ")")
    return Instruction(
        name=name.lstrip("%"),
        opcode=opcode,
        arrays=tuple(
            Array(
                dtype=found.group(1),
                dims=tuple(int(n) for n in found.group(2).split(",") if n),
                near="S(" in (found.group(3) or ""),
            )
            for found in _ARRAY.finditer(shape)
        ),
        operands=tuple(part.strip().lstrip("%") for part in arguments.split(",") if part.strip()),
        attributes=rest[len(arguments) + 1 :].lstrip(", "),
    )


def _balanced(text: str, start: int, stop: str) -> str:
    """`text` from `start` up to the first `stop` that is in no bracket opened after `start`."""
    depth = 0
    for position in range(start, len(text)):
        character = text[position]
        if depth == 0 and character == stop:
            return text[start:position]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
    return text[start:]
