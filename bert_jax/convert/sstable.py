# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's sorted string table: the file format of a checkpoint's index.

A table is a list of blocks, each with a type byte and a checksum behind it, then a footer:

    data blocks | meta-index block | index block | footer

A block holds its entries in order of their keys, each key without the bytes that it shares with the
one before. The index block names offset and size of every data block. Checkpoints are written
uncompressed (`TableBuilderOptions` in `tensor_bundle.cc`), so no other kind is read.

Source: `tensorflow/core/lib/io/{format,block_builder,table_builder}.cc` and `tensorflow/tsl/lib/
io`, which follow LevelDB's `doc/table_format.md`.
"""

import struct
from collections.abc import Iterator, Mapping

from data_pipeline.errors import DataError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # type of the block, checksum
_RESTART_INTERVAL = 16  # entries after which a key is stored whole again
_UNCOMPRESSED = 0


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in base 128, lowest digits first, and the position behind it.

    Raises:
        DataError: the data end inside it, or it has more than 64 bits.
    """
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise DataError("a number in it does not end")


def varint(number: int) -> bytes:
    """The inverse of `read_varint`."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def masked_checksum(data: bytes) -> int:
    """CRC-32C as TensorFlow stores it: rotated, so that checksums of checksums stay useful."""
    import google_crc32c

    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a table, in order.

    Raises:
        DataError: this is no table, or a damaged one; names no file, which the caller knows.
    """
    footer = data[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise DataError("it does not end as a table of TensorFlow does: truncated, or another file")
    _block(data, footer)  # the meta-index: empty in checkpoints, but undamaged
    position = 0
    for _ in range(2):
        _, position = read_varint(footer, position)
    entries: dict[bytes, bytes] = {}
    for _, place in _block_entries(_block(data, footer[position:])):
        entries.update(_block_entries(_block(data, place)))
    return entries


def build_table(entries: Mapping[bytes, bytes]) -> bytes:
    """The table that TensorFlow would write of the same entries."""
    keys = sorted(entries)
    table = bytearray()

    def append(block: bytes) -> bytes:
        """Adds a block and returns its place, as the index and the footer hold it."""
        place = varint(len(table)) + varint(len(block))
        content = block + bytes([_UNCOMPRESSED])
        table.extend(content + struct.pack("<I", masked_checksum(content)))
        return place

    data_place = append(_build_block([(key, entries[key]) for key in keys]))
    meta_place = append(_build_block([]))
    index_place = append(_build_block([(_short_successor(keys[-1]), data_place)]))
    table += (meta_place + index_place).ljust(_FOOTER_BYTES - 8, b"\0")
    return bytes(table + struct.pack("<Q", _MAGIC))


def _block(data: bytes, place: bytes) -> bytes:
    """The content of the block at an encoded (offset, size), checked."""
    offset, position = read_varint(place, 0)
    size, _ = read_varint(place, position)
    stored = data[offset : offset + size + _TRAILER_BYTES]
    if len(stored) != size + _TRAILER_BYTES:
        raise DataError("it is truncated")
    content, checksum = stored[:-4], struct.unpack("<I", stored[-4:])[0]
    if masked_checksum(content) != checksum:
        raise DataError(f"it is damaged: the checksum at byte {offset + size + 1} does not fit")
    if content[-1] != _UNCOMPRESSED:
        raise DataError(
            "it is compressed, which TensorFlow's checkpoints are not; save it again with "
            "TensorFlow"
        )
    return content[:-1]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (restarts + 1)
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        value_size, position = read_varint(block, position)
        value_start = position + unshared
        key = key[:shared] + block[position:value_start]
        position = value_start + value_size
        yield key, block[value_start:position]


def _build_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    block, restarts, before = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number and number % _RESTART_INTERVAL == 0:
            restarts.append(len(block))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        block += varint(shared) + varint(len(key) - shared) + varint(len(value))
        block += key[shared:] + value
        before = key
    return bytes(block + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)))


def _short_successor(key: bytes) -> bytes:
    """The shortest key that is not below `key`: what TensorFlow writes into the index."""
    for number, byte in enumerate(key):
        if byte < 0xFF:
            return key[:number] + bytes([byte + 1])
    return key
