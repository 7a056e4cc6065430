# SPDX-License-Identifier: Apache-2.0
"""Slices by name against Google Cloud's own table, worked out by hand."""

import subprocess
import sys

import pytest

from bert_jax.slices import CHIPS, SLICES_OF_16, find_slice
from data_pipeline.errors import UsageError

# name: (topology in libtpu, chips, hosts, JAX devices)
TABLE = [
    ("v2-32", "v2:4x4", 16, 4, 32),
    ("v3-32", "v3:4x4", 16, 4, 32),
    ("v4-32", "v4:2x2x4", 16, 4, 16),
    ("v5litepod-16", "v5e:4x4", 16, 4, 16),
    ("v5e-16", "v5e:4x4", 16, 4, 16),
    ("v5p-32", "v5:2x2x4", 16, 4, 16),
    ("v6e-16", "v6e:4x4", 16, 4, 16),
    ("tpu7x-32", "tpu7x:2x2x4", 16, 4, 32),
    ("v4-8", "v4:2x2x1", 4, 1, 4),
    ("v4-64", "v4:2x4x4", 32, 8, 32),
    ("v5litepod-8", "v5e:2x4", 8, 1, 8),
    ("v5e-256", "v5e:16x16", 256, 64, 256),
    ("v3-512", "v3:16x16", 256, 64, 512),
    ("v4-4096", "v4:8x16x16", 2048, 512, 2048),
]


@pytest.mark.parametrize(("name", "topology", "chips", "hosts", "devices"), TABLE)
def test_a_name_gives_what_cloud_rents_under_it(name, topology, chips, hosts, devices):
    found = find_slice(name)
    assert (found.topology_name, found.chips) == (topology, chips)
    assert (found.hosts, found.devices) == (hosts, devices)


def test_all_slices_of_the_original_size_have_16_chips():
    assert {find_slice(name).chips for name in SLICES_OF_16} == {16}


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [("v4-32", False), ("v4-128", True), ("v5e-16", False), ("v5e-256", True), ("v3-512", False)],
)
def test_axes_close_to_rings_on_large_slices_only(name, wrapped):
    assert find_slice(name).wrapped == wrapped


@pytest.mark.parametrize(
    ("name", "gib", "fast_mib"),
    [
        ("v2-32", 8, 16),
        ("v3-32", 16, 16),
        ("v4-32", 32, 160),
        ("v5e-16", 16, 128),
        ("tpu7x-32", 96, 64),
    ],
)
def test_two_cores_apart_share_the_memory_of_their_chip(name, gib, fast_mib):
    where = find_slice(name)
    assert where.hbm_bytes_per_device == gib * 2**30
    assert where.fast_bytes_per_device == fast_mib * 2**20


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v2-32", "7.48"),
        ("v3-32", "15.48"),
        ("v4-32", "30.75"),
        ("v5e-16", "15.75"),
        ("v5p-32", "95.74"),
        ("v6e-16", "31.25"),
        ("tpu7x-32", "94.75"),
    ],
)
def test_a_program_may_use_what_the_compiler_says(name, said):
    assert f"{find_slice(name).usable_bytes_per_device / 2**30:.2f}" == said


def test_plans_are_kept_by_what_a_slice_prints_as():
    # Whoever changes this has everything compiled again.
    assert str(find_slice("v4-32")) == (
        "Slice(name='v4-32', chip=Chip(topology='v4', cores_in_name=True, devices=1, "
        "megacore=True, dimensions=3, wrap=4, peak_flops=275000000000000.0, "
        "clock_hz=1050000000.0, hbm_gib=32, fast_mib=160, hbm_bandwidth=1200000000000.0, "
        "link_bandwidth=45000000000.0, network_bandwidth=6200000000.0), shape=(2, 2, 4), count=1)"
    )


def test_several_slices_add_up():
    found = find_slice("v4-32", count=3)
    assert (found.chips, found.hosts, found.devices) == (48, 12, 48)


@pytest.mark.parametrize("name", ["v9-32", "v4", "v4-", "", "v4_32", "gpu-8"])
def test_an_unknown_slice_is_refused_with_the_known_ones(name):
    with pytest.raises(UsageError, match=r"is not known: use for example v2-32, v3-32, v4-32"):
        find_slice(name)


@pytest.mark.parametrize("name", ["v4-7", "v4-48", "v5litepod-12", "v4-99999"])
def test_a_size_that_is_not_sold_is_refused_with_those_that_are(name):
    with pytest.raises(UsageError, match=r"comes in (8, 16, 32, 64|4, 8, 16, 32)"):
        find_slice(name)


def test_no_slice_is_no_number_of_slices():
    with pytest.raises(UsageError, match="at least 1"):
        find_slice("v4-32", count=0)


def test_the_clock_fits_the_peak():
    # Operations a cycle are those of a whole number of 128 x 128 matrix units.
    for name, chip in CHIPS.items():
        units = chip.peak_flops / chip.clock_hz / (2 * 128 * 128)
        assert units == pytest.approx(round(units), rel=0.02), name


def test_the_facts_need_no_jax():
    code = "import sys, bert_jax.slices; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
