# SPDX-License-Identifier: Apache-2.0
"""The store: a tokenised corpus as flat arrays, made once and read by everything.

    STORE/
      store.json                  what is inside: counts, tokenizer, sources, checksums
      tokenizer/                  the tokenizer that made the ids
      train/tokens.npy            uint16 (uint32 above 65,536 tokens) [tokens]
      train/sentence_offsets.npy  int64 [sentences + 1], token at which each sentence starts
      train/document_offsets.npy  int64 [documents + 1], sentence at which each document starts
      validation/...              the same
      kept/                       what readers have computed of it; may be deleted at any time

No sentence and no document is empty. Readers map the arrays into memory, so that opening costs
nothing and any number of processes on a machine share one copy.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import access_errors, is_remote, open_binary, place, size_and_time
from data_pipeline.special_tokens import SpecialTokens
from data_pipeline.tokenizers import Tokenizer, load_tokenizer

FORMAT_VERSION = 1
MANIFEST = "store.json"
SPLITS = ("train", "validation")
ARRAYS = ("tokens", "sentence_offsets", "document_offsets")


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a store: memory-mapped, read-only arrays."""

    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_offsets: np.ndarray  # int64 [sentences + 1]
    document_offsets: np.ndarray  # int64 [documents + 1]
    kept: Path | None = None  # folder for what readers compute of it once, see `kept_arrays`

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.document_offsets) - 1

    @property
    def sentences(self) -> int:
        """Number of sentences."""
        return len(self.sentence_offsets) - 1


class Store:
    """A finished store on disk; see `open_store`."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        tokenizer = manifest["tokenizer"]
        self.vocab_size: int = tokenizer["vocab_size"]
        self.tokenizer_fingerprint: str = tokenizer["fingerprint"]
        self.special = SpecialTokens(**tokenizer["special"])
        # What training reads: arrays and tokenizer, which lie in folders, and not the records.
        files = {name: entry for name, entry in manifest["files"].items() if "/" in name}
        content = json.dumps([files, tokenizer], sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids; loaded when first asked for.

        Raises:
            DataError: the files in `tokenizer/` are not the ones the ids were made with.
        """
        tokenizer = load_tokenizer(self.path / "tokenizer")
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"{self.path / 'tokenizer'} is not the tokenizer that made this store; "
                "restore it or prepare the store again"
            )
        return tokenizer

    def split(self, name: str) -> Split:
        """Maps one split, "train" or "validation", into memory.

        Raises:
            DataError: the arrays do not belong together, or lie where they cannot be mapped.
        """
        if is_remote(self.path):
            raise DataError(
                f"{self.path} is in an object store, but its arrays are mapped into memory: copy "
                "it to a disk of this machine, for example with gcloud storage cp --recursive"
            )
        arrays = {array: self._array(f"{name}/{array}.npy") for array in ARRAYS}
        split = Split(**arrays, kept=self.path / "kept" / f"{name}-{self.fingerprint[:16]}")
        counts = self.manifest["splits"][name]
        found = {
            "documents": split.documents,
            "sentences": split.sentences,
            "tokens": len(split.tokens),
        }
        ends = (int(split.document_offsets[-1]), int(split.sentence_offsets[-1]))
        if found != counts or ends != (split.sentences, len(split.tokens)):
            raise DataError(
                f"{self.path / name}: the arrays hold {found} and end at {ends}, but {MANIFEST} "
                f"says {counts}; prepare the store again"
            )
        return split

    def _array(self, name: str) -> np.ndarray:
        path = self.path / name
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from error


def open_store(path: Path | str) -> Store:
    """Opens a store and checks format version, files and sizes, without reading the arrays.

    Raises:
        DataError: there is no finished store, or it is of another format or damaged.
    """
    path = place(path)
    try:
        with access_errors(path, DataError):
            content = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"no store at {path}: there is no {MANIFEST}; make a store with "
            "python -m data_pipeline.prepare"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path / MANIFEST} cannot be read: {error}") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has store format {version}, this version reads {FORMAT_VERSION}; prepare the "
            "store again"
        )
    try:
        store = Store(path, manifest)
        sizes = {name: int(entry["bytes"]) for name, entry in manifest["files"].items()}
        _ = [manifest["splits"][name] for name in SPLITS]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path / MANIFEST} is not as it was written ({type(error).__name__}: {error}); "
            "prepare the store again"
        ) from error
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            raise DataError(f"{path} is incomplete: {name} is missing; prepare the store again")
        found, _ = size_and_time(file)
        if found != size:
            raise DataError(
                f"{file} has {found:,} bytes instead of {size:,}: the file is damaged; copy it "
                "again or prepare the store again"
            )
    return store


def verify_store(path: Path | str) -> Store:
    """Opens a store and compares every file with its checksum.

    Raises:
        DataError: as `open_store`, or naming the first file whose content has changed.
    """
    store = open_store(path)
    for name, entry in store.manifest["files"].items():
        if file_entry(store.path / name)["crc32"] != entry["crc32"]:
            raise DataError(
                f"{store.path / name} does not have the checksum noted in {MANIFEST}: the file is "
                "damaged; copy it again or prepare the store again"
            )
    return store


def token_type(vocab_size: int) -> np.dtype:
    """The type of the token ids of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file: its size, and its CRC-32 in eight hexadecimal digits."""
    checksum = size = 0
    with open_binary(path) as file:
        while block := file.read(1 << 20):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return {"bytes": size, "crc32": f"{checksum:08x}"}


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The content of `store.json`."""
    return json.dumps(manifest, indent=2)
