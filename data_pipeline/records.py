# SPDX-License-Identifier: Apache-2.0
"""The documents of a store as a TensorFlow dataset of ArrayRecord shards, beside its arrays.

    builder = tfds.builder_from_directory("STORE")
    builder.as_data_source("train")[17]  # {"document": 17, "sentence_ends": ..., "tokens": ...}

A record is one document: its number, its token ids, and after which of them a sentence ends. A
document of more than `PASSAGE_TOKENS` is several records in a row, cut at sentence ends. Training
reads the arrays: records cost some 20 us each (docs/data.md).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import open_binary, place, written_whole
from data_pipeline.output import disk_errors
from data_pipeline.store import SPLITS, Split, Store, token_type

NAME = "bert_store"
VERSION = "1.0.0"
METADATA = ("dataset_info.json", "features.json")
PASSAGE_TOKENS = 1 << 20
_SHARD_TOKENS = 1 << 25


@dataclasses.dataclass(frozen=True)
class Shard:
    """A stretch of the documents of a split."""

    number: int  # among the shards of the store
    split: str
    index: int  # among the shards of the split
    shards: int  # of the split
    documents: tuple[int, int]  # the first, and the one to stop before
    tokens: int

    @property
    def file(self) -> str:
        """Its name, as TFDS has it."""
        return f"{NAME}-{self.split}.array_record-{self.index:05d}-of-{self.shards:05d}"


def plan_shards(store: Store) -> list[Shard]:
    """The shards of a store; how many there are follows from its size alone."""
    shards: list[Shard] = []
    for name in SPLITS:
        split = store.split(name)
        count = -(-len(split.tokens) // _SHARD_TOKENS)
        wanted = len(split.tokens) * np.arange(count + 1) // max(count, 1)
        # Searches in the mapped offsets: an array of all documents would not fit everywhere.
        sentences = np.searchsorted(split.sentence_offsets, wanted)
        cuts = np.searchsorted(split.document_offsets, sentences)
        starts = split.sentence_offsets[split.document_offsets[cuts]]  # in tokens
        for index, (first, last) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            tokens = int(starts[index + 1] - starts[index])
            span = (int(first), int(last))
            shards.append(Shard(len(shards), name, index, count, span, tokens))
    return shards


def record_starts(split: Split, first: int, last: int) -> np.ndarray:
    """Where the records of the documents from `first` up to `last` start.

    Args:
        split: needs its offsets only.

    Returns:
        Sentences, int64 [records + 1]; the last one is where the last record ends.
    """
    starts = split.document_offsets[first : last + 1]
    begins = split.sentence_offsets[starts]
    cuts = [starts]
    for document in np.flatnonzero(np.diff(begins) > PASSAGE_TOKENS):
        sentence, end = starts[document], starts[document + 1]
        while split.sentence_offsets[end] - split.sentence_offsets[sentence] > PASSAGE_TOKENS:
            full = split.sentence_offsets[sentence] + PASSAGE_TOKENS
            fits = np.searchsorted(split.sentence_offsets, full, side="right") - 1
            sentence = max(int(fits), int(sentence) + 1)
            cuts.append(np.array([sentence]))
    return np.unique(np.concatenate(cuts))


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What it takes to write any shard."""

    arrays: str  # the directory of the store's arrays
    output: str  # where to write
    vocab_size: int

    def __call__(self, shard: Shard) -> None:
        """Writes one shard, unless it is there already."""
        from tensorflow_datasets.core.example_serializer import ExampleSerializer
        from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

        path = place(self.output) / shard.file
        if path.exists():
            return
        features = _features(self.vocab_size)
        serializer = ExampleSerializer(features.get_serialized_info())
        examples = (
            (number, _serialize(serializer, features.encode_example(example)))
            for number, example in enumerate(self._examples(shard))
        )
        with disk_errors(path), written_whole(path) as file:
            ArrayRecordFileAdapter.write_examples(file, examples)

    def _examples(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """The records of a shard, reading only its stretch of each array."""
        directory = place(self.arrays) / shard.split
        first, last = shard.documents
        documents = _read(directory / "document_offsets.npy", first, last + 1)
        offset = int(documents[0])
        sentences = _read(directory / "sentence_offsets.npy", offset, int(documents[-1]) + 1)
        tokens = _read(directory / "tokens.npy", int(sentences[0]), int(sentences[-1]))
        split = Split(tokens, sentences - sentences[0], documents - offset)
        starts = record_starts(split, 0, last - first)
        owners = np.searchsorted(split.document_offsets, starts, side="right") - 1 + first
        for begin, end, document in zip(starts[:-1], starts[1:], owners, strict=False):
            ends = split.sentence_offsets[begin : end + 1]
            yield {
                "document": int(document),
                "sentence_ends": (ends[1:] - ends[0]).astype(np.int32),
                "tokens": tokens[ends[0] : ends[-1]],
            }


def _serialize(serializer: Any, example: Any) -> bytes:
    # TFDS itself leaves the order of an example's features to a hash map.
    return serializer.get_tf_example(example).SerializeToString(deterministic=True)


def _read(path: Path, start: int, stop: int) -> np.ndarray:
    """A stretch of a one-dimensional .npy file, which may be in an object store."""
    with open_binary(path) as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.seek(start * dtype.itemsize, 1)
        return np.frombuffer(file.read((stop - start) * dtype.itemsize), dtype)


def _features(vocab_size: int) -> Any:
    import tensorflow_datasets as tfds

    # As bytes, a token takes two of them and NumPy neither packs nor unpacks it number by number.
    return tfds.features.FeaturesDict(
        {
            "document": np.int64,
            "sentence_ends": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
            "tokens": tfds.features.Tensor(
                shape=(None,), dtype=token_type(vocab_size).type, encoding="bytes"
            ),
        }
    )


def write_metadata(store: Store, shards: list[Shard], output: Path) -> None:
    """Writes what `tfds.builder_from_directory` reads, when all shards are there."""
    import tensorflow_datasets as tfds
    from etils import epath
    from tensorflow_datasets.core import dataset_info, naming

    infos = []
    for name in SPLITS:
        members = [shard for shard in shards if shard.split == name]
        split = store.split(name)
        template = naming.ShardedFileTemplate(
            data_dir=epath.Path(output),
            dataset_name=NAME,
            split=name,
            filetype_suffix="array_record",
        )
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[len(record_starts(split, *m.documents)) - 1 for m in members],
                num_bytes=len(split.tokens) * split.tokens.itemsize,
                filename_template=template,
            )
        )
    identity = dataset_info.DatasetIdentity(
        name=NAME,
        version=tfds.core.Version(VERSION),
        data_dir=str(output),
        module_name="",
    )
    manifest = store.manifest
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=_features(store.vocab_size),
        description=(
            f"Token ids, tokenizer {manifest['tokenizer']['fingerprint']}. {manifest['provenance']}"
        ).strip(),
        license=manifest["licence"] or None,
    )
    info.set_splits(tfds.core.splits.SplitDict([i for i in infos if i.shard_lengths]))
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    with disk_errors(output):
        info.write_to_directory(epath.Path(output))
