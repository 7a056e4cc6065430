# SPDX-License-Identifier: Apache-2.0
"""Training vocabularies: the same every time, and good for the text they were trained on."""

import collections
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.corpora import CorpusOptions, Piece
from data_pipeline.documents import Document, read_piece
from data_pipeline.errors import DataError
from data_pipeline.special_tokens import SPECIAL_NAMES
from data_pipeline.tokenizers import load_tokenizer
from data_pipeline.vocab import sample_sentences, train_wordpiece
from tests.data_pipeline.command import ROOT, assert_fails, run

TEXT = ROOT / "demo" / "corpus" / "natsume-botchan.txt"


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return [line for line in TEXT.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_the_same_text_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """In processes with different hash seeds and numbers of threads."""
    results = set()
    for threads in ("1", "2", "3"):
        output = tmp_path / threads
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        arguments = [f"--input={TEXT}", f"--kind={kind}", "--size=1000", f"--output={output}"]
        done = run("vocab", *arguments, env=environment)
        assert done.returncode == 0, done.stderr
        assert f"{kind}, 1,000 tokens" in done.stdout
        results.add(tuple(path.read_bytes() for path in sorted(output.iterdir())))
    assert len(results) == 1
    tokenizer = load_tokenizer(output)
    assert tokenizer.tokens[:5] == list(SPECIAL_NAMES)
    assert list(vars(tokenizer.special).values()) == [0, 1, 2, 3, 4]


def test_a_wordpiece_vocabulary_covers_its_text(sentences: list[str]) -> None:
    tokenizer = train_wordpiece(sentences, 2000, lower_case=True, strip_accents=None)
    assert tokenizer.vocab_size == len(set(tokenizer.tokens)) == 2000
    encoded = tokenizer.encode_batch(sentences)
    counts = np.bincount(np.concatenate([np.array(ids, int) for ids in encoded]), minlength=2000)
    assert counts[1] / counts.sum() < 0.001
    assert np.mean(counts[5:] == 0) < 0.1  # nearly every entry is of use
    words = collections.Counter(w for s in sentences for w in tokenizer.words(s))
    frequent = {word for word, count in words.items() if count >= 100}
    assert frequent <= set(tokenizer.tokens)


def test_merges_are_the_most_frequent_pairs() -> None:
    """A text small enough to merge by hand."""
    tokenizer = train_wordpiece(
        ["hug hug hug pug pug hub"] * 2, 128, lower_case=True, strip_accents=None
    )
    alphabet = ["b", "g", "h", "p", "u"]
    continuing = ["##b", "##g", "##u"]
    # ##u ##g: 10 times; h ##ug: 6; p ##ug: 4; h ##u and ##u ##b: 2, the earlier ids first.
    merges = ["##ug", "hug", "pug", "hu", "hub"]
    assert tokenizer.tokens == [*SPECIAL_NAMES, *alphabet, *continuing, *merges]


def test_chinese_characters_take_one_entry_each() -> None:
    text = ["中文和日文 abc"] * 3
    tokens = train_wordpiece(text, 128, lower_case=True, strip_accents=None).tokens
    assert set("中文和日") <= set(tokens)
    assert not {"##中", "##文", "##和", "##日"} & set(tokens)


def test_rare_characters_are_left_out() -> None:
    text = ["abc abd"] * 5000 + ["☃"]
    tokens = train_wordpiece(text, 128, lower_case=True, strip_accents=None).tokens
    assert "☃" not in tokens and {"a", "##d"} <= set(tokens)


def test_case_and_accents_follow_the_settings() -> None:
    text = ["Café CAFÉ"] * 10
    for lower_case, strip_accents, words in (
        (True, None, {"cafe"}),
        (True, False, {"café"}),
        (False, None, {"Café", "CAFÉ"}),
    ):
        tokenizer = train_wordpiece(text, 128, lower_case=lower_case, strip_accents=strip_accents)
        assert words <= set(tokenizer.tokens)


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="there is no text"):
        train_wordpiece(["\u200b", " "], 128, lower_case=True, strip_accents=None)


def test_the_sample_is_spread_over_the_input_and_bounded(tmp_path: Path) -> None:
    lines = [f"Sentence {number} of many in this file." for number in range(20_000)]
    for name in ("a.txt", "b.txt.gz"):
        content = "\n\n".join(name[0] + line for line in lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if "gz" in name else content)
    corpus = CorpusOptions(f"{tmp_path}/*", format="lines")
    sample = list(sample_sentences(corpus, 100_000))
    assert 60_000 < sum(map(len, sample)) < 250_000
    from_files = collections.Counter(sentence[0] for sentence in sample)
    assert set(from_files) == {"a", "b"} and min(from_files.values()) > 0.3 * len(sample)
    assert sample == list(sample_sentences(corpus, 100_000))
    assert len(list(sample_sentences(corpus, 10**8))) == 40_000
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Again and again.\n\n" * 100_000))
    again = CorpusOptions(f"{tmp_path}/c.txt.gz", format="lines")
    assert sum(map(len, sample_sentences(again, 100_000))) < 250_000


def test_of_a_huge_corpus_stretches_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"Sentence {number}." for number in range(100_000)))
    monkeypatch.setattr("data_pipeline.corpora._UNIT_BYTES", (10_000, 10_000))
    read: list[int] = []

    def noted(piece: Piece, options: CorpusOptions) -> Iterator[Document]:
        read.append(piece.start)
        return read_piece(piece, options)

    monkeypatch.setattr("data_pipeline.vocab.read_piece", noted)
    sample = list(sample_sentences(CorpusOptions(str(path), format="lines"), 50_000))
    assert 30_000 < sum(map(len, sample)) < 75_000
    assert 180_000 <= 10_000 * len(read) <= 220_000
    distances = set(np.diff(read).tolist())
    assert min(read) < max(distances) and max(distances) - min(distances) <= 10_000
    numbers = [int(sentence.split()[1].rstrip(".")) for sentence in sample]
    assert numbers == sorted(numbers) and numbers[-1] > 95_000


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat.\nThe dog sat too.\n" * 50)
    output = tmp_path / "tokenizer"
    arguments = [f"--input={tmp_path}/a.txt", "--size=200", f"--output={output}"]
    done = run("vocab", *arguments, "--nolower_case")
    assert done.returncode == 0, done.stderr
    assert "the text gives no 200" in done.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "tokenizer_settings.json",
        "vocab.txt",
    ]
    assert json.loads((output / "tokenizer_settings.json").read_text())["lower_case"] is False
    assert "The" in load_tokenizer(output).tokens
    assert_fails(run("vocab", *arguments), 73, f"{output} exists already")
    arguments[2] = f"--output={tmp_path}/a.txt/x"
    assert_fails(run("vocab", *arguments), 73, "cannot write to")
    assert_fails(run("vocab", *arguments, "--size=20"), 64, "--size=20")
    assert_fails(run("vocab", *arguments, "--kind=bpe"), 64, "--kind=bpe")
    arguments[2] = f"--output={tmp_path}/new"
    (tmp_path / "a.txt").write_text("")
    for kind in ("wordpiece", "sentencepiece"):
        assert_fails(run("vocab", *arguments, f"--kind={kind}"), 65, "text")
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.tmp").exists()
