# SPDX-License-Identifier: Apache-2.0
"""Cloud TPU slices by name: chips, hosts, topology and rates. Facts only; imports no JAX.

A slice is named as Google Cloud names its accelerator type. The number in the name counts
TensorCores for v2, v3, v4, v5p and tpu7x (two on a chip) and chips for v5litepod and v6e. Slices of
up to 16 x 16 or 8 x 16 x 16 chips are known by rule, larger ones are refused.

Sources: cloud.google.com/tpu/docs (memory, peaks, links), jax-ml/scaling-book `tpus.md` (bandwidth
a link, wrap-around, network between slices), jax `_src/pallas/mosaic/tpu_info.py` (matrix units,
fast memory), maxtext `accelerator_to_spec_map.py` (names of topologies), libtpu's own messages
about programs that are too large (memory that one may use). The clock is the peak divided by the
operations a cycle of the matrix units: 2 x 128 x 128 each, 2 x 256 x 256 on v6e and tpu7x.
"""

import dataclasses
import math
import re

from data_pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    All but `usable_gib` is of a chip; rates are bytes and operations per second.
    """

    topology: str  # the generation's name in libtpu
    cores_in_name: bool  # whether the slice's name counts TensorCores instead of chips
    devices: int  # JAX devices a chip shows itself as: two cores apart, or one (megacore)
    megacore: bool
    dimensions: int  # of the torus
    wrap: int  # an axis of a multiple of so many chips closes to a ring, if all axes do
    peak_flops: float  # bfloat16
    clock_hz: float  # of the vector unit, in which libtpu counts its cycles
    hbm_gib: int
    fast_mib: int  # beside the matrix units of all cores: VMEM, and CMEM on v4
    hbm_bandwidth: float
    link_bandwidth: float  # of one link, one way
    network_bandwidth: float  # between slices, one way, a chip's share of its host
    # Of the memory of one JAX device libtpu 0.0.42.1 lets a program use so much. No program depends
    # on it, and plans are kept by what a slice prints as.
    usable_gib: float = dataclasses.field(repr=False)


MIB, GIB = 2**20, 2**30
CHIPS = {
    "v2": Chip("v2", True, 2, False, 2, 16, 46e12, 0.70e9, 16, 32, 700e9, 62e9, 3.1e9, 7.48),
    "v3": Chip("v3", True, 2, False, 2, 32, 123e12, 0.94e9, 32, 32, 900e9, 82e9, 3.1e9, 15.48),
    "v4": Chip("v4", True, 1, True, 3, 4, 275e12, 1.05e9, 32, 160, 1200e9, 45e9, 6.2e9, 30.75),
    "v5litepod": Chip(
        "v5e", False, 1, False, 2, 16, 197e12, 1.5e9, 16, 128, 819e9, 45e9, 3.1e9, 15.75
    ),
    "v5p": Chip("v5", True, 1, True, 3, 4, 459e12, 1.75e9, 95, 128, 2765e9, 90e9, 6.2e9, 95.74),
    "v6e": Chip(
        "v6e", False, 1, False, 2, 16, 918e12, 1.75e9, 32, 128, 1638e9, 90e9, 12.5e9, 31.25
    ),
    "tpu7x": Chip(
        "tpu7x", True, 2, False, 3, 4, 2307e12, 2.2e9, 192, 128, 7380e9, 90e9, 12.5e9, 94.75
    ),
}
# The slices of 16 chips, the original's size.
SLICES_OF_16 = ("v2-32", "v3-32", "v4-32", "v5litepod-16", "v5p-32", "v6e-16", "tpu7x-32")
CHIPS_PER_HOST = 4


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice, or `count` equal ones joined over the data-centre network."""

    name: str
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis of the torus
    count: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices together."""
        return math.prod(self.shape) * self.count

    @property
    def devices(self) -> int:
        """What `jax.device_count()` says there."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines, which is processes: four chips each, but v5litepod-8 and v6e-8 are one."""
        one_machine = not self.chip.cores_in_name and math.prod(self.shape) == 8
        return self.count if one_machine else -(-self.chips // CHIPS_PER_HOST)

    @property
    def wrapped(self) -> bool:
        """Whether the axes close to rings."""
        return all(size % self.chip.wrap == 0 for size in self.shape)

    @property
    def hbm_bytes_per_device(self) -> int:
        """Memory that a JAX device has."""
        return self.chip.hbm_gib * GIB // self.chip.devices

    @property
    def usable_bytes_per_device(self) -> int:
        """Part of that memory that a program may use."""
        return int(self.chip.usable_gib * GIB)

    @property
    def fast_bytes_per_device(self) -> int:
        """Memory beside its matrix units that a JAX device has."""
        return self.chip.fast_mib * MIB // self.chip.devices

    @property
    def topology_name(self) -> str:
        """What libtpu calls the topology, for example v4:2x2x4."""
        return f"{self.chip.topology}:{'x'.join(map(str, self.shape))}"


def find_slice(name: str, count: int = 1) -> Slice:
    """The slice of a Cloud accelerator type such as v4-32, v5litepod-16 (or v5e-16) or v6e-16.

    Raises:
        UsageError: no such generation, or a size it does not come in.
    """
    generation, number = re.fullmatch(r"(.*?)-?(\d*)", name).groups()  # type: ignore[union-attr]
    generation = "v5litepod" if generation == "v5e" else generation
    chip = CHIPS.get(generation)
    if chip is None or not number:
        raise UsageError(
            f"slice {name!r} is not known: use for example {', '.join(SLICES_OF_16)}, "
            f"or another size of {', '.join(CHIPS)}"
        )
    if count < 1:
        raise UsageError(f"the number of slices is {count}: at least 1")
    per_chip = 2 if chip.cores_in_name else 1
    shapes = {math.prod(shape): shape for shape in _shapes(chip.dimensions)}
    shape = shapes.get(int(number) // per_chip) if int(number) % per_chip == 0 else None
    if shape is None:
        sizes = ", ".join(str(chips * per_chip) for chips in sorted(shapes))
        raise UsageError(f"slice {name!r}: {generation} comes in {sizes}")
    return Slice(f"{generation}-{number}", chip, shape, count)


def _shapes(dimensions: int) -> list[tuple[int, ...]]:
    """The usual shapes from one host on, each twice the one before: one axis after another."""
    shape = [2, 2] if dimensions == 2 else [2, 2, 1]
    shapes = [tuple(shape)]
    while math.prod(shape) < (256 if dimensions == 2 else 2048):
        axis = max(i for i, size in enumerate(shape) if size == min(shape))
        shape[axis] *= 2
        # Long axes last, as Cloud writes them: 2x2x4, 2x4x4.
        shapes.append(tuple(sorted(shape)))
        shape = list(shapes[-1])
    return shapes
