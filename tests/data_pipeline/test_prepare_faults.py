# SPDX-License-Identifier: Apache-2.0
"""Preparing on many workers, and through everything that interrupts it: the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_pipeline import corpora
from data_pipeline.corpora import CorpusOptions
from data_pipeline.errors import DataError, OutputError, Preempted
from data_pipeline.output import claim
from data_pipeline.prepare import Where, prepare
from data_pipeline.store import verify_store
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.command import ROOT, assert_fails, run
from tests.data_pipeline.test_prepare import random_documents, write_lines

TWO = Where(workers=2)
SDK_WORKERS = (
    "--runner=FnApiRunner",
    "--direct_running_mode=multi_processing",
    "--direct_num_workers=2",
)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_UNIT_BYTES", (4000, 1 << 28))


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusOptions:
    """Some 20 units in files of several kinds."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_lines(folder / "a.txt", random_documents(500))
    for number in range(5):
        write_lines(folder / f"b{number}.txt", random_documents(10, seed=number))
    texts = [" ".join(document) for document in random_documents(200, seed=9)]
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return CorpusOptions(f"{folder}/*")


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def expected(tmp_path: Path, corpus: CorpusOptions, tokenizer: WordPieceTokenizer) -> dict:
    """What one worker makes without interruption."""
    store = prepare(corpus, tokenizer, tmp_path / "undisturbed" / "store", duplicates="exact")
    verify_store(store.path)
    return content(store.path)


@pytest.mark.parametrize("where", [TWO, Where(beam_options=SDK_WORKERS)], ids=["ours", "Beam's"])
def test_workers_change_nothing(
    tmp_path: Path,
    corpus: CorpusOptions,
    tokenizer: WordPieceTokenizer,
    expected: dict,
    where: Where,
) -> None:
    store = prepare(corpus, tokenizer, tmp_path / "store", duplicates="exact", where=where)
    assert content(store.path) == expected
    assert not (tmp_path / "store.tmp").exists()


class Deadly(WordPieceTokenizer):
    """Kills a process, once, after some sentences: the worker or the one that started it."""

    def __init__(self, other: WordPieceTokenizer, trap: Path, victim: str) -> None:
        super().__init__(other.tokens, **other.settings)
        self.trap, self.victim, self.calls = trap, victim, 0
        trap.touch()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += 1
        if self.calls > 3 and self.trap.exists():
            self.trap.unlink()
            os.kill(os.getpid() if self.victim == "worker" else os.getppid(), signal.SIGKILL)
        return super().encode_batch(texts)


def test_a_killed_worker_is_told_and_the_next_start_continues(
    tmp_path: Path,
    corpus: CorpusOptions,
    tokenizer: WordPieceTokenizer,
    expected: dict,
    capsys: pytest.CaptureFixture[str],
) -> None:
    deadly = Deadly(tokenizer, tmp_path / "trap", "worker")
    output = tmp_path / "store"
    with pytest.raises(Preempted, match="a worker process was killed.*start the same") as raised:
        prepare(corpus, deadly, output, duplicates="exact", where=TWO)
    assert raised.value.exit_code == 75
    assert not output.exists()
    parts = len(list((tmp_path / "store.tmp" / "parts").glob("[0-9]*.npz")))
    assert parts >= 3
    capsys.readouterr()
    prepare(corpus, tokenizer, output, duplicates="exact")
    said, shown = capsys.readouterr()
    assert f"continuing: {parts} of 12 parts" in said
    assert f"parts: {12 - parts} of {12 - parts}, done" in shown
    assert content(output) == expected
    assert not (tmp_path / "store.tmp").exists()


PARENT = """
from pathlib import Path
from data_pipeline import corpora
from data_pipeline.corpora import CorpusOptions
from data_pipeline.prepare import prepare
from data_pipeline.tokenizers import load_tokenizer
from tests.data_pipeline.test_prepare_faults import TWO, Deadly
if __name__ == "__main__":
    corpora._UNIT_BYTES = (4000, 1 << 28)
    deadly = Deadly(load_tokenizer({tokenizer!r}), Path({trap!r}), "parent")
    prepare(CorpusOptions({input!r}), deadly, Path({output!r}), duplicates="exact", where=TWO)
"""


def test_when_the_command_is_killed_its_workers_end_and_the_next_start_continues(
    tmp_path: Path,
    corpus: CorpusOptions,
    tokenizer: WordPieceTokenizer,
    tokenizer_directory: Path,
    expected: dict,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PARENT.format(
            tokenizer=str(tokenizer_directory),
            trap=str(tmp_path / "trap"),
            input=corpus.input,
            output=str(tmp_path / "store"),
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A pipe that every process of the command holds open: it ends when all of them have.
    command = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    command.communicate(timeout=60)
    assert command.returncode == -signal.SIGKILL
    assert list((tmp_path / "store.tmp" / "parts").glob("[0-9]*.npz"))
    prepare(corpus, tokenizer, tmp_path / "store", duplicates="exact")
    assert content(tmp_path / "store") == expected


@pytest.mark.parametrize("stage", ["arrays", "records", "end"])
def test_whatever_was_left_is_taken_up(
    tmp_path: Path,
    corpus: CorpusOptions,
    tokenizer: WordPieceTokenizer,
    expected: dict,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped by anything while arrays or records are made, or just before the store appears."""
    place = {"arrays": "write_arrays", "records": "write_metadata", "end": "written_whole"}[stage]

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"data_pipeline.prepare.{place}", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, tokenizer, tmp_path / "store", duplicates="exact")
    assert not (tmp_path / "store").exists()
    for folder in (tmp_path / "store.tmp").iterdir():
        if folder.is_dir():
            (folder / ".half-a-file.12345").write_text("left by a killed worker")
    assert (
        content(prepare(corpus, tokenizer, tmp_path / "store", duplicates="exact").path) == expected
    )


def test_a_full_disk_is_told_and_the_next_start_continues(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    for number in range(8):
        write_lines(tmp_path / f"{number}.txt", random_documents(4, seed=number))
    big = write_lines(tmp_path / "big.txt", random_documents(200))
    common = [f"--input={tmp_path}/*.txt", "--format=lines"]
    common += [f"--tokenizer={tokenizer_directory}", "--workers=1"]
    arguments = [*common, f"--output={tmp_path / 'store'}"]
    assert_fails(
        run("prepare", *arguments, file_kilobytes=3),
        74,
        "failed: File too large; free some space and start again",
    )
    assert big.exists() and not (tmp_path / "store").exists()
    done = run("prepare", *arguments)
    assert done.returncode == 0, done.stderr
    done = run("prepare", *common, f"--output={tmp_path / 'other' / 'store'}")
    assert content(tmp_path / "store") == content(tmp_path / "other" / "store")


def test_bad_bytes_found_by_a_worker_end_everything(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    lines = b"The cat sat.\n\n" * 2000
    path = tmp_path / "a.txt"
    path.write_bytes(lines + b"caf\xe9.\n\n" + lines)
    with pytest.raises(DataError, match=r"a.txt, line 4001: byte 28,003 \(0xe9\) is not UTF-8"):
        prepare(CorpusOptions(str(path)), tokenizer, tmp_path / "store", where=TWO)
    assert list(tmp_path.iterdir()) == [path]


def test_what_someone_else_left_is_not_taken_up(
    tmp_path: Path, corpus: CorpusOptions, tokenizer: WordPieceTokenizer
) -> None:
    output = tmp_path / "store"
    with pytest.raises(Preempted):
        prepare(corpus, Deadly(tokenizer, tmp_path / "trap", "worker"), output, where=TWO)
    with pytest.raises(
        OutputError, match=r"interrupted preparation of something else(.|\n)*language: en there, de"
    ):
        prepare(CorpusOptions(corpus.input, language="de"), tokenizer, output)
    file = Path(corpus.input).parent / "a.txt"
    os.utime(file, ns=(0, time.time_ns()))
    with pytest.raises(OutputError, match="What differs:\n  changed: "):
        prepare(corpus, tokenizer, output)
    os.replace(tmp_path / "store.tmp" / "plan.json", tmp_path / "plan.json")
    with pytest.raises(OutputError, match=r"store.tmp holds something else \(notes, parts"):
        prepare(corpus, tokenizer, output)


def test_a_damaged_part_is_named(
    tmp_path: Path, corpus: CorpusOptions, tokenizer: WordPieceTokenizer
) -> None:
    output = tmp_path / "store"
    with pytest.raises(Preempted):
        prepare(corpus, Deadly(tokenizer, tmp_path / "trap", "worker"), output, where=TWO)
    part = min((tmp_path / "store.tmp" / "parts").glob("[0-9]*.npz"))
    bad = bytearray(part.read_bytes())
    bad[len(bad) // 4] ^= 1
    part.write_bytes(bad)
    with pytest.raises(Exception, match=f"{part.name}, made earlier.*is damaged") as raised:
        prepare(corpus, tokenizer, output)
    assert raised.value.exit_code == 74
    part.unlink()
    verify_store(prepare(corpus, tokenizer, output).path)


def test_only_one_at_a_time(
    tmp_path: Path, corpus: CorpusOptions, tokenizer: WordPieceTokenizer
) -> None:
    lock = claim(tmp_path / "store.tmp")
    with pytest.raises(OutputError, match="another process is writing .*store.tmp"):
        prepare(corpus, tokenizer, tmp_path / "store")
    lock.close()
    prepare(corpus, tokenizer, tmp_path / "store")
