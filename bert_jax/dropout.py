# SPDX-License-Identifier: Apache-2.0
"""Dropout and its random bits, for one key or a key for each row of a batch.

Source: `dropout` in `modeling.py` of google-research/bert.
"""

import jax
import jax.numpy as jnp


@jax.named_scope("dropout")
def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes values with probability `rate` and scales the others up; without a key, `x` itself.

    Eight random bits decide a value, so the rate is rounded to the next 1/256 (0.1 becomes
    26/256 = 0.1016); the scale follows the rounded rate, so that the expectation is exactly `x`.
    """
    dropped = round(rate * 256)
    if key is None or dropped == 0:
        return x
    kept = random_bytes(key, x.shape) >= dropped
    return jnp.where(kept, x * (256 / (256 - dropped)), 0).astype(x.dtype)


def random_bytes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform values from 0 to 255, as uint32, of any shape: four from each 32-bit random number.

    The four lie along the last axis but one, or the last of at most two: the first may be spread
    over devices, and on TPUs neighbours on the last are costly to tell apart.
    """
    axis = max(len(shape) - 2, 1) if len(shape) > 2 else len(shape) - 1
    drawn = (*shape[:axis], -(-shape[axis] // 4), *shape[axis + 1 :])
    words = jnp.expand_dims(random_words(key, drawn), axis)
    # Shifts that are broadcast: TPUs compute parts that are concatenated in all four places.
    shifts = jnp.arange(0, 32, 8, dtype=words.dtype)
    shifts = jnp.expand_dims(shifts, [at for at in range(words.ndim) if at != axis])
    parts = ((words >> shifts) & 255).reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return jax.lax.slice_in_dim(parts, 0, shape[axis], axis=axis)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 values; with keys [batch] each row's follow from its own key alone."""
    if key.ndim:
        return jax.vmap(lambda row: jax.random.bits(row, shape[1:], jnp.uint32))(key)
    return jax.random.bits(key, shape, jnp.uint32)


def split(key: jax.Array, parts: int) -> jax.Array:
    """[parts] keys from one, or [parts, batch] keys from [batch]."""
    if key.ndim:
        return jax.vmap(lambda row: jax.random.split(row, parts), out_axes=1)(key)
    return jax.random.split(key, parts)


def split_key(key: jax.Array | None, parts: int) -> list[jax.Array | None]:
    """As `split`; without a key (no dropout) as many times None."""
    return [None] * parts if key is None else list(split(key, parts))
