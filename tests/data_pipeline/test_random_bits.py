# SPDX-License-Identifier: Apache-2.0
"""Numbers from keys: reproducible, uniform, independent across keys; permutations one to one."""

import itertools

import numpy as np
import pytest

from data_pipeline.random_bits import Purpose, bits, permute, uniform, uniform_integers
from tests.data_pipeline.significance import SMALLEST_P, fit_p

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17, 100, 255, 256, 257, 1000, 4096, 4097, 65537]


def test_bits_never_change() -> None:
    # Checkpoints of running trainings rely on these: a change would change their data.
    assert bits(0).item() == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0
    assert bits(1, 2, 3).item() == 16914669369030367833
    assert permute(np.arange(6), 6, 42).tolist() == [2, 1, 0, 4, 3, 5]


def test_bits_are_named_by_values_not_by_types_or_shapes() -> None:
    rows, columns = np.arange(3)[:, None], np.arange(4, dtype=np.int32)
    table = bits(-7, rows, columns)
    assert table.shape == (3, 4) and table.dtype == np.uint64
    for row, column in itertools.product(range(3), range(4)):
        assert table[row, column] == bits(np.int64(-7), row, np.uint16(column))
    assert bits(2**64 - 7, 1) == bits(-7, 1)


def test_every_input_bit_changes_half_of_the_output() -> None:
    base = np.arange(2000, dtype=np.uint64)
    for key in range(3):
        for bit in range(0, 64, 7):
            keys = [base, base, base]
            keys[key] = base ^ (np.uint64(1) << np.uint64(bit))
            flipped = bits(base, base, base) ^ bits(*keys)
            share = np.array([(flipped >> np.uint64(k)) & np.uint64(1) for k in range(64)]).mean(1)
            assert np.all(np.abs(share - 0.5) < 5 * 0.5 / np.sqrt(base.size))


@pytest.mark.parametrize("size", [2, 3, 10, 97])
def test_integers_are_uniform_and_independent_of_those_of_near_keys(size: int) -> None:
    index = np.arange(200_000)
    first = uniform_integers(size, 5, index, 0)
    assert fit_p(np.bincount(first, minlength=size)) > SMALLEST_P
    for other in (
        uniform_integers(size, 5, index, 1),  # next counter
        uniform_integers(size, 6, index, 0),  # next seed
        uniform_integers(size, 5, index + 1, 0),  # next example
        uniform_integers(size, index, 5, 0),  # keys exchanged
    ):
        together = np.bincount(first * size + other, minlength=size * size)
        assert fit_p(together) > SMALLEST_P


def test_integers_cover_large_ranges_and_take_arrays_of_sizes() -> None:
    size = 3_000_000_000
    drawn = uniform_integers(size, np.arange(100_000))
    assert 0 <= drawn.min() < size * 1e-4 and size * (1 - 1e-4) < drawn.max() < size
    assert fit_p(np.histogram(drawn, bins=50, range=(0, size))[0]) > SMALLEST_P
    assert np.all(np.bincount(uniform_integers([1, 2, 3], np.arange(1000)[:, None]).max(0)) == 1)


@pytest.mark.parametrize("size", [1, 7, 30_522, 2**32 - 1, 2**32])
def test_integers_are_the_high_half_of_the_exact_product(size: int) -> None:
    index = np.arange(1000)
    exact = [int(drawn) * size >> 64 for drawn in bits(3, index)]
    assert uniform_integers(size, 3, index).tolist() == exact


def test_a_bias_of_one_percent_would_be_seen() -> None:
    drawn = uniform(np.arange(200_000))
    assert fit_p(np.histogram(drawn, bins=20, range=(0, 1))[0]) > SMALLEST_P
    assert fit_p(np.histogram(drawn**1.02, bins=20, range=(0, 1))[0]) < SMALLEST_P


def test_uniform_numbers_stay_below_one() -> None:
    drawn = uniform(3, np.arange(100_000))
    assert drawn.dtype == np.float64 and drawn.min() >= 0 and drawn.max() < 1


@pytest.mark.parametrize("size", SIZES)
def test_permutation_is_one_to_one(size: int) -> None:
    for key in range(3):
        image = permute(np.arange(size), size, key, 11)
        assert np.array_equal(np.sort(image), np.arange(size))


def test_permutations_of_many_sizes_at_once() -> None:
    sizes = np.repeat(SIZES, SIZES)
    index = np.concatenate([np.arange(size) for size in SIZES])
    together = permute(index, sizes, sizes, 4)
    apart = np.concatenate([permute(np.arange(size), size, size, 4) for size in SIZES])
    assert np.array_equal(together, apart)


def test_huge_permutations_do_not_collide() -> None:
    size = 2**52 - 17
    index = np.concatenate([np.arange(50_000), size - 1 - np.arange(50_000)])
    image = permute(index, size, 9)
    assert np.unique(image).size == index.size and image.min() >= 0 and image.max() < size


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_permutation_of_a_few_is_equally_likely(size: int) -> None:
    keys = np.arange(20_000)
    images = permute(np.arange(size), size, keys[:, None], Purpose.ORDER)
    codes = np.unique(images @ size ** np.arange(size), return_counts=True)[1]
    assert codes.size == np.prod(np.arange(1, size + 1))
    assert fit_p(codes) > SMALLEST_P


def test_neighbours_part_and_two_epochs_share_no_order() -> None:
    size = 10_007
    first, second = permute(np.arange(size), size, 1), permute(np.arange(size), size, 2)
    for pairs in ((first[:-1], first[1:]), (first, second), (first, np.arange(size))):
        table = np.histogram2d(*pairs, bins=10)[0]
        assert fit_p(table) > SMALLEST_P
    assert np.sum(first == second) < 8
