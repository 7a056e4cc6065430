# SPDX-License-Identifier: Apache-2.0
"""What Google Cloud calls the machines of each TPU generation, and where it has them.

Sources, read in 2026: cloud.google.com/tpu/docs/runtimes (software versions) and regions-zones,
kubernetes-engine/docs/concepts/plan-tpus and xpk `system_characteristics.py` (GKE labels, machine
types). The Cloud TPU API, which `launch.tpu_vm` uses, ends with v6e; GKE has no v2.
"""

import dataclasses

from bert_jax.slices import SLICES_OF_16, Slice, find_slice
from data_pipeline.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Rental:
    """Names of one generation; empty where it is not offered."""

    runtime: str  # software version of the Cloud TPU API
    accelerator: str  # label cloud.google.com/gke-tpu-accelerator
    machine: str  # GKE machine type, without the chips of a host at its end
    zones: tuple[str, ...]  # some that have it; the user's --zone decides


BASE = "tpu-ubuntu2204-base"
RENTALS = {
    "v2": Rental(BASE, "", "", ("us-central1-a", "europe-west4-a")),
    "v3": Rental(BASE, "tpu-v3-slice", "ct3p-hightpu", ("europe-west4-a",)),
    "v4": Rental(BASE, "tpu-v4-podslice", "ct4p-hightpu", ("us-central2-b",)),
    "v5litepod": Rental(
        "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu",
        ("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a"),
    ),
    "v5p": Rental(
        "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu", ("us-central1-a", "us-east5-a"),
    ),
    "v6e": Rental(
        "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard",
        ("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b", "europe-west4-a"),
    ),
    "tpu7x": Rental("", "tpu7x", "tpu7x-standard", ("us-central1-c",)),
}  # fmt: skip


def rental(tpu: Slice) -> Rental:
    """The names of a slice's generation."""
    return RENTALS[tpu.name.rpartition("-")[0]]


def chips_per_host(tpu: Slice) -> int:
    """Chips that one host of the slice has."""
    return tpu.chips // tpu.hosts


def topology(tpu: Slice) -> str:
    """The shape as Cloud writes it, for example 2x2x4."""
    return "x".join(map(str, tpu.shape))


def vm_slice(name: str) -> Slice:
    """A slice that the Cloud TPU API rents out.

    Raises:
        UsageError: no such slice, or one that only GKE has.
    """
    found = find_slice(name)
    if not rental(found).runtime:
        raise UsageError(
            f"slice {name!r} is not offered by the Cloud TPU API that launch.tpu_vm uses; "
            "rent it with `python -m launch.gke`"
        )
    return found


def gke_slice(name: str) -> Slice:
    """A slice that GKE has node pools for.

    Raises:
        UsageError: no such slice, or one that GKE does not offer.
    """
    found = find_slice(name)
    if not rental(found).accelerator:
        raise UsageError(
            f"slice {name!r} is not offered by GKE; rent it with `python -m launch.tpu_vm`"
        )
    return found


def check_joined(tpu: Slice, slices: int) -> None:
    """Whether so many slices can make up one run.

    Raises:
        UsageError: their generation, or size, cannot be joined over the data-centre network.
    """
    if slices > 1 and tpu.name.startswith(("v2-", "v3-")):
        raise UsageError(f"--slices={slices}: {tpu.name} comes alone; v4 and newer can be joined")
    if slices > 1 and tpu.hosts == 1:
        raise UsageError(f"--slices={slices}: {tpu.name} is one host; slices of several are joined")


def markdown_table() -> str:
    """The slices of 16 chips as docs/tpu.md shows them."""
    lines = [
        "| `--slice` | chips | hosts x chips | HBM a chip, GiB | topology "
        "| `tpu_vm`: runtime version | `gke`: accelerator, machine type | some zones |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for name in SLICES_OF_16:
        tpu = find_slice(name)
        names = rental(tpu)
        machine = f"`{names.accelerator}`, `{names.machine}-{chips_per_host(tpu)}t`"
        cells = (
            f"`{name}`",
            str(tpu.chips),
            f"{tpu.hosts} x {chips_per_host(tpu)}",
            str(tpu.chip.hbm_gib),
            topology(tpu),
            f"`{names.runtime}`" if names.runtime else "-",
            machine if names.accelerator else "-",
            ", ".join(names.zones),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
