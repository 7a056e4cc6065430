# SPDX-License-Identifier: Apache-2.0
"""Our parameter tree as the tensors of other formats, and back.

Our tree keeps the layers stacked, query, key and value fused and the vocabulary padded. The table
(`bert_jax.convert.names`) only says how things are called and which matrices lie the other way
round: how a tensor is cut, merged or padded follows from the logical axes of our parameter
(`bert_jax.partitioning.PARAMETER_AXES`), so that one rule serves every row and both directions, and
no bit of a weight changes on the way.

Conversion is strict: every tensor of the source and every parameter of the target is accounted for,
or a `DataError` lists all that are not.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import BertConfig
from bert_jax.convert.names import TABLE, Naming, Row
from bert_jax.partitioning import PARAMETER_AXES
from data_pipeline.errors import DataError

Parameters = dict[str, Any]
Tensors = Mapping[str, np.ndarray]
Index = tuple[int | slice, ...]

HEADS = ("pooler", "mlm", "nsp")  # what an encoder-only source may lack, each as a whole
PARTS = ("query", "key", "value")  # order of the fused axis "qkv"


class Piece(NamedTuple):
    """A tensor of another format and the place it has in one of our parameters."""

    name: str
    place: Index  # in the stacked, fused, padded parameter
    shape: tuple[int, ...]  # of the tensor under `name`
    transposed: bool


def axis_sizes(config: BertConfig) -> dict[str, int]:
    """Length of every logical axis of a parameter; "vocab" is padded."""
    return {
        "vocab": config.padded_vocab_size,
        "hidden": config.hidden_size,
        "hidden_out": config.hidden_size,
        "all_heads": config.num_heads * config.head_dim,
        "mlp": config.mlp_size,
        "qkv": len(PARTS),
        "positions": config.max_positions,
        "segments": config.num_segments,
        "labels": 2,
        "layers": config.num_layers,
    }


def parameter_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of the model."""
    sizes = axis_sizes(config)
    return {row.path: tuple(sizes[axis] for axis in PARAMETER_AXES[row.path]) for row in TABLE}


def pieces(config: BertConfig, row: Row, naming: Naming) -> Iterator[Piece]:
    """The tensors of another format that make up one of our parameters."""
    axes, sizes = PARAMETER_AXES[row.path], axis_sizes(config)
    sizes |= {"vocab": config.vocab_size}  # elsewhere it is not padded
    shape = [sizes[axis] for axis in axes if axis not in ("layers", "qkv")]
    transposed = row.path in naming.transposed
    for layer in range(config.num_layers if "layers" in axes else 1):
        for part in range(len(PARTS) if "qkv" in axes else 1):
            choice: dict[str, int | slice] = {
                "layers": layer,
                "qkv": part,
                "vocab": slice(config.vocab_size),
            }
            yield Piece(
                name=naming.name(row, layer, PARTS[part]),
                place=tuple(choice.get(axis, slice(None)) for axis in axes),
                shape=tuple(reversed(shape) if transposed else shape),
                transposed=transposed,
            )


def export_tensors(config: BertConfig, params: Parameters, naming: Naming) -> dict[str, np.ndarray]:
    """Our parameters as the tensors of another format, dtypes kept, copies left out.

    Heads that `params` lack as a whole are left out.

    Raises:
        DataError: the tree is not that of `config`; lists every parameter that differs.
    """
    flat = flatten(params)
    shapes = parameter_shapes(config)
    rows = [row for row in TABLE if _top(row) not in HEADS or _top(row) in params]
    expected = {row.path: shapes[row.path] for row in rows}
    _check("parameters", {path: array.shape for path, array in flat.items()}, expected)
    tensors = {}
    for row in rows:
        for piece in pieces(config, row, naming):
            matrix = flat[row.path][piece.place]
            tensors[piece.name] = np.array(matrix.T if piece.transposed else matrix, order="C")
    return tensors


def import_tensors(
    config: BertConfig, tensors: Tensors, naming: Naming, optional: Collection[str] = ()
) -> Parameters:
    """The tensors of another format as our parameters, dtypes kept, padded rows zero.

    Args:
        config: the model that `tensors` belong to.
        tensors: name -> array, all of them.
        naming: the format.
        optional: heads (of `HEADS`) that may be absent as a whole; an absent one is left out of
            the result.

    Raises:
        DataError: a tensor is missing, unknown, of another shape, not finite, or a copy that is
            none; lists every one.
    """
    rows = {row: list(pieces(config, row, naming)) for row in TABLE}
    absent = {
        head
        for head in optional
        if not any(
            piece.name in tensors for row in rows if _top(row) == head for piece in rows[row]
        )
    }
    rows = {row: row_pieces for row, row_pieces in rows.items() if _top(row) not in absent}
    expected = {piece.name: piece.shape for row_pieces in rows.values() for piece in row_pieces}
    found = {name: array.shape for name, array in tensors.items() if name not in naming.copies}
    _check("tensors", found, expected)
    _check_copies(tensors, naming)
    _check_finite(tensors)
    shapes = parameter_shapes(config)
    flat = {}
    for row, row_pieces in rows.items():
        flat[row.path] = np.zeros(shapes[row.path], tensors[row_pieces[0].name].dtype)
        for piece in row_pieces:
            matrix = tensors[piece.name]
            flat[row.path][piece.place] = matrix.T if piece.transposed else matrix
    return unflatten(flat)


def flatten(params: Parameters, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dict of arrays -> {"a/b/c": array} on the host."""
    flat: dict[str, np.ndarray] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(dict(value), f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> Parameters:
    """Inverse of `flatten`."""
    params: Parameters = {}
    for path, array in flat.items():
        *groups, leaf = path.split("/")
        level = params
        for group in groups:
            level = level.setdefault(group, {})
        level[leaf] = array
    return params


def _top(row: Row) -> str:
    return row.path.split("/")[0]


def _check(
    what: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compares names and shapes.

    Raises:
        DataError: listing everything missing, unexpected and of another shape.
    """
    problems = [
        f"missing: {name} {list(expected[name])}" for name in sorted(expected.keys() - found.keys())
    ]
    problems += [
        f"unexpected: {name} {list(found[name])}" for name in sorted(found.keys() - expected.keys())
    ]
    problems += [
        f"wrong shape: {name} {list(found[name])}, the configuration needs {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    if problems:
        raise DataError(
            f"{len(problems)} {what} do not fit the model of this configuration:\n  "
            + "\n  ".join(problems)
        )


def _check_copies(tensors: Tensors, naming: Naming) -> None:
    for name, original in naming.copies.items():
        if name in tensors and not (
            original in tensors and np.array_equal(tensors[name], tensors[original])
        ):
            raise DataError(
                f"tensor {name} differs from {original}: a model with untied output weights "
                "cannot be converted, ours shares them"
            )


def _check_finite(tensors: Tensors) -> None:
    broken = sorted(name for name, array in tensors.items() if not np.isfinite(array).all())
    if broken:
        raise DataError(
            f"{len(broken)} tensors hold NaN or infinite numbers, the training that saved them had "
            "failed:\n  " + "\n  ".join(broken)
        )
