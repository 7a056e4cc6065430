# SPDX-License-Identifier: Apache-2.0
"""How long one process waits for another (the whole way: test_multihost)."""

import threading
import time

import jax
import pytest

from bert_jax import agreement, manifest
from data_pipeline.errors import PeerLost


class Table:
    """Stands in for JAX's coordination service, for processes that are threads."""

    def __init__(self):
        self.content = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.content
        self.content[key] = value

    def key_value_try_get(self, key):
        if key not in self.content:
            raise jax.errors.JaxRuntimeError("NOT_FOUND: no such key")
        return self.content[key]

    def blocking_key_value_get(self, key, milliseconds):
        deadline = time.monotonic() + milliseconds / 1000
        while key not in self.content:
            if time.monotonic() > deadline:
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: timed out")
            time.sleep(0.001)
        return self.content[key]


@pytest.fixture
def two(monkeypatch):
    """Two processes: this thread is process 1, threads named "0" are process 0."""
    table = Table()
    monkeypatch.setattr(agreement, "client", lambda: table)
    monkeypatch.setattr(agreement, "processes", lambda: 2)
    monkeypatch.setattr(agreement, "process", lambda: int(threading.current_thread().name != "0"))
    monkeypatch.setattr(agreement, "_numbers", iter([0, 0]))
    monkeypatch.setattr(agreement, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(agreement, "_LOOK_SECONDS", 0.02)


def wait_for_process_0(action):
    """What process 1 gets from `action` in process 0, and the seconds that it took."""
    first = threading.Thread(target=agreement.from_primary, args=(action,), name="0")
    started = time.monotonic()
    first.start()
    try:
        return agreement.from_primary(lambda: None), time.monotonic() - started
    finally:
        first.join()


def test_who_reads_a_large_checkpoint_is_waited_for(two, tmp_path, monkeypatch):
    (tmp_path / "large").write_bytes(bytes(40))
    wanted = manifest.write(tmp_path, 3, {}, {})
    monkeypatch.setattr(manifest, "_CHUNK_BYTES", 1)
    progress = agreement.progress

    def slow():
        time.sleep(0.025)
        progress()

    monkeypatch.setattr(agreement, "progress", slow)
    before = agreement.progressed()
    result, seconds = wait_for_process_0(lambda: manifest.check_files(tmp_path, wanted) or "good")
    assert result == "good"
    assert seconds > 3 * agreement.ANSWER_SECONDS
    assert agreement.progressed() > before  # so that the run does not count as stuck


def test_who_does_nothing_is_not(two):
    with pytest.raises(PeerLost, match=r"process 0 did not answer \(nothing for 0.3 s\)"):
        wait_for_process_0(lambda: time.sleep(0.5))


def test_progress_is_told_now_and_then(two, monkeypatch):
    told = []
    monkeypatch.setattr(agreement.client(), "key_value_set", lambda *_, **__: told.append(_))
    started = time.monotonic()
    while time.monotonic() - started < 0.1:
        agreement.progress()
    assert 1 <= len(told) <= 6
