# SPDX-License-Identifier: Apache-2.0
"""Texts of TensorFlow Datasets, any text dataset by name, streamed in a fixed order."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import DataError, UsageError

_PATTERN = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
# Wiki-40B marks what its text is made of; like the original BERT, we keep the running text alone.
_WIKI40B_PARAGRAPHS = re.compile("_START_PARAGRAPH_(.*?)(?=_START_[A-Z]+_|$)", re.S)


class TfdsDataset:
    """One split of a dataset that lies on the disk.

    Attributes:
        examples: how many there are in the split.
        bytes: about their size.
    """

    def __init__(self, name: str, split: str, builder: Any) -> None:
        import tensorflow_datasets as tfds

        self._name = name
        self._split = split
        self._builder = builder
        infos = builder.info.splits
        self.examples: int = infos[split].num_examples
        spec = tfds.core.ReadInstruction.from_spec(split)
        self._stretches: list[tuple[str, int, int]] = []  # "train+test[:10%]" has two
        size = 0.0
        for part in spec.to_absolute(infos):
            info = infos[part.splitname]
            begin, end = part.from_ or 0, info.num_examples if part.to is None else part.to
            self._stretches.append((part.splitname, begin, end))
            size += info.num_bytes * (end - begin) / max(info.num_examples, 1)
        self.bytes = max(int(size), self.examples)

    def texts(self, field: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The texts of the examples from `start` up to `stop`, in their order on the disk.

        Raises:
            DataError: there is no such text field, or a text is not UTF-8.
        """
        features = self._builder.info.features
        # Text, and strings of other names, are scalars of Python objects to NumPy.
        kinds = {name: (str(f.np_dtype), f.shape) for name, f in features.items() if f.shape == ()}
        if kinds.get(field) != ("object", ()):
            raise DataError(
                f"{self._name} has no text field {field!r} (fields: {', '.join(features)}); choose "
                "one with --text_field"
            )
        stop = self.examples if stop is None else stop
        for number, content in enumerate(self._contents(field, start, stop), start + 1):
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._name}, split {self._split}, example {number}: byte {error.start} of "
                    f"{field!r} is not UTF-8"
                ) from error
            yield self._running_text(text)

    def _contents(self, field: str, start: int, stop: int) -> Iterator[bytes]:
        """The field of the examples from `start` up to `stop`."""
        import tensorflow_datasets as tfds

        earlier = 0  # examples of the stretches before
        for name, begin, end in self._stretches:
            first, last = (min(max(n - earlier + begin, begin), end) for n in (start, stop))
            earlier += end - begin
            if first == last:
                continue
            span = tfds.core.ReadInstruction(name, first, last, unit="abs")
            if self._builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
                source = self._builder.as_data_source(span)  # TFDS gives these no `as_dataset`
                yield from (source[number][field] for number in range(len(source)))
                continue
            examples = self._builder.as_dataset(
                split=span,
                decoders=tfds.decode.PartialDecoding({field: True}),
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            )
            yield from (example[field] for example in examples.as_numpy_iterator())

    def _running_text(self, text: str) -> str:
        if not self._builder.name.startswith("wiki40b"):
            return text
        paragraphs = _WIKI40B_PARAGRAPHS.findall(text)
        return "\n".join(paragraphs).replace("_NEWLINE_", "\n")


@functools.lru_cache(maxsize=64)
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
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{pattern} needs TensorFlow Datasets; install the extra: pip install 'bert-jax[data]'"
        ) from error
    name, split = match["name"], match["split"] or "train"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(f"TensorFlow Datasets knows no dataset {name}") from error
    except (AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"TensorFlow Datasets cannot open {name}: {reason}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Anything can go wrong in hundreds of dataset scripts, mostly the network.
        raise DataError(
            f"TensorFlow Datasets could not get {name}: {type(error).__name__}: {error}; "
            "prepare it where there is a network and give its place with --tfds_data_dir"
        ) from error
    try:
        return TfdsDataset(name, split, builder)
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise DataError(f"{name} has no split {split!r} (splits: {known})") from error
