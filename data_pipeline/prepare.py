# SPDX-License-Identifier: Apache-2.0
r"""Makes a store from text: documents -> sentences -> token ids -> arrays and records.

    python -m data_pipeline.prepare --input='corpus/*.txt.gz,tfds:wiki40b/en' \
        --tokenizer=runs/tokenizer --output=runs/store

Workers turn units of the corpus into parts (`data_pipeline.parts`); the parts in order become the
arrays of the store (`merge`), and these its records (`records`). Both kinds of work are Apache Beam
pipelines: on all cores of this machine, or where the options behind `--` say (docs/data.md):

    python -m data_pipeline.prepare --input='gs://BUCKET/corpus/*' ... -- --runner=DataflowRunner

Killed or out of disk, it continues where it was when started again. The store is the same, byte for
byte, whoever made which part. A document goes to the validation split when the hash of its text
falls below `--validation_fraction`: the split does not depend on the order of the input, and exact
copies of a document never end up on both sides. A small corpus gets at least one document on each
side.
"""

import dataclasses
import importlib.metadata
import os
import platform
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from data_pipeline.copies import DUPLICATES, find_drops
from data_pipeline.corpora import CorpusOptions, Source, Unit, cut_units, find_sources
from data_pipeline.errors import OutputError, UsageError, run_command
from data_pipeline.files import access_errors, place, size_and_time, written_whole
from data_pipeline.merge import held_out_limit, write_arrays
from data_pipeline.output import disk_errors
from data_pipeline.parts import PartJob, part_path
from data_pipeline.progress import watch_files
from data_pipeline.records import METADATA, ShardJob, plan_shards, write_metadata
from data_pipeline.store import MANIFEST, Store, file_entry, manifest_text, open_store
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import Tokenizer, load_tokenizer
from data_pipeline.workspace import Workspace, clear_leftovers, differences


@dataclasses.dataclass(frozen=True)
class Where:
    """Who does the work; says nothing about the result."""

    workers: int = 1  # processes of this machine
    beam_options: tuple[str, ...] = ()  # Beam's own; with them nothing is done here


def prepare(
    corpus: CorpusOptions,
    tokenizer: Tokenizer,
    output: Path,
    *,
    validation_fraction: float = 0.02,
    duplicates: str = "keep",
    repeated_sentences: int = 0,
    licence: str = "",
    provenance: str = "",
    where: Where = Where(),
) -> Store:
    """Makes a store, or finds the finished one of an earlier run with the same options.

    Args:
        corpus: what to read and how.
        tokenizer: makes the ids.
        output: the directory of the store.
        validation_fraction: share of the documents to hold out, between 0 and 1.
        duplicates: "keep"; "exact" to keep the first one only of documents that are equal, or
            "near" of those that are nearly so (`data_pipeline.near_copies`).
        repeated_sentences: a sentence of at least eight tokens that occurs more often is kept at
            its first place only; 0 keeps all.
        licence: of the text, kept in the manifest.
        provenance: where the text is from, kept in the manifest.
        where: who does the work.

    Raises:
        UserError: anything wrong with input, options or output. After bad input nothing is left
            behind; after anything else the next start continues.
    """
    if not 0 < validation_fraction < 1:
        raise UsageError(f"--validation_fraction={validation_fraction} must lie between 0 and 1")
    if duplicates not in DUPLICATES:
        raise UsageError(f"--duplicates={duplicates}: choose from {', '.join(DUPLICATES)}")
    if repeated_sentences < 0:
        raise UsageError(f"--repeated_sentences={repeated_sentences} must not be negative")
    sources = find_sources(corpus)
    options = dataclasses.asdict(corpus)
    options |= {
        "validation_fraction": validation_fraction,
        "duplicates": duplicates,
        "repeated_sentences": repeated_sentences,
    }
    fields: dict[str, Any] = {
        "name": output.name,
        "licence": licence,
        "provenance": provenance,
        "options": options,
        "sources": [dataclasses.asdict(source) for source in sources],
        "versions": _versions(tokenizer),
    }
    with access_errors(output, OutputError):
        finished = (output / MANIFEST).exists()
    if finished:
        store = open_store(output)
        _check_same(store, fields, tokenizer)
        clear_leftovers(output)
        print(f"{output} is finished already; nothing left to do")
        return store
    units = cut_units(sources, corpus.tfds_data_dir)
    with Workspace(output, _plan(fields, sources, tokenizer)) as work:
        if not (work.store / MANIFEST).exists():
            job = PartJob(
                str(work.parts),
                corpus,
                tokenizer,
                near_copies=duplicates == "near",
                repeated_sentences=repeated_sentences > 0,
            )
            _make_parts(units, job, work, where)
            _merge_parts(units, tokenizer, work, fields)
            work.upload("*/*")
        _add_records(work, where)
        work.finish()
    return open_store(output)


def _plan(
    fields: Mapping[str, Any], sources: Sequence[Source], tokenizer: Tokenizer
) -> dict[str, Any]:
    """All that the result depends on: whoever continues must go by the same."""
    times = [0 if s.format == "tfds" else size_and_time(place(s.name))[1] for s in sources]
    return {
        **fields["options"],
        **{name: value for name, value in fields.items() if name not in ("options", "name")},
        "changed": times,
        "tokenizer": tokenizer.fingerprint,
    }


def _make_parts(units: Sequence[Unit], job: PartJob, work: Workspace, where: Where) -> None:
    """Has a part made of each unit of which there is none."""
    done = work.finished_parts()
    left = [unit for unit in units if part_path(work.parts, unit.number).name not in done]
    if len(left) < len(units):
        print(f"continuing: {len(units) - len(left):,} of {len(units):,} parts are there already")
    sizes = {part_path(work.parts, unit.number).name: unit.bytes for unit in left}
    with watch_files("prepare", "parts", sizes, work.parts):
        _run(left, job, work, where)


def _merge_parts(
    units: Sequence[Unit], tokenizer: Tokenizer, work: Workspace, fields: Mapping[str, Any]
) -> None:
    """Makes the arrays of the store, with a document on each side."""
    paths = [part_path(work.parts, unit.number) for unit in units]
    options = fields["options"]
    with disk_errors(work.scratch):
        drops = find_drops(
            paths, options["duplicates"], options["repeated_sentences"], work.scratch
        )
    limit = held_out_limit(paths, drops, options["validation_fraction"])
    with StoreWriter(work.store, tokenizer) as writer:
        totals = write_arrays(paths, writer, limit, drops, tokenizer.special.unk)
        writer.finish({**fields, "counts": dataclasses.asdict(totals)})


def _add_records(work: Workspace, where: Where) -> None:
    """Adds the documents as a TFDS dataset, and completes the manifest."""
    store = open_store(work.store)
    shards = plan_shards(store)
    job = ShardJob(str(work.final), str(work.final), store.vocab_size)
    sizes = {shard.file: shard.tokens * 2 for shard in shards}
    with watch_files("prepare", "records", sizes, work.final):
        _run(shards, job, work, where)
    write_metadata(store, shards, work.final)
    added = [shard.file for shard in shards] + list(METADATA)
    entries = {name: file_entry(work.final / name) for name in added}
    manifest = dict(store.manifest)
    manifest["files"] = {**manifest["files"], **entries}
    with written_whole(work.final / MANIFEST) as file:
        file.write_text(manifest_text(manifest) + "\n", encoding="utf-8")


def _run(tasks: Sequence[Any], job: Any, work: Workspace, where: Where) -> None:
    """Does the job for each task as a Beam pipeline."""
    from data_pipeline.beam_pipeline import run_tasks

    run_tasks(
        tasks,
        job,
        notes=str(work.notes),
        processes=where.workers,
        beam_options=where.beam_options,
    )


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
    if different := differences(then, now):
        raise OutputError(
            f"{store.path} is a finished store made with something else; remove it or choose "
            f"another --output. What differs:\n{different}"
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
        f"{counts['characters'] / tokens:.2f} characters a token"
    )
    handled = {
        "empty documents left out": counts["empty_documents"],
        "copies of documents left out": counts["dropped_documents"],
        "repeated sentences left out": counts["dropped_sentences"],
        "cuts in documents that were too long": counts["cut_documents"],
        "NUL characters left out": counts["nul_characters"],
    }
    lines.append(", ".join(f"{count:,} {what}" for what, count in handled.items()))
    return "\n".join([*lines, str(store.path)])


def main(arguments: Sequence[str]) -> None:
    """The command."""
    values = flags.FLAGS
    for name in ("input", "tokenizer", "output"):
        if not values[name].value:
            raise UsageError(f"--{name} is missing")
    tokenizer = load_tokenizer(values.tokenizer, values.lower_case, values.strip_accents)
    store = prepare(
        CorpusOptions.from_flags(),
        tokenizer,
        place(values.output),
        validation_fraction=values.validation_fraction,
        duplicates=values.duplicates,
        repeated_sentences=values.repeated_sentences,
        licence=values.licence,
        provenance=values.provenance,
        where=Where(values.workers or os.cpu_count() or 1, tuple(arguments[1:])),
    )
    print(summary(store))


if __name__ == "__main__":
    CorpusOptions.define_flags()
    flags.DEFINE_string("tokenizer", None, "Tokenizer directory, vocab.txt or .model.")
    flags.DEFINE_bool("lower_case", None, "Overrides the tokenizer's setting.")
    flags.DEFINE_bool("strip_accents", None, "Overrides the tokenizer's setting.")
    flags.DEFINE_string("output", None, "Directory of the store to make.")
    flags.DEFINE_float("validation_fraction", 0.02, "Share of the documents to hold out.")
    flags.DEFINE_enum("duplicates", "keep", DUPLICATES, "Documents equal to an earlier one: drop?")
    flags.DEFINE_integer("repeated_sentences", 0, "Keep but one of more than so many; 0: keep all.")
    flags.DEFINE_string("licence", "", "Licence of the text, noted in the store.")
    flags.DEFINE_string("provenance", "", "Where the text is from, noted in the store.")
    flags.DEFINE_integer("workers", 0, "Processes to use here; 0: one a core.", lower_bound=0)
    run_command(main)
