# SPDX-License-Identifier: Apache-2.0
"""Runs whose work directory is a mounted bucket: the hosts share objects, and no locks.

rclone mounts what an emulator of Cloud Storage holds (Debian: `apt-get install rclone fuse3`). As
Cloud Storage FUSE does, it uploads whole objects when files are closed, knows no empty folders
(as in a bucket without a hierarchical namespace), and gives each mount locks of its own.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_jax import lease
from bert_jax.checkpoint_directory import steps
from tests.bert_jax.pods import KILL, TERMINATE, start, training_flags
from tests.bert_jax.runs import rows_of
from tests.bert_jax.test_multihost import damage

pytestmark = pytest.mark.soak
BUCKET = "work"
OPTIONS = (
    "--gcs-anonymous --gcs-bucket-policy-only --config /dev/null --vfs-cache-mode writes "
    "--vfs-write-back 0 --dir-cache-time 0 --attr-timeout 0 --poll-interval 0"
).split()


class Bucket:
    """The bucket behind an emulator of Cloud Storage at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    @contextlib.contextmanager
    def mounted(self, point: Path) -> Iterator[Path]:
        """The bucket as a directory, as one host sees it."""
        point.mkdir()
        command = ["rclone", "mount", f":gcs:{BUCKET}", str(point), *OPTIONS]
        command += ["--gcs-endpoint", self._endpoint, "--cache-dir", f"{point}.cache"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 30
                while not os.path.ismount(point):
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
                yield point
            finally:
                subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False)
                process.terminate()

    def names(self) -> set[str]:
        """Names of all objects, asked of the emulator itself."""
        with urllib.request.urlopen(f"{self._endpoint}b/{BUCKET}/o") as answer:
            return {item["name"] for item in json.load(answer).get("items", [])}


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """An empty bucket; skipped where it cannot be mounted."""
    if shutil.which("rclone") is None or not Path("/dev/fuse").exists():
        pytest.skip("rclone or FUSE is not here")
    server_module = pytest.importorskip("gcp_storage_emulator.server")
    server = server_module.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it tells of every object that is asked for and not there
    server.start()
    try:
        port = server._api._httpd.socket.getsockname()[1]
        yield Bucket(f"http://127.0.0.1:{port}/storage/v1/")
    finally:
        server.stop()
        logging.disable(before)


def run_hosts(places, store, *, signal_at=None, **changes):
    """A pod with a host for each mount of the bucket; returns exit codes and what they printed.

    Args:
        places: the work directory as each host sees it.
        store: of token ids.
        signal_at: (step, signal, host): after process 0 has shown that step.
        changes: of the recipe.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = [
        start(
            ["-m", "bert_jax.pretrain", *training_flags(place, store, **changes),
             f"--coordinator=127.0.0.1:{port}", f"--processes={len(places)}",
             f"--process={number}", "--peer_seconds=10"],
            JAX_NUM_CPU_DEVICES=str(4 // len(places)),
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        )
        for number, place in enumerate(places)
    ]  # fmt: skip
    lines = []
    for line in hosts[0].stdout:
        lines.append(line)
        if signal_at and re.match(rf" *{signal_at[0]}/", line):
            hosts[signal_at[2]].send_signal(signal_at[1])
            signal_at = None
    rest = [host.communicate()[0] for host in hosts]
    return [host.returncode for host in hosts], ["".join(lines), *rest[1:]]


def test_a_run_on_a_bucket_ends_with_the_bits_of_one_on_a_disk(tmp_path, topics_store, bucket):
    """Stopped, a checkpoint damaged, a host killed, resumed by one host; curves and events too."""
    with bucket.mounted(tmp_path / "a") as a, bucket.mounted(tmp_path / "b") as b:
        places = [a / "runs" / "mine", b / "runs" / "mine"]
        codes, printed = run_hosts(places, topics_store, signal_at=(2, TERMINATE, 1))
        assert codes == [75, 75], printed
        (stopped,) = re.findall(r"asked to stop: step (\d+) is saved", printed[0])
        damage(places[0] / "checkpoints" / stopped)

        codes, printed = run_hosts(places, topics_store, signal_at=(7, KILL, 1))
        assert codes == [76, -9], printed
        assert "resuming after step 3 of 12" in printed[0]
        assert (places[1] / "checkpoints" / f"corrupt-{stopped}").is_dir()

        codes, printed = run_hosts(places[:1], topics_store)
        assert codes == [0], printed
        # The save of step 6 may have been under way.
        assert re.search("resuming after step [36] of 12", printed[0]), printed
        kept = steps(places[1] / "checkpoints")
        pod = {kind: rows_of(places[1], kind) for kind in ("train", "validation")}
    (codes, printed) = run_hosts([tmp_path / "disk"], topics_store)
    assert codes == [0], printed
    assert pod == {kind: rows_of(tmp_path / "disk", kind) for kind in ("train", "validation")}
    names = bucket.names()
    assert kept[-1] == 12
    assert {f"runs/mine/checkpoints/{step}/manifest.json" for step in kept} <= names
    assert {"runs/mine/config.json", "runs/mine/metrics.jsonl", "runs/mine/summary.json"} <= names
    assert any(re.match(r"runs/mine/tensorboard/events\.out\.", name) for name in names)
    assert not any("preflight" in name or lease.NAME in name for name in names)


def test_two_slices_cannot_share_a_bucket(tmp_path, topics_store, bucket):
    """Each has its own mount, and the lock of the other does not reach it; the lease does."""
    with bucket.mounted(tmp_path / "a") as a, bucket.mounted(tmp_path / "b") as b:
        flags = training_flags(a / "run", topics_store, steps=100_000, **{"checkpoint.every": 9000})
        first = start(["-m", "bert_jax.pretrain", *flags])
        try:
            for line in first.stdout:
                if " 5/100000" in line:
                    break
            # As another host; on this one it would see that the process lives.
            codes, printed = run_hosts([b / "run"], topics_store)
            assert codes == [73], printed
            assert f"another run is at work in {b / 'run'}: process {first.pid} on " in printed[0]
            assert first.poll() is None
        finally:
            first.kill()
            first.communicate()
