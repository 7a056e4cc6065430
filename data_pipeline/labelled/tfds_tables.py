# SPDX-License-Identifier: Apache-2.0
"""Labelled rows of TensorFlow Datasets, class labels by name; GLUE is there under `glue/...`."""

from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.tfds_text import open_builder


def read_tfds(name: str, split: str, data_dir: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Columns and rows of one split, in the data set's own order.

    A class label becomes its name, a label of -1 (GLUE's test splits) becomes "".

    Raises:
        DataError: there is no such data set or split, or it cannot be downloaded.
    """
    builder = open_builder(name, data_dir or None)
    import tensorflow_datasets as tfds

    try:
        examples = builder.as_dataset(
            split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1)
        )
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{name} has no split {split!r} (splits: {known})") from error
    features = {
        column: feature for column, feature in builder.info.features.items() if feature.shape == ()
    }
    rows = [
        {column: _as_text(feature, example[column]) for column, feature in features.items()}
        for example in examples.as_numpy_iterator()
    ]
    return tuple(features), rows


def _as_text(feature: Any, value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(feature, "int2str"):
        return "" if value < 0 else feature.int2str(int(value))
    return str(value)
