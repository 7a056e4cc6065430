# SPDX-License-Identifier: Apache-2.0
"""Which steps count in how fast a run trains."""

import types
from typing import Any

import pytest

from bert_jax.throughput import Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A clock that stands until `clock.now` is changed."""
    clock = types.SimpleNamespace(now=100.0)
    time = types.SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr("bert_jax.throughput.time", time)
    return clock


def feed(throughput: Throughput, clock: Any, steps: int, seconds: float, length: int = 128) -> None:
    for _ in range(steps):
        clock.now += seconds
        throughput.count(examples=8, tokens=8 * length, wait=seconds / 4)


def test_leaves_out_the_first_step(clock: Any) -> None:
    throughput = Throughput()
    feed(throughput, clock, steps=1, seconds=60)
    assert throughput.rates() == {}
    assert throughput.seconds_per_step is None
    feed(throughput, clock, steps=3, seconds=0.5)
    assert throughput.rates() == {
        "examples_per_second": 16,
        "tokens_per_second": 2048,
        "input_wait_share": 0.25,
    }
    assert throughput.seconds_per_step == 0.5


def test_leaves_out_pauses(clock: Any) -> None:
    throughput = Throughput()
    feed(throughput, clock, steps=5, seconds=0.5)
    throughput.pause()
    feed(throughput, clock, steps=1, seconds=90)
    feed(throughput, clock, steps=5, seconds=0.5)
    assert throughput.rates()["tokens_per_second"] == 2048
    assert throughput.input_wait_share == 0.25


@pytest.mark.parametrize("paused", [False, True])
def test_starts_again_at_another_length(clock: Any, paused: bool) -> None:
    throughput = Throughput()
    feed(throughput, clock, steps=30, seconds=0.5)
    if paused:
        throughput.pause()
    feed(throughput, clock, steps=1, seconds=60, length=512)
    assert throughput.rates() == {}
    feed(throughput, clock, steps=3, seconds=4, length=512)
    assert throughput.rates()["tokens_per_second"] == 1024


def test_follows_the_last_half_minute(clock: Any) -> None:
    throughput = Throughput()
    feed(throughput, clock, steps=1000, seconds=0.25)
    feed(throughput, clock, steps=31, seconds=1)
    assert throughput.rates()["tokens_per_second"] == pytest.approx(1024)


def test_slow_steps_still_make_a_window(clock: Any) -> None:
    throughput = Throughput()
    feed(throughput, clock, steps=11, seconds=64)
    feed(throughput, clock, steps=10, seconds=32)
    assert throughput.seconds_per_step == pytest.approx(48)
