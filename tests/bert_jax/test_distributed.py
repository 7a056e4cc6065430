# SPDX-License-Identifier: Apache-2.0
"""Joining: what is refused before it starts, and one process that joins nothing."""

import jax
import pytest

from bert_jax import agreement, distributed
from bert_jax.cluster import Cluster
from data_pipeline.errors import ConfigError, DataError, UsageError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"platform": "npu"}, "--platform=npu is not known: use tpu, gpu or cpu"),
        ({"processes": 2, "process": 0}, "need --coordinator=HOST:PORT"),
        ({"coordinator": "auto", "processes": 2}, "need --coordinator=HOST:PORT"),
        ({"coordinator": "host-0"}, "--coordinator=host-0 is not of the form HOST:PORT"),
        ({"coordinator": "host-0:1234"}, "needs --processes=N and --process"),
        ({"coordinator": "h:1", "processes": 2, "process": 2}, "--processes=2 --process=2"),
        ({"coordinator": "h:1", "processes": 2, "process": -1}, "--processes=2 --process=-1"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(UsageError, match="--") as caught:
        Cluster(**fields)
    assert message in str(caught.value)
    assert caught.value.exit_code == 64


def test_another_platform_than_asked_for_is_refused():
    with (
        pytest.raises(ConfigError, match="--platform=gpu was asked for, and JAX runs on cpu"),
        distributed.joined(Cluster(platform="gpu")),
    ):
        raise AssertionError
    with distributed.joined(Cluster(platform="cpu")):
        assert jax.default_backend() == "cpu"


def test_one_process_needs_nobody():
    with distributed.joined(Cluster()):
        assert agreement.primary()
        assert agreement.gather("value") == ["value"]
        assert agreement.from_primary(lambda: 3) == 3
        assert agreement.client() is None


def test_one_process_raises_its_errors_as_they_are():
    with pytest.raises(DataError, match="text"), distributed.joined(Cluster()):
        raise DataError("text")


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def ends(monkeypatch):
    """Two processes, of which this one fails; what it does, in order."""
    done = []

    def leave(message, code):
        done.append((message, code))
        raise Left

    monkeypatch.setattr(agreement, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "_announce", lambda *_: done.append("others are told"))
    monkeypatch.setattr(distributed, "_leave", leave)
    return done


@pytest.mark.parametrize(
    ("error", "end"),
    [(DataError("not finite"), ("not finite", 65)), (KeyError("x"), ("KeyError: 'x'", 70))],
)
def test_a_failing_process_finishes_its_save_before_it_tells_the_others(ends, error, end, capsys):
    def settle(seconds):
        assert 10 < seconds < 600
        ends.append("saved")

    with pytest.raises(Left), distributed.leave_together(settle):
        raise error
    assert ends == ["saved", "others are told", end]
    with pytest.raises(Left), distributed.leave_together():
        raise error
    assert ends[3:] == ["others are told", end]


def test_a_second_interrupt_waits_for_no_save(ends):
    with pytest.raises(Left), distributed.leave_together(ends.append):
        raise KeyboardInterrupt
    assert ends[0] == "others are told"
    assert ends[1][1] == 130


def test_where_no_cluster_is_found_the_flags_are_named(monkeypatch):
    def initialize(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(distributed, "_translate_abort", lambda: None)
    with (
        pytest.raises(ConfigError, match="give --coordinator=HOST:PORT") as caught,
        distributed.joined(Cluster(coordinator="auto")),
    ):
        raise AssertionError
    assert caught.value.exit_code == 78
