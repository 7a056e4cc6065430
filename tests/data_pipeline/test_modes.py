# SPDX-License-Identifier: Apache-2.0
"""The modes of a stream: what rows hold, which epochs repeat, what is kept, what is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import source
from data_pipeline.batch import Batch
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.mapped import release
from data_pipeline.packing import Packing
from data_pipeline.source import ExampleOptions, ExampleStream, batches
from data_pipeline.store import Split
from data_pipeline.walk import PASSES, Walk, section_offsets
from tests.data_pipeline.splits import SPECIAL, random_split, split_of, trace, vocab_size_of
from tests.data_pipeline.test_source import assert_equal

USUAL = random_split(0, 60, 12, 9)
MODES = {
    "sentence order": {"pairs": "sentence_order"},
    "no pairs": {"pairs": "none"},
    "no pairs, whole words, copies": {"pairs": "none", "whole_word": True, "dupe_factor": 2},
    "copies": {"dupe_factor": 3},
    "one copy": {"dupe_factor": 1, "pairs": "sentence_order"},
}


def make_stream(
    split: Split = USUAL, length: int = 32, seed: int = 0, **options: object
) -> ExampleStream:
    vocab_size = vocab_size_of(split)
    return ExampleStream(
        split,
        SPECIAL,
        vocab_size,
        length=length,
        seed=seed,
        options=ExampleOptions(**options),  # type: ignore[arg-type]
        continuation=np.arange(vocab_size) % 3 == 0,
    )


def rows_of(batch: Batch) -> list[bytes]:
    columns = [feature.reshape(len(feature), -1) for feature in batch.values()]
    return [b"".join(column[row].tobytes() for column in columns) for row in range(len(columns[0]))]


def walk_of(**options: object) -> Walk:
    swaps = options.get("pairs") == "sentence_order"
    return Walk(USUAL.sentence_offsets, section_offsets(USUAL), 32, 0.1, swaps)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hosts", [1, 2, 4, 16])
def test_any_number_of_hosts_makes_the_same_global_batches(mode: str, hosts: int) -> None:
    share, first = 32 // hosts, 900_000
    parts = [
        list(
            batches(
                make_stream(**MODES[mode]),
                batch_size=32,
                rows=range(host * share, (host + 1) * share),
                first_step=first,
                last_step=first + 2,
                reader="threads",
            )
        )
        for host in range(hosts)
    ]
    whole = make_stream(**MODES[mode])
    whole.batch(np.arange(3000))  # the steps before have been asked for here, but not there
    for step in range(2):
        joined = {name: np.concatenate([p[step][name] for p in parts]) for name in parts[0][step]}
        assert_equal(joined, whole.batch((first + step) * 32 + np.arange(32)))


@pytest.mark.parametrize("mode", ["sentence order", "no pairs, whole words, copies"])
def test_tf_data_and_threads_yield_what_direct_calls_make(mode: str) -> None:
    pytest.importorskip("tensorflow")
    settings = {"batch_size": 16, "rows": range(16), "first_step": 3, "last_step": 90}
    stream = make_stream(**MODES[mode])
    for reader in ("threads", "tf.data"):
        read = batches(make_stream(**MODES[mode]), reader=reader, **settings)  # type: ignore[arg-type]
        for step, ours in zip(range(3, 90), read, strict=True):
            assert_equal(ours, stream.batch(16 * step + np.arange(16)))


def test_halves_are_swapped_half_of_the_time_and_nothing_is_put_back() -> None:
    stream = make_stream(pairs="sentence_order")
    size, walk = stream.examples, walk_of(pairs="sentence_order")
    traced = trace(stream.batch(np.arange(size)))
    documents = USUAL.sentence_offsets[USUAL.document_offsets]
    same = np.searchsorted(documents, traced.a_start, "right") == np.searchsorted(
        documents, traced.b_start, "right"
    )
    after = traced.a_start + traced.a_length <= traced.b_start
    before = traced.b_start + traced.b_length <= traced.a_start
    in_order, other = traced.label == 0, traced.label == 1
    assert np.all((same & after)[in_order])
    # Label 1: A comes from behind B, or the chunk was one sentence and B is from elsewhere.
    swapped = other & same & before
    single = ~(in_order | swapped)
    share = swapped.sum() / (swapped.sum() + in_order.sum())
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / (size - single.sum()))
    assert 0 < single.sum() < 0.2 * size and not np.any(single & ~other)
    epochs, chunk = stream._order.locate(np.arange(size))
    found = walk.find(epochs, walk.pass_starts(0)[0][chunk // 8].astype(np.int64), chunk % 8)
    assert np.all((found.stop - found.first == 1)[single])
    covered = np.zeros(USUAL.sentences, int)
    for first, stop in zip(found.first, found.stop, strict=True):
        covered[first:stop] += 1
    assert np.all(covered == 1)


@pytest.mark.parametrize("pairs", ["next_sentence", "sentence_order", "none"])
@pytest.mark.parametrize("copies", [1, 3])
def test_epochs_a_factor_apart_hold_the_same_examples_in_another_order(
    pairs: str, copies: int
) -> None:
    stream = make_stream(pairs=pairs, dupe_factor=copies)
    sizes = [
        stream.examples if pairs == "none" else walk_of(pairs=pairs).pass_starts(number)[1]
        for number in range(copies)
    ]
    starts = np.cumsum([0, *sizes, *sizes])
    epochs = [
        rows_of(stream.batch(np.arange(starts[epoch], starts[epoch + 1])))
        for epoch in range(2 * copies)
    ]
    for epoch in range(copies):
        again = epochs[epoch + copies]
        assert sorted(epochs[epoch]) == sorted(again)
        assert (
            np.mean([ours == theirs for ours, theirs in zip(epochs[epoch], again, strict=True)])
            < 0.05
        )
    for epoch in range(1, copies):  # the copies themselves differ in partners and masks
        assert len(set(epochs[epoch]) & set(epochs[0])) < 0.1 * len(epochs[0])
    fresh = make_stream(pairs=pairs)
    later = rows_of(fresh.batch(starts[-1] + np.arange(sizes[0])))
    assert len(set(later) & set(rows_of(fresh.batch(np.arange(sizes[0]))))) < 0.1 * sizes[0]


@pytest.mark.parametrize("pairs", ["next_sentence", "sentence_order", "none"])
def test_what_was_walked_once_is_not_walked_again(
    pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = dataclasses.replace(USUAL, kept=tmp_path / "kept")
    numbers = 900_000 * 256 + np.arange(256)
    expected = make_stream(pairs=pairs).batch(numbers)
    assert_equal(make_stream(split, pairs=pairs).batch(numbers), expected)

    def fail(*arguments: object) -> None:
        raise AssertionError("walked again")

    with monkeypatch.context() as patch:
        patch.setattr(Walk, "pass_starts", fail)
        patch.setattr(Packing, "pass_starts", fail)
        patch.setattr(source, "section_offsets", fail)
        assert_equal(make_stream(split, pairs=pairs).batch(numbers), expected)
        for other in ({"length": 64}, {"pairs": pairs, "short_sequence_probability": 0.2}):
            if other.get("pairs") != "none":
                with pytest.raises(AssertionError, match="walked again"):
                    make_stream(split, **other)  # type: ignore[arg-type]
    for file in (tmp_path / "kept").iterdir():
        content = bytearray(file.read_bytes())
        content[-3] ^= 4
        file.write_bytes(content)
    assert_equal(make_stream(split, pairs=pairs).batch(numbers), expected)


def test_a_store_that_cannot_be_written_to_is_walked_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder, not even for root")
    split = dataclasses.replace(USUAL, kept=tmp_path / "file" / "kept")
    assert_equal(make_stream(split).batch(np.arange(99)), make_stream().batch(np.arange(99)))


def test_the_next_pass_is_walked_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = make_stream()
    order, size = stream._order, stream.examples
    expected = make_stream().batch(np.arange(9 * size)[::50])
    stream.batch(np.arange(size // 4))
    assert order._ahead is None
    for number in range(1, PASSES):
        start = order._bounds[number - 1]
        stream.batch(np.array([start + 3 * (order._bounds[number] - start) // 4]))
        assert order._ahead is not None
        order._ahead.join()
        assert len(order._bounds) == number + 2
    monkeypatch.setattr(Walk, "pass_starts", None)
    assert_equal(stream.batch(np.arange(9 * size)[::50]), expected)


def test_large_splits_are_read_with_their_pages_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = random_split(1, 20_000, 10, 10)
    arrays = {}
    for name in ("tokens", "sentence_offsets", "document_offsets"):
        np.save(tmp_path / f"{name}.npy", getattr(split, name))
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = Split(**arrays)

    def resident() -> int:
        """Bytes of these files in this process's memory (proc(5), smaps)."""
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0] and ":" not in line.split()[0]:
                inside = str(tmp_path) in line
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) << 10
        return total

    if not Path("/proc/self/smaps").exists():
        pytest.skip("needs /proc")
    numbers = np.arange(0, 40_000, 7)
    expected = make_stream(mapped).batch(numbers)
    assert resident() > 5 << 20
    release(*arrays.values())
    monkeypatch.setattr(source, "_MAX_MAPPED_BYTES", 1 << 20)
    assert_equal(make_stream(mapped).batch(numbers), expected)
    assert resident() < 1 << 20


DAMAGE: dict[str, tuple[Callable[[Split], Split], str]] = {
    "a token of another vocabulary": (
        lambda split: dataclasses.replace(split, tokens=split.tokens + np.uint32(9)),
        "the store holds the token id .*, but its vocabulary has .* entries",
    ),
    "sentences out of order": (
        lambda split: dataclasses.replace(
            split, sentence_offsets=np.concatenate([[0, 7, 3], split.sentence_offsets[3:]])
        ),
        "the sentences do not start one after the other",
    ),
    "documents out of order": (
        lambda split: dataclasses.replace(
            split, document_offsets=np.concatenate([[0, 7, 3], split.document_offsets[3:]])
        ),
        "the documents do not start one after the other",
    ),
}


@pytest.mark.parametrize("pairs", ["next_sentence", "none"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_arrays_are_named(name: str, pairs: str) -> None:
    damage, message = DAMAGE[name]
    with pytest.raises(DataError, match=message) as caught:
        stream = ExampleStream(
            damage(USUAL),
            SPECIAL,
            vocab_size_of(USUAL),
            length=32,
            seed=0,
            options=ExampleOptions(pairs=pairs),
        )
        stream.batch(np.arange(stream.examples))
    assert caught.value.exit_code == 65


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match="pairs 'nsp' is unknown, use next_sentence, sentence_"):
        ExampleOptions(pairs="nsp")
    with pytest.raises(ConfigError, match="dupe_factor -1 must be positive, or 0"):
        ExampleOptions(dupe_factor=-1)
    for pairs, shortest in (("sentence_order", 5), ("none", 3)):
        with pytest.raises(ConfigError, match=f"examples need {shortest} tokens"):
            make_stream(length=shortest - 1, pairs=pairs)
        make_stream(length=shortest, pairs=pairs).batch(np.arange(50))


def test_one_document_makes_examples_in_every_mode() -> None:
    split = split_of([[5, 6, 7, 30]])
    for pairs in ("next_sentence", "sentence_order", "none"):
        batch = make_stream(split, length=16, pairs=pairs).batch(np.arange(200))
        assert batch["input_mask"].sum(axis=1).min() >= 3
