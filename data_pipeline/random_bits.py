# SPDX-License-Identifier: Apache-2.0
"""Random numbers without a generator: each is a pure function of the keys that name it.

An ordinary generator has a state, so its numbers depend on who drew before. Here a number is the
hash of its name, say (seed, example, purpose, position): any example can be made first, on any
host, by any number of threads, and comes out the same. The hash is the finaliser of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014; constants of its
variant 13 by Stafford), applied once for each key.

Keys are integers or integer arrays of shapes that broadcast; put the small ones first, since each
is mixed at the shape reached so far.
"""

import enum
import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Purpose(enum.IntEnum):
    """What a number is for: a key of every draw, so that no two uses share their bits."""

    SHORT = enum.auto()  # is the target length of a section drawn?
    TARGET = enum.auto()  # the target length
    CHUNK = enum.auto()  # where A ends, and is the next sentence random?
    ORDER = enum.auto()  # the shuffle of an epoch
    DOCUMENT = enum.auto()  # where a random next sentence comes from
    SENTENCE = enum.auto()
    CUT_A = enum.auto()  # tokens dropped at the front rather than the back
    CUT_B = enum.auto()
    SELECT = enum.auto()  # which tokens are to be predicted
    REPLACE = enum.auto()  # by [MASK], by themselves or by a random word?
    WORD = enum.auto()  # by which word
    MIXTURE = enum.auto()  # which of several stores, and what its seed is


_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_LOW_HALF = np.uint64(0xFFFFFFFF)
# Fewer make some orders of five or six elements more likely than others (chi-square, 100,000 keys).
_FEISTEL_ROUNDS = 8


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles `state` in place, one to one, so that each bit depends on every bit."""
    shifted = np.empty_like(state)
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        np.right_shift(state, shift, out=shifted)
        np.bitwise_xor(state, shifted, out=state)
        np.multiply(state, multiplier, out=state)
    np.right_shift(state, _SHIFTS[-1], out=shifted)
    return np.bitwise_xor(state, shifted, out=state)


def bits(*keys: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each element of the broadcast `keys`.

    Args:
        keys: integers or integer arrays; negative ones count modulo 2**64.

    Returns:
        uint64 array (of no dimension if all keys are plain integers).
    """
    state = np.zeros((), np.uint64)
    for key in keys:
        # A bare NumPy integer would warn of the wrap-around that the arithmetic here relies on.
        state = np.bitwise_xor(
            np.add(state, _INCREMENT, out=np.empty_like(state)),
            np.asarray(key).astype(np.uint64, copy=False),
        )
        state = _mix(np.asarray(state))
    return state


def bits_of(content: bytes) -> int:
    """64 random bits for a whole text or array (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def uniform(*keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform float64 numbers in [0, 1), 53 random bits each."""
    return np.asarray((bits(*keys) >> np.uint64(11)) * 2.0**-53)


def uniform_integers(size: ArrayLike, *keys: ArrayLike) -> NDArray[np.int64]:
    """Uniform int64 numbers in [0, size), for sizes from 1 to 2**32 that broadcast with the keys.

    The high half of the product of 64 random bits and `size`, computed in two parts, so that no
    outcome is more likely than another by more than one part in 2**32.
    """
    drawn = bits(*keys)
    sizes = np.asarray(size).astype(np.uint64, copy=False)
    carried = ((drawn & _LOW_HALF) * sizes) >> _HALF
    return np.asarray(((drawn >> _HALF) * sizes + carried) >> _HALF).astype(np.int64)


def permute(index: ArrayLike, size: ArrayLike, *keys: ArrayLike) -> NDArray[np.int64]:
    """Where a keyed pseudo-random permutation of [0, size) sends `index`.

    A Feistel network over a grid of at least `size` cells, about the square root of it each way; an
    index that lands on a cell too many goes through it again until it lands in [0, size) ("cycle
    walking": Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), which few do.

    Args:
        index: integers in [0, size).
        size: integers from 1 to 2**52.
        keys: name the permutation; all arguments broadcast.

    Returns:
        int64 array in [0, size); one to one in `index` for fixed size and keys.
    """
    arguments = np.broadcast_arrays(index, size, bits(*keys))
    shape = arguments[0].shape
    values, sizes, names = (np.ravel(argument).astype(np.uint64) for argument in arguments)
    outside = np.arange(values.size)
    while outside.size:
        walked = _feistel(values[outside], sizes[outside], names[outside])
        values[outside] = walked
        outside = outside[walked >= sizes[outside]]
    return values.astype(np.int64).reshape(shape)


def _feistel(
    values: NDArray[np.uint64], sizes: NDArray[np.uint64], names: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Permutes the cells of grids that hold `sizes` cells or a few more, one way for each name."""
    columns = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    rows = (sizes + columns - _ONE) // columns
    row, column = np.divmod(values, columns)
    for turn in range(_FEISTEL_ROUNDS):
        column = (column + _turn(names, 2 * turn, row) % columns) % columns
        row = (row + _turn(names, 2 * turn + 1, column) % rows) % rows
    return row * columns + column


def _turn(names: NDArray[np.uint64], turn: int, half: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The names are random bits already, so that one mix is enough.
    return _mix(names ^ (half * np.uint64(2 * _FEISTEL_ROUNDS) + np.uint64(turn)))
