# SPDX-License-Identifier: Apache-2.0
"""A batch depends on nothing but its places in the stream; all readers yield the same."""

import dataclasses
import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipeline.batch import Batch, BatchSpec, validate
from data_pipeline.errors import ConfigError, DataError
from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.order import Order
from data_pipeline.source import ExampleOptions, ExampleStream, batches
from data_pipeline.store import Split
from data_pipeline.walk import PASSES, Walk, section_offsets
from tests.data_pipeline.splits import SPECIAL, random_split, split_of, trace, vocab_size_of

USUAL = random_split(0, 60, 12, 9)


def make_stream(
    split: Split = USUAL, *, length: int = 64, seed: int = 0, whole_word: bool = False
) -> ExampleStream:
    vocab_size = vocab_size_of(split)
    return ExampleStream(
        split,
        SPECIAL,
        vocab_size,
        length=length,
        seed=seed,
        options=ExampleOptions(whole_word=whole_word),
        continuation=np.arange(vocab_size) % 3 == 0,
    )


def assert_equal(first: Batch, second: Batch) -> None:
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("hosts", [1, 2, 4, 16])
@pytest.mark.parametrize("whole_word", [False, True])
def test_any_number_of_hosts_makes_the_same_global_batches(hosts: int, whole_word: bool) -> None:
    whole = make_stream(whole_word=whole_word)
    expected = [whole.batch(np.arange(32 * step, 32 * step + 32)) for step in range(40, 43)]
    share = 32 // hosts
    parts = [
        list(
            batches(
                make_stream(whole_word=whole_word),
                batch_size=32,
                rows=range(host * share, (host + 1) * share),
                first_step=40,
                last_step=43,
                reader="threads",
            )
        )
        for host in range(hosts)
    ]
    for step, global_batch in enumerate(expected):
        joined = {
            name: np.concatenate([part[step][name] for part in parts]) for name in global_batch
        }
        assert_equal(joined, global_batch)


def test_any_step_can_be_asked_for_first() -> None:
    # 60 documents make some hundred examples an epoch: step 900,000 is in a far epoch.
    settings = {"batch_size": 8, "rows": range(8), "reader": "threads"}
    straight = list(batches(make_stream(), first_step=0, last_step=60, **settings))
    for first in (59, 30, 0):
        resumed = list(batches(make_stream(), first_step=first, last_step=60, **settings))
        assert len(resumed) == 60 - first
        for ours, theirs in zip(resumed, straight[first:], strict=True):
            assert_equal(ours, theirs)
    numbers = 900_000 * 256 + np.arange(256)
    late, early = make_stream(), make_stream()
    early.batch(np.arange(5000))
    assert_equal(late.batch(numbers), early.batch(numbers))


def test_tf_data_and_threads_yield_what_direct_calls_make() -> None:
    pytest.importorskip("tensorflow")
    stream = make_stream(whole_word=True)
    # Three blocks of 1,024 rows, the last one shorter.
    settings = {"batch_size": 16, "rows": range(4, 12), "first_step": 3, "last_step": 300}
    direct = [stream.batch(16 * step + np.arange(4, 12)) for step in range(3, 300)]
    for reader in ("threads", "tf.data", "auto"):
        read = list(batches(make_stream(whole_word=True), reader=reader, **settings))
        assert len(read) == len(direct)
        for ours, theirs in zip(read, direct, strict=True):
            assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("length", "whole_word", "digest"),
    [
        (64, False, "568ab57561b9923f"),
        (512, False, "075925da69b00c9d"),
        (64, True, "2f06dc90465fd27f"),
    ],
)
def test_the_stream_never_changes(length: int, whole_word: bool, digest: str) -> None:
    # A run that resumes must see the examples that it would have seen: whatever changes them makes
    # it another run, and must be a decision.
    lengths = [1 + 7919 * number % 37 for number in range(2000)]
    split = split_of([lengths[first : first + 40] for first in range(0, 2000, 40)])
    batch = make_stream(split, length=length, whole_word=whole_word).batch(
        np.array([0, 1, 2, 500, 10_000, 10**6, 10**12])
    )
    content = b"".join(feature.astype("<f8").tobytes() for feature in batch.values())
    assert hashlib.sha256(content).hexdigest()[:16] == digest


class Broken:
    """A stream that fails in the third block of 1,024 rows."""

    length = 1024  # blocks of 1,024 rows

    def batch(self, numbers: np.ndarray) -> Batch:
        if 2500 in numbers:
            raise DataError("the store is gone")
        return make_stream().batch(numbers)


@pytest.mark.parametrize("reader", ["threads", "tf.data"])
def test_errors_come_out_of_every_reader_as_they_are(reader: str) -> None:
    if reader == "tf.data":
        pytest.importorskip("tensorflow")
    settings = {"batch_size": 8, "rows": range(8), "first_step": 0, "last_step": 900}
    read = batches(Broken(), reader=reader, **settings)  # type: ignore[arg-type]
    for _ in range(256):
        next(read)
    with pytest.raises(DataError, match=r"^the store is gone$"):
        next(read)


def test_unknown_reader_is_named() -> None:
    with pytest.raises(ConfigError, match="'grain' is unknown, choose from auto, tf.data, threads"):
        batches(
            make_stream(), batch_size=8, rows=range(8), first_step=0, last_step=1, reader="grain"
        )


def test_threads_stop_when_the_reader_is_closed() -> None:
    read = batches(
        make_stream(), batch_size=8, rows=range(8), first_step=0, last_step=10**6, reader="threads"
    )
    next(read)
    read.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_machine_without_tensorflow_reads_by_threads() -> None:
    program = """
import sys
sys.modules["tensorflow"] = None
import importlib.util
importlib.util.find_spec = lambda name: None
from tests.data_pipeline.test_source import make_stream
from data_pipeline.kept_arrays import KeptArrays
from data_pipeline.order import Order
from data_pipeline.source import batches
read = batches(make_stream(), batch_size=4, rows=range(4), first_step=0, last_step=3)
print(len(list(read)), [name for name in sys.modules if name in ("jax", "tensorflow_datasets")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "3 []\n", done.stderr


def test_many_threads_may_ask_at_once() -> None:
    expected, stream = make_stream(), make_stream()
    places = [np.arange(start, start + 16) for start in range(0, 20_000, 700)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(stream.batch, places))
    for ours, numbers in zip(made, places, strict=True):
        assert_equal(ours, expected.batch(numbers))


@pytest.mark.parametrize(
    "documents",
    [
        [[30, 20, 10, 5, 8]],
        [[1]],
        [[1], [1]],
        [[1, 1], [1000], [2, 600, 1, 1, 1]],
        [[7] * 400],
    ],
    ids=["one document", "one token", "two tokens", "long sentences", "many sentences"],
)
@pytest.mark.parametrize("length", [16, 128])
def test_hard_corpora_make_valid_examples(documents: list[list[int]], length: int) -> None:
    split = split_of(documents)
    for whole_word in (False, True):
        stream = make_stream(split, length=length, whole_word=whole_word)
        batch = stream.batch(np.arange(1000))
        validate(batch, BatchSpec(1000, length), vocab_size_of(split))
        traced = trace(batch)
        assert traced.a_length.min() >= 1 and traced.b_length.min() >= 1
        document = np.searchsorted(
            split.sentence_offsets[split.document_offsets],
            np.stack([traced.a_start, traced.b_start]),
            side="right",
        )
        # A true next pair: one document, and B goes on where A ends but for what was cut off.
        is_next = traced.label == 0
        assert np.all((document[0] == document[1])[is_next])
        assert np.all((traced.a_start + traced.a_length <= traced.b_start)[is_next])
        if len(documents) > 2:
            assert np.mean((document[0] != document[1])[~is_next]) > 0.99


def test_seeds_make_other_examples_of_the_same_chunks() -> None:
    first, second = make_stream(seed=0), make_stream(seed=1)
    assert first.examples == second.examples > 100
    numbers = np.arange(100)
    assert not np.array_equal(first.batch(numbers)["input_ids"], second.batch(numbers)["input_ids"])


def test_chunks_come_back_after_ten_epochs_with_other_partners_and_masks() -> None:
    stream = make_stream()
    walk = Walk(USUAL.sentence_offsets, section_offsets(USUAL), 64, 0.1)
    order = Order(walk, passes=PASSES, seed=0, kept=KeptArrays(None))
    cycle = sum(walk.pass_starts(number)[1] for number in range(PASSES))
    batches_of_chunks = []
    for numbers in (np.arange(stream.examples), cycle + np.arange(stream.examples)):
        by_chunk = numbers[np.argsort(order.find(*order.locate(numbers)).first)]
        batches_of_chunks.append(stream.batch(by_chunk))
    once, again = batches_of_chunks
    np.testing.assert_array_equal(once["next_sentence_label"], again["next_sentence_label"])
    is_random = once["next_sentence_label"] == 1
    same_b = trace(once).b_start == trace(again).b_start
    assert np.mean(same_b[is_random]) < 0.05
    assert np.mean(same_b[~is_random]) > 0.5  # all but those cut at the front
    same_mask = np.all(once["masked_positions"] == again["masked_positions"], axis=1)
    assert not np.any(same_mask & (once["masked_weights"].sum(axis=1) > 6))


def test_bad_input_is_named() -> None:
    empty = Split(np.zeros(0, np.uint16), np.zeros(1, np.int64), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="no documents"):
        ExampleStream(empty, SPECIAL, 100, length=64, seed=0, options=ExampleOptions())
    with pytest.raises(ConfigError, match="length 4 is too short"):
        make_stream(length=4)
    with pytest.raises(ConfigError, match="whole-word masking needs"):
        ExampleStream(
            USUAL, SPECIAL, 100, length=64, seed=0, options=ExampleOptions(whole_word=True)
        )


def test_shortest_length_works() -> None:
    stream = make_stream(length=5)
    batch = stream.batch(np.arange(200))
    validate(batch, BatchSpec(200, 5), vocab_size_of(USUAL))
    assert np.all(batch["input_mask"] == 1) and np.all(batch["masked_weights"] == 1)


def test_options_are_those_of_the_original() -> None:
    assert dataclasses.asdict(ExampleOptions()) == {
        "pairs": "next_sentence",
        "short_sequence_probability": 0.1,
        "whole_word": False,
        "dupe_factor": 0,
    }
