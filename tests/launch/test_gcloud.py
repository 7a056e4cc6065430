# SPDX-License-Identifier: Apache-2.0
"""The real gcloud, where it is installed: it takes our commands, and copies from an emulator.

It has no account and no network here; a command that it understands ends with "no account". By hand
only (make soak): each start of it takes a second or more, and the default suite holds the stand-in
to the same calls.
"""

import dataclasses
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.errors import UsageError
from launch import buckets, host_storage
from launch.arguments import Run
from launch.cloud import Cloud, CloudError
from tests.launch.test_tpu_vm import shell_words
from tests.launch.world import RUN, SLICE, World

GCLOUD = shutil.which("gcloud")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_CORE_PROJECT": "test",
    }


@pytest.mark.parametrize("slices", [1, 2])
def test_it_takes_every_command(world: World, environment: dict[str, str], slices: int) -> None:
    given = (f"--slices={slices}", "--project=my-project", "--tier=spot", "--valid_until=6h",
             "--internal_ip", "--service_account=a@b.iam.gserviceaccount.com",
             "--dry_run")  # fmt: skip
    done = world.launch("tpu_vm", "up", *SLICE, *RUN, *given, "--", "--config.name='$x\"")
    commands = {tuple(shell_words(line)) for line in done.stdout.splitlines()}
    commands = {command for command in commands if command[0] == "gcloud"}
    assert len(commands) >= 9
    for command in sorted(commands):
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "do not currently have an active account" in said.stderr, (command, said.stderr)


@pytest.fixture
def bucket(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """gs://data with a store in an emulator, and the environment in which gcloud finds it."""
    server_module = pytest.importorskip("gcp_storage_emulator.server")
    server = server_module.create_server("127.0.0.1", 0, in_memory=True, default_bucket="data")
    server.start()
    endpoint = f"http://127.0.0.1:{server._api._httpd.socket.getsockname()[1]}/"
    for name, content in (("store/store.json", b'{"n": 1}'), ("store/a/tokens.npy", b"x" * 99_999)):
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        headers = {"Content-Type": "application/octet-stream"}
        url = f"{endpoint}upload/storage/v1/b/data/o?{query}"
        urllib.request.urlopen(urllib.request.Request(url, content, headers)).close()
    yield {
        **environment,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": endpoint,
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
    }
    server.stop()


@pytest.fixture
def host(bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process, as a host that sees the bucket, keeps its stores."""
    monkeypatch.setattr(host_storage, "BASE", tmp_path)
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_a_store_is_staged_from_a_bucket(host: Path) -> None:
    copy = Path(host_storage.stage("gs://data/store"))
    assert (copy / "store.json").read_text() == '{"n": 1}'
    assert (copy / "a" / "tokens.npy").stat().st_size == 99_999


def test_what_is_refused_about_a_bucket(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        host_storage.stage("gs://data/none")
    assert left.value.code == 74
    assert "cannot read the store gs://data/none" in capsys.readouterr().err
    run = Run("configs/pretrain.py:base", "gs://data/none", "gs://data/runs/a")
    with pytest.raises(UsageError, match="there is no store at gs://data/none"):
        buckets.check(Cloud(), run, "")
    run = dataclasses.replace(run, store="gs://data/store")
    with pytest.raises(UsageError, match="gs://data has no hierarchical namespace"):
        buckets.check(Cloud(), run, "")
    run = dataclasses.replace(run, workdir="gs://nowhere/runs/a")
    with pytest.raises(
        CloudError, match="cannot look at the bucket gs://nowhere: gs://nowhere not"
    ):
        buckets.check(Cloud(), run, "")
