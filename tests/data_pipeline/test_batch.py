# SPDX-License-Identifier: Apache-2.0
"""The border: prediction slots follow from the length, and a wrong batch is named."""

import math

import numpy as np
import pytest

from data_pipeline.batch import BatchSpec, max_predictions, validate
from data_pipeline.errors import DataError

SPEC = BatchSpec(batch_size=2, length=16)
VOCABULARY = 50


def zeros():
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in SPEC.features().items()}


@pytest.mark.parametrize(("length", "slots"), [(128, 20), (512, 77), (20, 3), (100, 15), (64, 10)])
def test_slots_of_published_lengths(length, slots):
    assert max_predictions(length) == slots


def test_slots_are_15_percent_rounded_up():
    for length in range(1, 1025):
        assert max_predictions(length) == math.ceil(15 * length / 100)


def test_a_batch_as_declared_passes():
    validate(zeros(), SPEC, VOCABULARY)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", VOCABULARY, "input_ids holds values from 0 to 50, allowed are 0 to 49"),
        ("input_ids", -1, "input_ids holds values from -1 to 0"),
        ("masked_ids", VOCABULARY, "masked_ids holds values from 0 to 50"),
        ("masked_positions", 16, "masked_positions holds values from 0 to 16, allowed are 0 to 15"),
        ("segment_ids", 2, "segment_ids holds values from 0 to 2"),
        ("next_sentence_label", 2, "next_sentence_label holds values from 0 to 2"),
    ],
)
def test_values_out_of_range_are_named(name, value, message):
    batch = zeros()
    batch[name].flat[0] = value
    with pytest.raises(DataError, match=message) as caught:
        validate(batch, SPEC, VOCABULARY)
    assert caught.value.exit_code == 65


def test_rows_without_pairs_have_no_label_all_together():
    batch = zeros()
    batch["next_sentence_label"][:] = -1
    validate(batch, SPEC, VOCABULARY)
    batch["next_sentence_label"][0] = 0
    with pytest.raises(DataError, match="next_sentence_label holds values from -1 to 0, allowed"):
        validate(batch, SPEC, VOCABULARY)


def test_missing_and_unknown_features_are_named():
    batch = zeros()
    batch["labels"] = batch.pop("masked_ids")
    with pytest.raises(DataError, match=r"batch has features .*'labels'.*expected .*'masked_ids'"):
        validate(batch, SPEC, VOCABULARY)


@pytest.mark.parametrize("name", list(SPEC.features()))
def test_wrong_shapes_and_types_are_named(name):
    batch = zeros()
    batch[name] = batch[name][:1]
    with pytest.raises(DataError, match=f"batch feature {name} is"):
        validate(batch, SPEC, VOCABULARY)
    batch = zeros()
    batch[name] = batch[name].astype(np.int64)
    with pytest.raises(DataError, match=f"batch feature {name} is int64"):
        validate(batch, SPEC, VOCABULARY)
