# SPDX-License-Identifier: Apache-2.0
"""Memory-mapped arrays: letting go of what was read.

The pages of a mapped file that were touched count as resident memory of the process until the
system needs them elsewhere. Reading a large store at random touches nearly all of them in time, and
a machine that limits a job's memory by that count would stop it.
"""

import mmap

import numpy as np


def mapping_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapping of a file that an array looks into, None if the array has memory of its own."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def release(*arrays: np.ndarray) -> None:
    """Gives back the memory of all pages of mapped arrays; reading them again is still right.

    The pages stay in the system's cache, so reading them again costs a fault and not a read.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    for mapping in map(mapping_of, arrays):
        if mapping is not None and advice is not None:
            mapping.madvise(advice)
