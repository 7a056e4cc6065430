# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the input: its store is a store, its peers make examples, its figures add up."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.batch import BatchSpec, validate
from data_pipeline.mixture import Mixture, open_mixture
from data_pipeline.source import ExampleOptions
from data_pipeline.store import verify_store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import input as benchmark  # noqa: E402
from grain_input import grain_batches, literal_examples  # noqa: E402
from random_store import write_random_store  # noqa: E402


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    path = tmp_path_factory.mktemp("random") / "store"
    write_random_store(path, 400_000)
    verify_store(path)
    return open_mixture(str(path))


def test_the_random_store_looks_like_text(store: Mixture) -> None:
    split = store.stores[0].split("train")
    assert 20 < len(split.tokens) / split.sentences < 30
    assert 20 < split.sentences / split.documents < 28
    counts = np.sort(np.bincount(split.tokens))[::-1]
    assert 0.2 < counts[:100].sum() / counts.sum() < 0.6  # Zipf, not uniform (0.003)
    pieces = store.tokenizer.continuation()[split.tokens].mean()
    assert 0.05 < pieces < 0.5


def test_figures_of_every_mode(store: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_ROUND_TOKENS", 1 << 16)
    found = benchmark.feeding(store, 64, "threads", rounds=1)
    assert set(found) == {"floor", *benchmark.MODES}
    for speed in found.values():
        assert speed["wall"] > 0 and speed["core"] > 0
    assert 0 < benchmark.resume(store, 64)["seconds"] < 30
    assert benchmark.one_side(store, 64, "literal", rounds=1)["core"] > 0


def test_rates_are_medians_over_rounds_by_the_clock() -> None:
    clock = itertools.count()

    def make() -> int:
        return 100 * (1 + next(clock))  # the first call only warms up

    found = benchmark.time_in_turns({"side": make}, 3)["side"]
    assert found["wall"] > 0 and next(clock) == 4


def test_peers_make_the_same_kind_of_examples(store: Mixture) -> None:
    pytest.importorskip("grain")
    batch = next(grain_batches(store, 64, 32))
    validate({**batch}, BatchSpec(32, 64), store.vocab_size)
    ours = store.stream("train", length=64, seed=0, options=ExampleOptions()).batch(np.arange(32))
    masked = (batch["masked_weights"].sum(), ours["masked_weights"].sum())
    assert 0.7 < masked[0] / masked[1] < 1.3
    lengths = [len(example.tokens) for example in itertools.islice(literal_examples(store, 64), 99)]
    assert 30 < np.mean(lengths) <= 64
