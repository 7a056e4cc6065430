# SPDX-License-Identifier: Apache-2.0
"""What an instruction of a compiled program is for: matrix products, GELU, dropout, the optimiser.

The model names its parts with `jax.named_scope`; the names travel with every operation into the
compiled program, backward pass included. A fusion of a product with other work is split: the
product gets the time it takes at the chip's peak, the rest goes to the heaviest other work in it.
"""

import collections
import math
import re

from bert_jax.plan import links
from bert_jax.plan.program import Instruction, Program
from bert_jax.slices import Slice

# Name of a scope in the program -> kind in the report. The innermost one counts.
SCOPES = {
    "gelu": "GELU",
    "layer_norm": "LayerNorm",
    "softmax": "softmax",
    "dropout": "dropout",
    "attention": "attention",
    "loss": "loss",
    "embeddings": "embeddings",
    "optimizer": "optimizer",
}
KINDS = ("matmul", *SCOPES.values(), "copies", "collectives", "other")
_SCOPE = re.compile(rf"(?<![A-Za-z_])({'|'.join(SCOPES)})(?![A-Za-z_])")
_PRODUCTS = {"convolution", "dot"}
# Rough operations of the vector unit an element; what is not listed counts 1, what moves 0.
_WEIGHTS = {"erf": 20, "exponential": 8, "log": 8, "tanh": 8, "divide": 8, "rsqrt": 4, "sqrt": 4}
_MOVES = {
    *links.COLLECTIVES,
    "bitcast",
    "broadcast",
    "concatenate",
    "constant",
    "copy",
    "dynamic-slice",
    "dynamic-update-slice",
    "fusion",
    "gather",
    "get-tuple-element",
    "iota",
    "pad",
    "parameter",
    "reshape",
    "scatter",
    "slice",
    "transpose",
    "tuple",
}


def split(
    program: Program, instruction: Instruction, seconds: float, where: Slice
) -> dict[str, float]:
    """`seconds` of an instruction by kind of operation."""
    inner = program.within(instruction) if instruction.opcode == "fusion" else [instruction]
    products = [each for each in inner if each.opcode in _PRODUCTS]
    shapes = {each.name: each for each in inner}
    flops = sum(product_flops(each, shapes) for each in products)
    in_product = min(seconds, flops / (where.chip.peak_flops / where.chip.devices))
    work: dict[str, float] = collections.defaultdict(float)
    for each in inner:
        if each.opcode not in _MOVES | _PRODUCTS and each.arrays:
            weight = _WEIGHTS.get(each.opcode, 1)
            work[_kind(each.scope)] += weight * max(array.elements for array in each.arrays)
    parts: dict[str, float] = collections.defaultdict(float)
    if products:
        attention = all(_kind(each.scope) == "attention" for each in products)
        parts["attention" if attention else "matmul"] += in_product
    if work:
        rest = max(work, key=lambda kind: work[kind])
    elif products:
        rest = next(iter(parts))
    else:
        # Rows fetched from a table are work, arrays brought into another order are not.
        moved = _kind(instruction.scope)
        rest = moved if moved in ("embeddings", "optimizer") else "copies"
    if rest == "other" and products:
        rest = next(iter(parts))  # biases and conversions around a product
    parts[rest] += seconds - in_product
    return dict(parts)


def product_flops(product: Instruction, shapes: dict[str, Instruction]) -> int:
    """Operations of a matrix product, which libtpu writes as a convolution.

    With B batches of [M, K] by [K, N], the sizes of operands and result multiply to B^3 (M N K)^2;
    a batch axis is a spatial one whose left side is as dilated as its window is wide.

    Args:
        product: the instruction.
        shapes: the instructions of its computation by name.
    """
    sides = [shapes[name].arrays[0].elements for name in product.operands[:2] if name in shapes]
    if len(sides) < 2:
        return 0
    batch = 1
    window = product.attribute("window")
    sizes = re.findall(r"\d+", _field(window, "size"))
    for size, dilation in zip(
        sizes, re.findall(r"\d+", _field(window, "lhs_dilate")), strict=False
    ):
        batch *= int(size) if int(dilation) > 1 else 1
    volume = math.prod(sides) * product.arrays[0].elements
    return 2 * math.isqrt(volume // batch)


def _field(window: str, name: str) -> str:
    found = re.search(rf"{name}=(\S+)", window.strip("{}"))
    return found.group(1) if found else ""


def _kind(scope: str) -> str:
    found = _SCOPE.findall(scope)
    return SCOPES[found[-1]] if found else "other"
