# SPDX-License-Identifier: Apache-2.0
r"""Makes a store from text: documents -> sentences -> token ids -> arrays.

    python -m data_pipeline.prepare --input='corpus/*.txt.gz,tfds:wiki40b/en' \
        --tokenizer=runs/tokenizer --output=runs/store

A document goes to the validation split when the hash of its text falls below
`--validation_fraction`: the split does not depend on the order of the input, and exact copies of a
document never end up on both sides. A small corpus gets at least one document on each side.
"""

import dataclasses
import hashlib
import importlib.metadata
import platform
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.corpora import (
    CorpusOptions,
    Document,
    Source,
    find_sources,
    read_documents,
)
from data_pipeline.errors import DataError, OutputError, UsageError, run_command
from data_pipeline.progress import Progress
from data_pipeline.store import MANIFEST, Store, StoreWriter, open_store
from data_pipeline.tokenizers import Tokenizer, load_tokenizer

_CHUNK_CHARACTERS = 1 << 22
_HASHES = 1 << 64


@dataclasses.dataclass
class _Counts:
    """What one pass over the input met."""

    documents: int = 0
    characters: int = 0
    unknown_tokens: int = 0
    empty_documents: int = 0
    smallest_hash: int = _HASHES
    largest_hash: int = -1


def prepare(
    corpus: CorpusOptions,
    tokenizer: Tokenizer,
    output: Path,
    *,
    validation_fraction: float = 0.02,
    licence: str = "",
    provenance: str = "",
) -> Store:
    """Makes a store, or finds the finished one of an earlier run with the same options.

    Args:
        corpus: what to read and how.
        tokenizer: makes the ids.
        output: the directory of the store.
        validation_fraction: share of the documents to hold out, between 0 and 1.
        licence: of the text, kept in the manifest.
        provenance: where the text is from, kept in the manifest.

    Raises:
        UserError: anything wrong with input, options or output; nothing is left behind then.
    """
    if not 0 < validation_fraction < 1:
        raise UsageError(f"--validation_fraction={validation_fraction} must lie between 0 and 1")
    sources = find_sources(corpus)
    options = dataclasses.asdict(corpus) | {"validation_fraction": validation_fraction}
    fields: dict[str, Any] = {
        "name": output.name,
        "licence": licence,
        "provenance": provenance,
        "options": options,
        "sources": [dataclasses.asdict(source) for source in sources],
        "versions": _versions(tokenizer),
    }
    if (output / MANIFEST).exists():
        store = open_store(output)
        _check_same(store, fields, tokenizer)
        print(f"{output} is finished already; nothing left to do")
        return store
    limit = round(validation_fraction * _HASHES)
    for _ in range(2):
        with StoreWriter(output, tokenizer) as writer:
            counts = _write(writer, sources, corpus, tokenizer, limit)
            if counts.smallest_hash < limit <= counts.largest_hash:
                fields["counts"] = {
                    "characters": counts.characters,
                    "unknown_tokens": counts.unknown_tokens,
                    "empty_documents": counts.empty_documents,
                }
                return writer.finish(fields)
        if counts.largest_hash < 0:
            raise DataError(f"there is no text in {corpus.input}")
        if counts.smallest_hash == counts.largest_hash:
            raise DataError(
                f"{corpus.input} holds one document only, and one has to be held out: give more "
                "text, or separate documents by empty lines (--format=lines) or files "
                "(--format=prose)"
            )
        # A small corpus fell on one side: move the border past its nearest document.
        limit = min(max(limit, counts.smallest_hash + 1), counts.largest_hash)
    raise AssertionError("the second pass has a document on each side")


def _write(
    writer: StoreWriter,
    sources: Sequence[Source],
    corpus: CorpusOptions,
    tokenizer: Tokenizer,
    limit: int,
) -> _Counts:
    """Writes all documents; those whose hash is below `limit` are held out."""
    counts = _Counts()
    progress = Progress("prepare", sum(source.bytes for source in sources))
    for chunk in _chunks(read_documents(sources, corpus)):
        ids = iter(tokenizer.encode_batch([s for document in chunk for s in document.sentences]))
        for document in chunk:
            encoded = [next(ids) for _ in document.sentences]
            place = _hash(document.sentences)
            if not writer.add_document("validation" if place < limit else "train", encoded):
                counts.empty_documents += 1
                continue
            counts.documents += 1
            counts.characters += sum(map(len, document.sentences))
            counts.unknown_tokens += sum(s.count(tokenizer.special.unk) for s in encoded)
            counts.smallest_hash = min(counts.smallest_hash, place)
            counts.largest_hash = max(counts.largest_hash, place)
        progress.update(chunk[-1].position, f"{counts.documents:,} documents")
    progress.finish(f"{counts.documents:,} documents")
    return counts


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Groups of documents with about four million characters."""
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += sum(map(len, document.sentences))
        if characters > _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _hash(sentences: Sequence[str]) -> int:
    text = "\n".join(sentences).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _versions(tokenizer: Tokenizer) -> dict[str, str]:
    """Versions of everything that has a say in the ids."""
    library = "tokenizers" if tokenizer.kind == "wordpiece" else "sentencepiece"
    packages = {name: importlib.metadata.version(name) for name in (library, "sentencex")}
    unicode_version = unicodedata.unidata_version
    return {"python": platform.python_version(), "unicode": unicode_version, **packages}


def _check_same(store: Store, fields: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Refuses to take a finished store for the result of other options."""

    def comparable(values: Any, fingerprint: str) -> dict[str, Any]:
        options = {name: value for name, value in values["options"].items() if name != "input"}
        kept = {name: values[name] for name in ("sources", "licence", "provenance")}
        return {**options, **kept, "tokenizer": fingerprint}

    now = comparable(fields, tokenizer.fingerprint)
    then = comparable(store.manifest, store.manifest["tokenizer"]["fingerprint"])
    different = [
        f"  {name}: {then.get(name)} there, {value} asked for"
        for name, value in now.items()
        if value != then.get(name)
    ]
    if different:
        raise OutputError(
            f"{store.path} is a finished store made with something else; remove it or choose "
            "another --output. What differs:\n" + "\n".join(different)
        )


def summary(store: Store) -> str:
    """What is in a store, in a few lines."""
    counts, splits = store.manifest["counts"], store.manifest["splits"]
    tokens = sum(split["tokens"] for split in splits.values())
    lines = [
        f"{name:<12}{split['documents']:>10,} documents{split['sentences']:>13,} sentences"
        f"{split['tokens']:>15,} tokens"
        for name, split in splits.items()
    ]
    lines.append(
        f"[UNK] {counts['unknown_tokens'] / tokens:.3%} of the tokens, "
        f"{counts['characters'] / tokens:.2f} characters a token, "
        f"{counts['empty_documents']:,} empty documents left out"
    )
    return "\n".join([*lines, str(store.path)])


def main(arguments: Sequence[str]) -> None:
    """The command."""
    del arguments
    values = flags.FLAGS
    for name in ("input", "tokenizer", "output"):
        if not values[name].value:
            raise UsageError(f"--{name} is missing")
    tokenizer = load_tokenizer(values.tokenizer, values.lower_case, values.strip_accents)
    store = prepare(
        CorpusOptions.from_flags(),
        tokenizer,
        Path(values.output),
        validation_fraction=values.validation_fraction,
        licence=values.licence,
        provenance=values.provenance,
    )
    print(summary(store))


if __name__ == "__main__":
    CorpusOptions.define_flags()
    flags.DEFINE_string("tokenizer", None, "Tokenizer directory, vocab.txt or .model.")
    flags.DEFINE_bool("lower_case", None, "Overrides the tokenizer's setting.")
    flags.DEFINE_bool("strip_accents", None, "Overrides the tokenizer's setting.")
    flags.DEFINE_string("output", None, "Directory of the store to make.")
    flags.DEFINE_float("validation_fraction", 0.02, "Share of the documents to hold out.")
    flags.DEFINE_string("licence", "", "Licence of the text, noted in the store.")
    flags.DEFINE_string("provenance", "", "Where the text is from, noted in the store.")
    run_command(main)
