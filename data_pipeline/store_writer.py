# SPDX-License-Identifier: Apache-2.0
"""Writes the arrays and the manifest of a store (`data_pipeline.store`) in bounded memory."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.output import NewDirectory, NpyWriter, disk_errors, write_durably
from data_pipeline.store import (
    ARRAYS,
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    Store,
    file_entry,
    manifest_text,
    open_store,
    token_type,
)
from data_pipeline.tokenizers import Tokenizer


class StoreWriter:
    """Writes a store in bounded memory; it appears at `path` only when `finish` has run.

        with StoreWriter(path, tokenizer) as writer:
            writer.add_document("train", [[7, 8], [9]])
            writer.finish({"name": "example"})

    Left early, the block leaves nothing behind.
    """

    def __init__(self, path: Path | str, tokenizer: Tokenizer) -> None:
        """Claims the place.

        Raises:
            OutputError: something is there already, another writer is at work, or the place
                cannot be written to.
        """
        self._tokenizer = tokenizer
        self._directory = NewDirectory(Path(path))
        self._temporary = self._directory.temporary
        with disk_errors(self._temporary):
            self._files = {name: self._open_arrays(name) for name in SPLITS}

    def _open_arrays(self, split: str) -> dict[str, NpyWriter]:
        directory = self._temporary / split
        directory.mkdir()
        dtypes = (token_type(self._tokenizer.vocab_size), np.dtype(np.int64), np.dtype(np.int64))
        files = {
            array: NpyWriter(directory / f"{array}.npy", dtype)
            for array, dtype in zip(ARRAYS, dtypes, strict=True)
        }
        for array in ("sentence_offsets", "document_offsets"):
            files[array].append(np.zeros(1, np.int64))
        return files

    def add_document(self, split: str, sentences: Sequence[Sequence[int]]) -> int:
        """Appends a document, leaving out empty sentences.

        Returns:
            The number of sentences stored; a document of none is left out.

        Raises:
            DataError: a token id is outside the vocabulary.
            DiskError: writing failed.
        """
        lengths = np.array([len(sentence) for sentence in sentences if sentence], np.int64)
        if not len(lengths):
            return 0
        total = int(lengths.sum())
        tokens = np.fromiter(itertools.chain.from_iterable(sentences), np.int64, total)
        self.add_documents(split, tokens, lengths, np.array([len(lengths)]))
        return len(lengths)

    def add_documents(
        self,
        split: str,
        tokens: np.ndarray,
        sentence_lengths: np.ndarray,
        document_lengths: np.ndarray,
    ) -> None:
        """Appends documents in a row, of which none is empty.

        Args:
            split: "train" or "validation".
            tokens: integers [tokens].
            sentence_lengths: integers from 1 [sentences], in tokens.
            document_lengths: integers from 1 [documents], in sentences.

        Raises:
            DataError: a token id is outside the vocabulary.
            DiskError: writing failed.
        """
        if not len(tokens):
            return
        if tokens.min() < 0 or tokens.max() >= self._tokenizer.vocab_size:
            raise DataError(
                f"token ids from {tokens.min()} to {tokens.max()} in a document, but the "
                f"vocabulary has {self._tokenizer.vocab_size}"
            )
        files = self._files[split]
        with disk_errors(self._temporary):
            sentences = files["sentence_offsets"].length - 1
            ends = np.cumsum(sentence_lengths, dtype=np.int64)
            files["sentence_offsets"].append(files["tokens"].length + ends)
            files["tokens"].append(tokens)
            ends = np.cumsum(document_lengths, dtype=np.int64)
            files["document_offsets"].append(sentences + ends)

    def finish(self, fields: Mapping[str, Any]) -> Store:
        """Completes the files, writes the manifest and gives the store its name.

        Args:
            fields: further entries of `store.json`: name, options, sources, licence, provenance,
                versions.
        """
        splits = {
            name: {
                "documents": files["document_offsets"].length - 1,
                "sentences": files["sentence_offsets"].length - 1,
                "tokens": files["tokens"].length,
            }
            for name, files in self._files.items()
        }
        manifest: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "tokenizer": {
                "kind": self._tokenizer.kind,
                "vocab_size": self._tokenizer.vocab_size,
                "fingerprint": self._tokenizer.fingerprint,
                "special": dataclasses.asdict(self._tokenizer.special),
            },
            "splits": splits,
        }
        with disk_errors(self._temporary):
            for file in self._all_files():
                file.close()
            self._tokenizer.save(self._temporary / "tokenizer")
            written = sorted(p for p in self._temporary.glob("*/*") if p.is_file())
            manifest["files"] = {
                str(file.relative_to(self._temporary)): file_entry(file) for file in written
            }
            write_durably(self._temporary / MANIFEST, manifest_text({**fields, **manifest}))
            self._directory.commit()
        return open_store(self._directory.path)

    def _all_files(self) -> Iterator[NpyWriter]:
        return itertools.chain.from_iterable(files.values() for files in self._files.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._all_files():
            file.abandon()
        self._directory.__exit__(*exception)
