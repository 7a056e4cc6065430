# SPDX-License-Identifier: Apache-2.0
"""Memory-mapped arrays: reading at random without holding on to what was read.

The pages of a mapped file that were touched count as resident memory of the process until the
system needs them elsewhere. Reading a large store at random touches nearly all of them in time, and
a machine that limits a job's memory by that count would stop it.
"""

import mmap
import os
import weakref

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DiskError


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


class RangeReader:
    """Reads ranges of a mapped array by system calls, which leave nothing resident."""

    def __init__(self, array: np.memmap) -> None:
        self._dtype, self._offset = array.dtype, array.offset
        self._file = os.open(str(array.filename), os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def read(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[np.ndarray, NDArray[np.int64]]:
        """The elements of many ranges.

        Args:
            starts: int64 [ranges], in elements.
            lengths: int64 [ranges].

        Returns:
            all elements one range after the other, and where each range starts among them.

        Raises:
            DiskError: the file cannot be read, or ends before a range does.
        """
        size, file, read = self._dtype.itemsize, self._file, os.pread
        places, sizes = (self._offset + starts * size).tolist(), (lengths * size).tolist()
        try:
            content = b"".join(
                [read(file, n, place) for n, place in zip(sizes, places, strict=True)]
            )
        except OSError as error:
            raise DiskError(f"the store cannot be read: {error.strerror}") from error
        if len(content) != sum(sizes):
            raise DiskError("the store cannot be read to its end: a file was cut short")
        return np.frombuffer(content, self._dtype), np.cumsum(lengths) - lengths
