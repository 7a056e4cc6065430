# SPDX-License-Identifier: Apache-2.0
"""Texts of TensorFlow Datasets, any text dataset by name, streamed in a fixed order."""

import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import DataError, UsageError

_PATTERN = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")


class TfdsDataset:
    """One split of a dataset that lies on the disk."""

    def __init__(self, name: str, split: str, builder: Any) -> None:
        self._name = name
        self._split = split
        self._builder = builder
        info = builder.info.splits[split]
        self._examples: int = info.num_examples
        self.bytes: int = max(info.num_bytes, info.num_examples)  # a slice tells no bytes

    def texts(self, field: str) -> Iterator[tuple[str, int]]:
        """The text of each example, and about how many bytes of the split have been read.

        Raises:
            DataError: there is no such text field, or a text is not UTF-8.
        """
        import tensorflow_datasets as tfds

        features = self._builder.info.features
        # Text, and strings of other names, are scalars of Python objects to NumPy.
        kinds = {name: (str(f.np_dtype), f.shape) for name, f in features.items() if f.shape == ()}
        if kinds.get(field) != ("object", ()):
            raise DataError(
                f"{self._name} has no text field {field!r} (fields: {', '.join(features)}); choose "
                "one with --text_field"
            )
        examples = self._builder.as_dataset(
            split=self._split,
            decoders=tfds.decode.PartialDecoding({field: True}),
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        for number, example in enumerate(examples.as_numpy_iterator(), 1):
            try:
                text = example[field].decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._name}, split {self._split}, example {number}: byte {error.start} of "
                    f"{field!r} is not UTF-8"
                ) from error
            yield text, self.bytes * number // self._examples


def find_dataset(pattern: str, data_dir: str | None = None) -> TfdsDataset:
    """Opens `tfds:NAME[:SPLIT]`, by default the split "train"; downloads what is not there.

    Args:
        pattern: NAME may hold config and version, such as `wiki40b/en:1.3.0`; SPLIT may be a slice,
            such as `train[:1%]`.
        data_dir: where TensorFlow Datasets keeps its data; None is ~/tensorflow_datasets.

    Raises:
        UsageError: not of this form.
        DataError: no such dataset or split, or it cannot be downloaded.
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise UsageError(f"--input: {pattern} is not of the form tfds:NAME or tfds:NAME:SPLIT")
    name, split = match["name"], match["split"] or "train"
    builder = open_builder(name, data_dir)
    try:
        return TfdsDataset(name, split, builder)
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{name} has no split {split!r} (splits: {known})") from error


def open_builder(name: str, data_dir: str | None = None) -> Any:
    """The TFDS builder of a data set that then lies on the disk; downloads it if it does not.

    Raises:
        DataError: no such data set, or it cannot be downloaded.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{name} needs TensorFlow Datasets; install the extra: pip install 'bert-jax[data]'"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(f"TensorFlow Datasets knows no dataset {name}") from error
    except (AssertionError, ValueError) as error:
        raise DataError(f"TensorFlow Datasets cannot open {name}: {error}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Anything can go wrong in hundreds of dataset scripts, mostly the network.
        raise DataError(
            f"TensorFlow Datasets could not get {name}: {type(error).__name__}: {error}; "
            "prepare it where there is a network and give its place with --tfds_data_dir"
        ) from error
    return builder
