# SPDX-License-Identifier: Apache-2.0
"""Labelled rows of TensorFlow Datasets, class labels by name; GLUE is there under `glue/...`."""

from typing import Any

from data_pipeline.tfds_text import find_dataset


def read_tfds(name: str, split: str, data_dir: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Columns and rows of one split, in the data set's own order.

    A class label becomes its name, a label of -1 (GLUE's test splits) becomes "".

    Raises:
        DataError: there is no such data set or split, or it cannot be downloaded.
    """
    find_dataset(f"tfds:{name}:{split}", data_dir or None)  # downloads it and knows every mishap
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir or None)
    examples = builder.as_dataset(
        split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
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
