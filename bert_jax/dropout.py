# SPDX-License-Identifier: Apache-2.0
"""Dropout and its random bits, for one key or a key for each row of a batch.

Source: `dropout` in `modeling.py` of google-research/bert.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p


@jax.named_scope("dropout")
def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes values with probability `rate` and scales the others up; without a key, `x` itself."""
    kept, scale = draw_kept(x.shape, rate, key)
    return x if kept is None else jnp.where(kept, x * scale, 0).astype(x.dtype)


@jax.named_scope("dropout")
def draw_kept(
    shape: tuple[int, ...], rate: float, key: jax.Array | None
) -> tuple[jax.Array | None, float]:
    """Which values of an array of `shape` are kept, and the factor that makes up for the others.

    The first is bool [shape], or None for all.
    Eight random bits decide a value, so the rate is rounded to the next 1/256 (0.1 becomes
    26/256 = 0.1016); the scale follows the rounded rate, so that the expectation stays exact.
    """
    dropped = round(rate * 256)
    if key is None or dropped == 0:
        return None, 1.0
    return random_bytes(key, shape) >= dropped, 256 / (256 - dropped)


def random_bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform values from 0 to 255, as uint32, of any shape: eight from each random block.

    The eight lie along the last axis but one, or the last of at most two: the first may be spread
    over devices, and on TPUs neighbours on the last are costly to tell apart.
    """
    axis = max(len(shape) - 2, 1) if len(shape) > 2 else len(shape) - 1
    drawn = (*shape[:axis], -(-shape[axis] // 8), *shape[axis + 1 :])
    first, second = (jnp.expand_dims(words, axis) for words in random_blocks(key, drawn))
    place = jnp.arange(8, dtype=first.dtype)
    place = jnp.expand_dims(place, [at for at in range(first.ndim) if at != axis])
    # Chosen and shifted by place: TPUs compute parts that are concatenated in all eight places.
    words = jnp.where(place < 4, first, second)
    parts = ((words >> (place % 4 * 8)) & 255).reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return jax.lax.slice_in_dim(parts, 0, shape[axis], axis=axis)


def random_blocks(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Two arrays of uniform uint32 values, both words of a Threefry block for each element.

    `jax.random.bits` makes one word of a block, which takes twice the time. Blocks are numbered in
    the order of the elements; with keys [batch] each row's follow from its own key alone.

    Args:
        key: of `threefry2x32` (Salmon et al. 2011).
        shape: of both; less than 2^32 elements, or in a row.
    """
    if key.ndim:
        return jax.vmap(lambda row: random_blocks(row, shape[1:]))(key)
    number = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        number += place * math.prod(shape[axis + 1 :])
    high, low = jax.random.key_data(key)
    first, second = threefry2x32_p.bind(high, low, jnp.zeros_like(number), number)
    return first, second


def split(key: jax.Array, parts: int) -> jax.Array:
    """[parts] keys from one, or [parts, batch] keys from [batch]."""
    if key.ndim:
        return jax.vmap(lambda row: jax.random.split(row, parts), out_axes=1)(key)
    return jax.random.split(key, parts)


def split_key(key: jax.Array | None, parts: int) -> list[jax.Array | None]:
    """As `split`; without a key (no dropout) as many times None."""
    return [None] * parts if key is None else list(split(key, parts))
