# SPDX-License-Identifier: Apache-2.0
"""The real gcloud, where it is installed, before a stand-in for the Cloud TPU API on this machine.

So its own words are seen for slices that were taken away and for an API that does not answer; the
stand-in of the default suite repeats them. By hand only (make soak).
"""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_jax.slices import find_slice
from data_pipeline.errors import UsageError
from launch.cloud import Cloud, CloudSilent
from launch.queued_resource import NotReached, Rented

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed"),
]
RENTED = Rented(Cloud(), "bert", "us-central2-b", project="p")
PLACE = "projects/p/locations/us-central2-b"
REQUEST = {
    "name": f"{PLACE}/queuedResources/bert",
    "state": {"state": "ACTIVE"},
    "tpu": {"nodeSpec": [{"nodeId": "bert", "node": {"acceleratorType": "v4-32"}}]},
}


class Api(http.server.BaseHTTPRequestHandler):
    """Answers for one request and the node behind it, which is in the state `node`."""

    node = "READY"

    def do_GET(self) -> None:
        code, answer = 200, dict[str, Any](REQUEST)
        if self.node.isdigit():
            code, answer = int(self.node), {"error": {"code": int(self.node), "message": "later"}}
        elif "/nodes/" in self.path and self.node == "gone":
            missing = {"code": 404, "message": "Resource was not found", "status": "NOT_FOUND"}
            code, answer = 404, {"error": missing}
        elif "/nodes/" in self.path:
            answer = {"name": f"{PLACE}/nodes/bert", "state": self.node, "apiVersion": "V2"}
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: object) -> None:
        """Nothing."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = tmp_path / "token"
    token.write_text("a token")
    for name, value in {
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"http://127.0.0.1:{server.server_address[1]}/",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("node", ["PREEMPTED", "TERMINATED", "DELETING", "gone"])
def test_hosts_of_a_slice_that_was_taken_away_are_not_reached(
    api: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    monkeypatch.setattr(Api, "node", node)
    with pytest.raises(NotReached):
        RENTED.ssh("look", "true")
    assert RENTED.state() == ("ACTIVE", "")
    assert RENTED.node_preempted() == (node != "DELETING")


def test_an_api_that_does_not_answer_is_no_refusal(
    api: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "node", "503")
    with pytest.raises(CloudSilent):
        RENTED.state()
    api.shutdown()
    api.server_close()
    with pytest.raises(CloudSilent):
        RENTED.ssh("look", "true")


def test_what_a_name_stands_for_is_read(api: http.server.HTTPServer) -> None:
    RENTED.check_same(find_slice("v4-32"), RENTED.request())
    with pytest.raises(UsageError, match="bert is 1 x v4-32, and 1 x v4-16 is asked for"):
        RENTED.check_same(find_slice("v4-16"), RENTED.request())
