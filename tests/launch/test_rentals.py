# SPDX-License-Identifier: Apache-2.0
"""What Google calls its machines, and the table of it in the documentation."""

import re

import pytest

from bert_jax.slices import CHIPS, SLICES_OF_16, find_slice
from data_pipeline.errors import UsageError
from launch.rentals import RENTALS, chips_per_host, gke_slice, markdown_table, topology, vm_slice
from tests.launch.world import ROOT


def test_every_generation_can_be_rented_somewhere() -> None:
    assert set(RENTALS) == set(CHIPS)
    for names in RENTALS.values():
        assert (names.runtime or names.accelerator) and names.zones
        assert bool(names.accelerator) == bool(names.machine)


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "tpu.md").read_text()
    shown = re.search(r"<!-- slices -->\n(.*)\n<!-- /slices -->", page, re.S)
    assert shown is not None and shown[1] == markdown_table()
    assert all(f"| `{name}` | 16 | 4 x 4 |" in shown[1] for name in SLICES_OF_16)


def test_small_slices_are_one_machine_of_eight_chips() -> None:
    for name, shape in (("v6e-8", "2x4"), ("v5litepod-8", "2x4")):
        assert (chips_per_host(find_slice(name)), topology(find_slice(name))) == (8, shape)


def test_what_is_offered_in_one_place_only() -> None:
    assert vm_slice("v5e-16").name == "v5litepod-16"
    with pytest.raises(UsageError, match="launch.gke"):
        vm_slice("tpu7x-32")
    with pytest.raises(UsageError, match="launch.tpu_vm"):
        gke_slice("v2-32")
