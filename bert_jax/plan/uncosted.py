# SPDX-License-Identifier: Apache-2.0
"""Seconds of operations that the compiler makes no estimate for.

As a rule the time of moving their bytes. Random bits and rows of tables are counted in the bundles
(instructions of one cycle) that libtpu 0.0.42 makes of them, seen with `--xla_jf_dump_llo_text` for
v3 to v6e: 800 to set up random bits (140 from v5e on) and 2 for each 1,024 words; 85 to 160 for a
row that is added into a table, or fetched from one in HBM, with the whole tile of 8 rows around it
moved each way; 6 for a row of a table in fast memory.
"""

import math

from bert_jax.plan.program import Instruction
from bert_jax.slices import Slice

_RANDOM_SETUP_CYCLES = 800
_RANDOM_CYCLES_PER_WORD = 2 / 1024
_ROW_CYCLES = 100
_NEAR_ROW_CYCLES = 6
# Eight rows of 32-bit or sixteen of 16-bit values, at least 128 of them wide.
_TILE_BYTES_PER_COLUMN, _LANES = 32, 128


def uncosted_seconds(
    each: Instruction, inner: list[Instruction], operands: list[Instruction], where: Slice
) -> float:
    """How long an operation without an estimate takes.

    Args:
        each: the operation.
        inner: the instructions in it, if it is a fusion, else none.
        operands: the instructions that it is given the results of.
        where: the slice.
    """
    cycles, moved = 0.0, 2 * each.bytes  # read once and written once
    rows = next((one for one in inner if one.opcode in ("gather", "scatter")), None)
    if each.opcode == "custom-call":
        moved = 0  # buffers given other names, or allocated
    elif each.opcode == "rng-bit-generator":
        moved = sum(array.bytes for array in each.arrays if not array.near)
        words = each.bytes / 4
        cycles = _RANDOM_SETUP_CYCLES + _RANDOM_CYCLES_PER_WORD * words
    elif each.opcode == "dynamic-update-slice":
        moved = 2 * operands[1].bytes  # in place
    elif rows:
        number, columns = _rows(rows, inner)
        table = max(operands, key=lambda one: one.bytes) if rows.opcode == "gather" else each
        near = any(array.near for array in table.arrays)
        cycles = number * (_NEAR_ROW_CYCLES if near and rows.opcode == "gather" else _ROW_CYCLES)
        tiles = number * _TILE_BYTES_PER_COLUMN * max(_LANES, columns)
        ways = 2 if rows.opcode == "scatter" else 1
        moved = 0 if near else ways * tiles
    computing = cycles / where.chip.clock_hz
    return computing + moved * where.chip.devices / where.chip.hbm_bandwidth


def _rows(found: Instruction, inner: list[Instruction]) -> tuple[int, int]:
    """How many rows a gather or scatter moves, and their length."""
    if found.opcode == "gather":
        columns = math.prod(_numbers(found.attribute("slice_sizes")))
        return found.arrays[0].elements // columns, columns
    updates = next(one.arrays[0] for one in inner if one.name == found.operands[2])
    columns = math.prod(
        updates.dims[axis] for axis in _numbers(found.attribute("update_window_dims"))
    )
    return updates.elements // columns, columns


def _numbers(braces: str) -> list[int]:
    """The numbers of {1,768}."""
    return [int(number) for number in braces.strip("{}").split(",") if number]
