# SPDX-License-Identifier: Apache-2.0
r"""Benchmark: preparing a store, against the tokenizer library alone and the original's builder.

    python benchmarks/prepare.py --input='demo/corpus/*.txt'

All read the same text, one sentence a line. Sides take turns in rounds, each in a process of its
own, and medians are given: MB of text a second of wall time, and a second of processor time ("a
core"), which what else runs on the machine does not change much. Start-up (imports, and processes
for a corpus of a few documents) is measured once and left out on all sides. The library is Hugging
Face `tokenizers`, `BertWordPieceTokenizer.encode_batch` on one thread; the original is the literal
port in `original_builder.py`, on the first 300 KB: its default is ten passes over the text
(`dupe_factor`), where a store serves any number of them.

The last part reads the finished store in batches of 256 documents at random: its records, as TFDS
and as bare ArrayRecord bytes, and its arrays, from which training reads. Prints a table, and as the
last line JSON.
"""

import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.errors import UsageError, run_command
from data_pipeline.store import open_store
from data_pipeline.tokenizers import load_tokenizer

ORIGINAL_BYTES = 300_000
ORIGINAL = {"original, 1 pass": 1, "original, 10 passes": 10}
BATCH = 256

_INPUT = flags.DEFINE_string("input", "demo/corpus/*.txt", "Text files of one sentence a line.")
_MEGABYTES = flags.DEFINE_float("megabytes", 10, "How much of them to use.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Tokenizer directory; None trains one first.")
_WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Numbers of worker processes to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of measurements.", lower_bound=1)

_LIBRARY = """
import sys, time
from pathlib import Path
from tokenizers import BertWordPieceTokenizer
lines = [line for line in Path(sys.argv[1]).read_text().split("\\n") if line]
tokenizer = BertWordPieceTokenizer(sys.argv[2] + "/vocab.txt", lowercase=True)
start = time.perf_counter(), time.process_time()
for first in range(0, len(lines), 1000):
    for encoded in tokenizer.encode_batch(lines[first:first + 1000], add_special_tokens=False):
        encoded.ids
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""
_ORIGINAL = """
import sys, time
from pathlib import Path
from original_builder import Recipe, build
from data_pipeline.tokenizers import load_tokenizer
lines = Path(sys.argv[1]).read_text().split("\\n")
tokenizer = load_tokenizer(sys.argv[2])
special = tokenizer.special
recipe = Recipe(128, 20, tokenizer.vocab_size, special.cls, special.sep, special.mask)
start = time.perf_counter(), time.process_time()
build(lines, tokenizer.tokens, recipe, int(sys.argv[3]), Path(sys.argv[1] + ".tfrecord"))
print(time.perf_counter() - start[0], time.process_time() - start[1])
"""


def _cut(files: Sequence[str], size: int) -> str:
    """The first `size` bytes of the files together, up to an empty line."""
    text = ""
    for name in files:
        if len(text.encode()) < size:
            text += Path(name).read_text(encoding="utf-8").strip() + "\n\n"
    whole = text.encode()[:size].decode("utf-8", "ignore")
    return whole[: whole.rfind("\n\n") + 1] if len(text.encode()) > size else text


def _timed(command: Sequence[str]) -> tuple[float, float]:
    """Runs a program from start to end: wall and processor seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _told(program: str, *arguments: object) -> tuple[float, float]:
    """Runs a program that tells its own wall and processor seconds."""
    folder = Path(__file__).parent
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = f"{folder}:{folder.parent}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wall, processor = map(float, done.stdout.split())
    return wall, processor


def _start_up(folder: Path, tokenizer: Path) -> dict[str, tuple[float, float]]:
    """What the command costs on next to no text, with each number of workers."""
    for number in range(8):
        (folder / f"tiny-{number}.txt").write_text(f"Hello {number}.\n\nBye.\n" * 2)
    command = [sys.executable, "-m", "data_pipeline.prepare", f"--input={folder}/tiny-*.txt"]
    command += ["--format=lines", f"--tokenizer={tokenizer}"]
    return {
        workers: _timed([*command, f"--output={folder}/none-{workers}", f"--workers={workers}"])
        for workers in _WORKERS.value
    }


def _measure(folder: Path, text: Path, head: Path, tokenizer: Path) -> dict[str, dict[str, float]]:
    """MB/s of every side, medians over rounds."""
    rounds: dict[str, list[tuple[float, float]]] = {}
    megabytes = {name: head.stat().st_size / 1e6 for name in ORIGINAL}
    start_up = _start_up(folder, tokenizer)
    for number in range(_ROUNDS.value):
        for workers in _WORKERS.value:
            command = [sys.executable, "-m", "data_pipeline.prepare", f"--input={text}"]
            command += ["--format=lines", f"--tokenizer={tokenizer}", f"--workers={workers}"]
            command += [f"--output={folder}/store-{workers}-{number}"]
            wall, processor = _timed(command)
            before = start_up[workers]
            rounds.setdefault(f"prepare, {workers} workers", []).append(
                (wall - before[0], processor - before[1])
            )
        rounds.setdefault("library", []).append(_told(_LIBRARY, text, tokenizer))
        for name, passes in ORIGINAL.items():
            rounds.setdefault(name, []).append(_told(_ORIGINAL, head, tokenizer, passes))
    return {
        name: {
            "MB_per_second": megabytes.get(name, text.stat().st_size / 1e6)
            / statistics.median(wall for wall, _ in times),
            "MB_per_core_second": megabytes.get(name, text.stat().st_size / 1e6)
            / statistics.median(processor for _, processor in times),
        }
        for name, times in rounds.items()
    }


def _reading(path: Path) -> dict[str, float]:
    """Millions of tokens a second of processor time, read in batches at random."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    store = open_store(path)
    split = store.split("train")
    source = tfds.builder_from_directory(path).as_data_source("train")
    bare = ArrayRecordDataSource([str(p) for p in sorted(path.glob("*train.array_record*"))])
    starts = np.asarray(split.sentence_offsets)[np.asarray(split.document_offsets)]
    tokens = np.asarray(split.tokens)

    def arrays(numbers: np.ndarray) -> None:
        for number in numbers:
            tokens[starts[number] : starts[number + 1]].copy()

    ways = {
        "records by TFDS": lambda numbers: source.__getitems__(numbers.tolist()),
        "records, bytes only": lambda numbers: bare.__getitems__(numbers.tolist()),
        "arrays": arrays,
    }
    random = np.random.default_rng(0)
    rates = {}
    for name, read in ways.items():
        count, start = 0, time.process_time()
        while time.process_time() - start < 2:
            numbers = random.integers(0, split.documents, BATCH)
            read(numbers)
            count += int((starts[numbers + 1] - starts[numbers]).sum())
        rates[name] = count / (time.process_time() - start) / 1e6
    return rates


def main(arguments: Sequence[str]) -> None:
    """The benchmark."""
    if len(arguments) > 1:
        raise UsageError(f"unexpected argument {arguments[1]!r}")
    files = sorted(glob.glob(_INPUT.value))
    if not files:
        raise UsageError(f"--input: no file matches {_INPUT.value}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, head = folder / "text.txt", folder / "head.txt"
        text.write_text(_cut(files, round(_MEGABYTES.value * 1e6)), encoding="utf-8")
        head.write_text(_cut([str(text)], ORIGINAL_BYTES), encoding="utf-8")
        tokenizer = Path(_TOKENIZER.value or folder / "tokenizer")
        if not _TOKENIZER.value:
            command = [sys.executable, "-m", "data_pipeline.vocab", f"--input={text}"]
            _timed([*command, "--format=lines", f"--output={tokenizer}"])
        load_tokenizer(tokenizer)
        speeds = _measure(folder, text, head, tokenizer)
        reading = _reading(next(folder.glob("store-*")))
        size = text.stat().st_size
    one = speeds[f"prepare, {_WORKERS.value[0]} workers"]["MB_per_core_second"]
    report: dict[str, Any] = {
        "text_bytes": size,
        "cores": os.cpu_count(),
        "speeds": speeds,
        "ratio_to_library_per_core": one / speeds["library"]["MB_per_core_second"],
        "ratio_to_original_per_core": {
            name: one / speeds[name]["MB_per_core_second"] for name in ORIGINAL
        },
        "reading_million_tokens_per_core_second": reading,
    }
    print(f"{'':<22}{'MB/s':>10}{'MB/s a core':>14}")
    for side, speed in speeds.items():
        print(f"{side:<22}{speed['MB_per_second']:>10.3f}{speed['MB_per_core_second']:>14.3f}")
    print(f"a core's speed is {report['ratio_to_library_per_core']:.2f} times the library's,")
    for name, ratio in report["ratio_to_original_per_core"].items():
        print(f"and {ratio:.1f} times that of the {name}")
    for way, rate in reading.items():
        print(f"reading {way:<22}{rate:>10.2f} million tokens/s a core")
    print(json.dumps(report))


if __name__ == "__main__":
    run_command(main)
