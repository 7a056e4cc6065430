# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's checkpoint files, read and written without TensorFlow.

    PREFIX.index                  a table: "" -> header, name of a tensor -> where its bytes are
    PREFIX.data-00000-of-00001    the bytes, tensor after tensor; possibly in several files

Source: `tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc}` and
`tensorflow/core/protobuf/tensor_bundle.proto`.
"""

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bert_jax.convert.sstable import (
    build_table,
    masked_checksum,
    parse_table,
    read_varint,
    varint,
)
from data_pipeline.errors import DataError

# Numbers of `tensorflow/core/framework/types.proto`.
_DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.int8),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(np.uint16),
    19: np.dtype(np.float16),
    22: np.dtype(np.uint32),
    23: np.dtype(np.uint64),
}
_HEADER = b""  # the key of the header
_SLICE = b"\0"  # how the keys of the pieces of partitioned variables begin
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class Entry(NamedTuple):
    """What the index says of a tensor."""

    dtype: int  # number in types.proto
    shape: tuple[int, ...]
    shard: int  # which data file
    offset: int  # bytes into it
    size: int  # bytes
    checksum: int
    slices: int  # pieces that a partitioned variable is stored in, otherwise 0


def read_index(prefix: Path) -> tuple[dict[str, Entry], int]:
    """The tensors of a checkpoint, and the number of its data files.

    Raises:
        DataError: the index is missing, damaged or of a kind that is not read.
    """
    path = prefix.with_name(prefix.name + ".index")
    try:
        table = parse_table(path.read_bytes())
        header = _message(table.pop(_HEADER, b""))
        if header.get(2, [0])[0] != 0:
            raise DataError("it was written on a big-endian machine, whose numbers are not read")
        shards = header.get(1, [0])[0]
        names = [key for key in table if not key.startswith(_SLICE)]
        return {name.decode("utf-8"): _entry(table[name]) for name in names}, shards
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: no TensorFlow checkpoint is there") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (struct.error, UnicodeDecodeError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def read_bundle(prefix: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The tensors whose names are wanted, in their own types, with checked bytes.

    Args:
        prefix: path of the checkpoint without ".index".
        wanted: says of a name whether it is read.

    Raises:
        DataError: a file is missing or damaged, or a wanted tensor is text or partitioned.
    """
    entries, shards = read_index(prefix)
    tensors = {}
    for name, entry in entries.items():
        if not wanted(name):
            continue
        path = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}")
        if entry.slices:
            raise DataError(
                f"{prefix}: {name} is a partitioned variable in {entry.slices} slices; save it "
                "again without a partitioner"
            )
        if entry.dtype not in _DTYPES:
            raise DataError(f"{prefix}: {name} holds no numbers (TensorFlow's type {entry.dtype})")
        dtype = _DTYPES[entry.dtype]
        if math.prod(entry.shape) * dtype.itemsize != entry.size:
            raise DataError(f"{prefix}.index is damaged: shape and size of {name} do not fit")
        data = _read_bytes(path, entry)
        if masked_checksum(data) != entry.checksum:
            raise DataError(f"{path} is damaged: the checksum of {name} does not fit")
        tensors[name] = np.frombuffer(data, dtype).reshape(entry.shape)
    return tensors


def write_bundle(prefix: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the files that TensorFlow would write of the same tensors, in one data file."""
    numbers = {dtype: number for number, dtype in _DTYPES.items()}
    table = {_HEADER: _field(1, 1) + _field(3, _field(1, 1))}  # one data file, version 1
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as file:
        for name in sorted(tensors):
            array = tensors[name]
            data = array.tobytes()
            shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
            entry = _field(1, numbers[array.dtype]) + _field(2, shape)
            entry += _field(4, file.tell()) + _field(5, len(data))
            table[name.encode()] = entry + struct.pack("<BI", 6 << 3 | 5, masked_checksum(data))
            file.write(data)
    prefix.with_name(prefix.name + ".index").write_bytes(build_table(table))


def _read_bytes(path: Path, entry: Entry) -> bytes:
    try:
        if path.stat().st_size < entry.offset + entry.size:
            raise DataError(f"{path} is truncated: the checkpoint goes on")
        with path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing, but the checkpoint's index names it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _entry(message: bytes) -> Entry:
    fields = _message(message)
    dimensions = _message(fields.get(2, [b""])[0]).get(2, [])
    return Entry(
        dtype=fields.get(1, [0])[0],
        shape=tuple(_message(dimension).get(1, [0])[0] for dimension in dimensions),
        shard=fields.get(3, [0])[0],
        offset=fields.get(4, [0])[0],
        size=fields.get(5, [0])[0],
        checksum=fields.get(6, [0])[0],
        slices=len(fields.get(7, [])),
    )


def _field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer; like there, 0 is left out, an empty message is not."""
    if isinstance(value, bytes):
        return varint(number << 3 | _BYTES) + varint(len(value)) + value
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def _message(data: bytes) -> dict[int, list[Any]]:
    """Field number -> values of a protocol buffer: numbers, or bytes for all that has a length."""
    fields: dict[int, list[Any]] = {}
    for number, value in _fields(data):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, position = read_varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise DataError(f"a field has the unknown wire type {wire_type}")
        piece = data[position : position + size]
        if len(piece) != size:
            raise DataError("a field does not end")
        position += size
        yield number, piece if wire_type == _BYTES else int.from_bytes(piece, "little")
