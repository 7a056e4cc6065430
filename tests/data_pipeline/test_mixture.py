# SPDX-License-Identifier: Apache-2.0
"""Stores are mixed in exact shares, each place a function of itself; bad weights are named."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import ConfigError, DataError
from data_pipeline.mixture import BLOCK, MixedStream, Mixture, open_mixture
from data_pipeline.random_bits import Purpose, bits
from data_pipeline.source import ExampleOptions, ExampleStream, batches
from data_pipeline.store import Store
from data_pipeline.store_writer import StoreWriter
from data_pipeline.tokenizers import Tokenizer
from tests.data_pipeline.significance import SMALLEST_P, fit_p
from tests.data_pipeline.test_source import assert_equal

OPTIONS = ExampleOptions()


def write_store(path: Path, tokenizer: Tokenizer, seed: int, documents: int = 30) -> Store:
    """A store whose tokens tell it: those of odd seeds are odd."""
    random = np.random.default_rng(seed)
    with StoreWriter(path, tokenizer) as writer:
        for number in range(documents):
            sentences = (2 * random.integers(3, 20, (8, 6)) + seed % 2).tolist()
            writer.add_document("validation" if number % 3 == 0 else "train", sentences)
        return writer.finish({"name": path.name})


@pytest.fixture
def stores(tmp_path: Path, tokenizer: Tokenizer) -> tuple[Store, Store]:
    return (
        write_store(tmp_path / "even", tokenizer, 0),
        write_store(tmp_path / "odd", tokenizer, 1, documents=50),
    )


def two(stores: tuple[Store, Store], weights: tuple[float, float] = (0.7, 0.3)) -> Mixture:
    text = ",".join(f"{store.path}:{w}" for store, w in zip(stores, weights, strict=True))
    return open_mixture(text)


def test_every_block_holds_the_shares_and_every_store_its_own_order(
    stores: tuple[Store, Store],
) -> None:
    streams = [
        ExampleStream(
            store.split("train"), store.special, store.vocab_size, length=32,
            seed=int(bits(4, Purpose.MIXTURE, number)), options=OPTIONS,
        )
        for number, store in enumerate(stores)
    ]  # fmt: skip
    mixture = two(stores)
    assert mixture.quotas == (700, 300)
    mixed = mixture.stream("train", length=32, seed=4, options=OPTIONS)
    assert isinstance(mixed, MixedStream)
    numbers = np.arange(3 * BLOCK)
    which, place = mixed.locate(numbers)
    for block in range(3):
        assert np.bincount(which[block * BLOCK : (block + 1) * BLOCK]).tolist() == [700, 300]
    batch = mixed.batch(numbers)
    for number, stream in enumerate(streams):
        rows = which == number
        # Each example of the store's own stream comes once, none is passed over.
        np.testing.assert_array_equal(np.sort(place[rows]), np.arange(rows.sum()))
        part = {name: feature[rows] for name, feature in batch.items()}
        assert_equal(part, stream.batch(place[rows]))
    # A store's places are spread over the block, not in a row.
    assert fit_p(np.histogram(np.flatnonzero(which[:BLOCK] == 1), bins=10)[0]) > SMALLEST_P
    assert not np.array_equal(which[:BLOCK], which[BLOCK : 2 * BLOCK])


@pytest.mark.parametrize("hosts", [1, 2, 4, 16])
@pytest.mark.parametrize("pairs", ["next_sentence", "none"])
def test_any_number_of_hosts_makes_the_same_global_batches(
    stores: tuple[Store, Store], hosts: int, pairs: str
) -> None:
    options = dataclasses.replace(OPTIONS, pairs=pairs, dupe_factor=2)
    stream = two(stores).stream("train", length=32, seed=0, options=options)
    first, share = 900_000, 32 // hosts
    parts = [
        next(
            batches(
                two(stores).stream("train", length=32, seed=0, options=options),
                batch_size=32,
                rows=range(host * share, (host + 1) * share),
                first_step=first,
                last_step=first + 1,
                reader="threads",
            )
        )
        for host in range(hosts)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_equal(joined, stream.batch(32 * first + np.arange(32)))


def test_fingerprint_covers_all_stores_and_their_shares(stores: tuple[Store, Store]) -> None:
    alone = open_mixture(str(stores[0].path))
    assert alone.fingerprint == stores[0].fingerprint
    assert alone.tokenizer_fingerprint == two(stores).tokenizer_fingerprint
    found = {
        alone.fingerprint,
        two(stores).fingerprint,
        two(stores, (0.6, 0.4)).fingerprint,
        two(stores[::-1], (0.7, 0.3)).fingerprint,  # type: ignore[arg-type]
    }
    assert len(found) == 4
    assert two(stores, (7, 3)).fingerprint == two(stores).fingerprint


def test_one_store_is_its_own_stream(stores: tuple[Store, Store]) -> None:
    store = stores[0]
    ours = open_mixture(str(store.path)).stream("validation", length=32, seed=5, options=OPTIONS)
    theirs = ExampleStream(
        store.split("validation"), store.special, store.vocab_size,
        length=32, seed=5, options=OPTIONS,
    )  # fmt: skip
    assert_equal(ours.batch(np.arange(50)), theirs.batch(np.arange(50)))


def test_a_mixture_lasts_until_its_first_store_begins_anew(stores: tuple[Store, Store]) -> None:
    alone = [
        open_mixture(str(store.path)).stream("validation", length=32, seed=0, options=OPTIONS)
        for store in stores
    ]
    mixed = two(stores, (0.9, 0.1)).stream("validation", length=32, seed=0, options=OPTIONS)
    assert mixed.examples == alone[0].examples * BLOCK // 900
    assert mixed.examples < sum(stream.examples for stream in alone)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (":0.7,{odd}", "'{odd}' has no weight; .* stores/wiki:0.7,stores/books:0.3"),
        (":0.7,{odd}:-1", "has no weight"),
        (":0.7,{odd}:nan", "has no weight"),
        (":inf,{odd}:1", "has no weight"),
        (":0.7,", "'' has no weight"),
        (":1,{odd}:0.0001", "weight of {odd} is less than one example in 1,000"),
    ],
)
def test_bad_weights_are_named(stores: tuple[Store, Store], weights: str, message: str) -> None:
    odd = str(stores[1].path)
    with pytest.raises(ConfigError, match=message.format(odd=odd)) as caught:
        open_mixture(str(stores[0].path) + weights.format(odd=odd))
    assert caught.value.exit_code == 78


def test_a_missing_store_is_named(stores: tuple[Store, Store]) -> None:
    with pytest.raises(DataError, match="no store at absent"):
        open_mixture(f"{stores[0].path}:1,absent:1")


@pytest.mark.parametrize("text", ["gs://bucket/store", "stores/a:0.7,s3://bucket/b:0.3"])
def test_a_store_must_be_a_path(text: str) -> None:
    with pytest.raises(ConfigError, match="is in an object store, and has to be a path: copy it"):
        open_mixture(text)


def test_an_empty_split_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = write_store(tmp_path / "one", tokenizer, 0, documents=1)
    with pytest.raises(DataError, match="one: the train split holds no documents"):
        open_mixture(str(store.path)).stream("train", length=32, seed=0, options=OPTIONS)
