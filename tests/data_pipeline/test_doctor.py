# SPDX-License-Identifier: Apache-2.0
"""The doctor: figures against an independent count, a warning for each disease, the command."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.corpora import CorpusOptions
from data_pipeline.diagnosis import find_warnings
from data_pipeline.doctor import examine
from data_pipeline.doctor_picture import draw
from data_pipeline.doctor_tables import render
from data_pipeline.errors import UsageError
from data_pipeline.prepare import prepare
from data_pipeline.store import Store
from data_pipeline.store_writer import StoreWriter
from data_pipeline.wordpiece import WordPieceTokenizer
from tests.data_pipeline.command import ROOT, assert_fails, run

CORPUS = ROOT / "demo" / "corpus" / "devils-dictionary.txt"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from data_pipeline.vocab import train_wordpiece

    text = CORPUS.read_text(encoding="utf-8")
    tokenizer = train_wordpiece(text.split("\n"), 1000, lower_case=True, strip_accents=None)
    corpus = CorpusOptions(str(CORPUS), format="lines")
    output = tmp_path_factory.mktemp("doctor") / "store"
    return prepare(corpus, tokenizer, output, validation_fraction=0.1)


@pytest.fixture(scope="module")
def report(store: Store) -> dict[str, Any]:
    return examine(store)


def test_counts_are_those_of_the_text(store: Store, report: dict[str, Any]) -> None:
    blocks = CORPUS.read_text(encoding="utf-8").strip().split("\n\n")
    sentences = [line for block in blocks for line in block.split("\n") if line.strip()]
    splits = report["splits"].values()
    assert sum(split["documents"] for split in splits) == len([b for b in blocks if b.strip()])
    assert sum(split["sentences"] for split in splits) == len(sentences)
    lengths = [len(ids) for ids in store.tokenizer.encode_batch(sentences)]
    assert sum(split["tokens"] for split in splits) == sum(lengths)
    assert max(split["sentence_length"]["max"] for split in splits) == max(lengths)
    assert report["leaked_documents"] == 0


def test_examples_have_the_rates_of_bert(report: dict[str, Any]) -> None:
    """Wide bounds: what is measured is that the doctor measures."""
    for length, figures in report["examples"].items():
        assert figures["measured"] <= figures["examples"]
        assert figures["masked_share"] == pytest.approx(0.15, abs=0.01)
        assert figures["shown_as_mask"] == pytest.approx(0.8, abs=0.03)
        assert figures["shown_unchanged"] == pytest.approx(0.1, abs=0.03)
        assert figures["shown_as_other"] == pytest.approx(0.1, abs=0.03)
        assert 0.4 < figures["random_share"] < 0.8
        assert figures["slots"] == {"128": 20, "512": 77}[length]
        assert 1 <= figures["slots_used"] <= figures["slots"]
        tokens = (1 - figures["padding_share"]) * int(length)
        assert figures["slots_used"] == pytest.approx(tokens * figures["masked_share"])
        assert figures["steps_per_pass"] * 256 == figures["examples"]
        share = {"128": 0.9, "512": 0.1}[length]
        assert figures["passes"] == pytest.approx(share * 1e6 / figures["steps_per_pass"])


def test_frequencies_by_rank_are_those_of_the_tokens(store: Store, report: dict[str, Any]) -> None:
    counts = np.sort(np.unique(store.split("train").tokens, return_counts=True)[1])[::-1]
    ranks = report["vocabulary"]["frequencies"]
    assert [ranks[0][0], ranks[-1][0]] == [1, len(counts)]
    assert all(count == counts[rank - 1] for rank, count in ranks)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_picture_is_drawn(tmp_path: Path, report: dict[str, Any], kind: str) -> None:
    path = tmp_path / f"store.{kind}"
    draw(report, path)
    content = path.read_bytes()
    assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[kind])
    draw(report, path)
    assert path.read_bytes() == content


def test_a_picture_of_no_known_kind_is_refused(tmp_path: Path, report: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"a name that ends in .svg, .png, .pdf"):
        draw(report, tmp_path / "store.xyz")


def test_shown_examples_are_pairs_with_their_answers(report: dict[str, Any]) -> None:
    assert len(report["shown"]) == 3
    for line in report["shown"]:
        assert re.fullmatch(r"B is (next|random): \[CLS\] .* \[SEP\] .* \[SEP\]", line)
        assert re.search(r"\[MASK\]\([^)]", line)


def test_the_page_holds_the_figures(report: dict[str, Any]) -> None:
    page = render(report)
    assert f"{report['splits']['train']['tokens']:,}" in page
    assert f"{report['vocabulary']['unigram_entropy']:.3f} nats" in page
    for warning in report["warnings"]:
        assert f"  ! {warning}" in page
    assert max(map(len, page.split("\n")[:12])) <= 100


HEALTHY: dict[str, Any] = {
    "splits": {
        name: {
            "documents": 1000,
            "tokens": 1_000_000,
            "unknown_share": 0.001,
            "repeated_documents": 0.0,
            "near_copies": 0.0,
            "repeated_sentences": 0.02,
            "one_sentence_documents": 0.01,
            "sentence_length": {"p95": 60},
        }
        for name in ("train", "validation")
    },
    "vocabulary": {"size": 4096, "used": 4000},
    "leaked_documents": 0.0,
    "leaked_sentences": 0.01,
    "examples": {
        "128": {
            "measured": 8192,
            "passes": 40.0,
            "padding_share": 0.05,
            "random_share": 0.52,
            "slots_used": 19.0,
            "shown_as_mask": 0.8,
            "shown_unchanged": 0.1,
            "shown_as_other": 0.1,
        }
    },
}


def test_a_healthy_store_has_no_warnings() -> None:
    assert find_warnings(HEALTHY) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("splits/train/documents", 1, "only 1 documents to train on"),
        ("splits/train/repeated_documents", 0.06, "6.0% of the documents are exact copies"),
        ("splits/train/near_copies", 0.3, "30.0% of the documents are nearly equal"),
        ("splits/train/repeated_sentences", 0.2, "20.0% of the sentences are exact copies"),
        ("splits/train/one_sentence_documents", 0.5, "50.0% of the documents have one sentence"),
        ("splits/train/sentence_length/p95", 400, "longer than 400 tokens"),
        ("splits/train/unknown_share", 0.02, r"2.0% of the tokens are \[UNK\]"),
        ("vocabulary/used", 1000, "only 1,000 of 4,096 entries of the vocabulary occur"),
        ("splits/train/tokens", 400_000, "fewer than 100 for each of the 4,096"),
        ("splits/validation/documents", 3, "only 3 documents with 1,000,000 tokens are held out"),
        ("splits/validation/tokens", 3, "only 1000 documents with 3 tokens are held out"),
        ("leaked_documents", 0.01, "1.0% of the held-out documents are in the training split"),
        ("leaked_sentences", 0.3, "30.0% of the held-out sentences occur in training"),
        ("examples/128/passes", 500.0, "goes over the text 500 times"),
        ("examples/128/padding_share", 0.4, "at length 128, 40% of each batch is padding"),
        ("examples/128/random_share", 0.7, "70% of the pairs are random instead of half"),
        ("examples/128/shown_as_mask", 0.79, "79.00% of the masked tokens are shown as mask"),
        ("examples/128/shown_unchanged", 0.11, "are shown unchanged, expected is 10%"),
        ("examples/128/shown_as_other", 0.09, "are shown as other, expected is 10%"),
    ],
)
def test_each_disease_has_its_warning(path: str, value: float, message: str) -> None:
    sick = copy.deepcopy(HEALTHY)
    *parents, last = path.split("/")
    place = sick
    for name in parents:
        place = place[name]
    assert last in place
    place[last] = value
    (warning,) = find_warnings(sick)
    assert re.search(message, warning)


def test_copies_and_leaks_are_found_in_a_store(
    tmp_path: Path, tokenizer: WordPieceTokenizer
) -> None:
    random = np.random.default_rng(0)
    documents = [random.integers(5, 60, (4, 9)).tolist() for _ in range(20)]
    with StoreWriter(tmp_path / "store", tokenizer) as writer:
        for document in [*documents, *documents[:5]]:
            writer.add_document("train", document)
        for document in [documents[0], [[6] * 9, documents[1][0]]]:
            writer.add_document("validation", document)
        store = writer.finish({})
    report = examine(store)
    train = report["splits"]["train"]
    assert train["repeated_documents"] == pytest.approx(5 / 25)
    assert train["repeated_sentences"] == pytest.approx(20 / 100)
    assert report["leaked_documents"] == pytest.approx(1 / 2)
    assert report["leaked_sentences"] == pytest.approx(5 / 6)


def test_the_command(store: Store, tmp_path: Path) -> None:
    done = run("doctor", f"--store={store.path}", f"--json={tmp_path / 'report.json'}")
    assert done.returncode == 0, done.stderr
    assert "unigram entropy, the plateau" in done.stdout
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["splits"]["train"]["documents"] == store.split("train").documents
    assert_fails(run("doctor"), 64, "--store is missing")
    assert_fails(run("doctor", f"--store={tmp_path}"), 65, "no store at")
    arguments = [f"--store={store.path}", f"--json={tmp_path}"]
    assert_fails(run("doctor", *arguments), 73, f"cannot write {tmp_path}: Is a directory")
    file = store.path / "train" / "tokens.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert_fails(run("doctor", f"--store={store.path}"), 65, "does not have the checksum noted")
