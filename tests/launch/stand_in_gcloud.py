# SPDX-License-Identifier: Apache-2.0
"""What stands in for gcloud in the tests: a slice, its hosts and buckets as directories.

Runs as `gcloud` from the PATH. Its world is the directory $STAND_IN:

    script.json   what is to happen: see `Script` in tests/launch/world.py
    calls.jsonl   every command line it was given
    slice.json    the queued resource, while there is one
    hosts/<n>/    the home directory of host n; ssh runs its command there, as a shell does
    buckets/      gs://

The errors are worded as gcloud 528 words them (not logged in, no answer, and hosts that are not
there: recorded from it; the others from reports of users and from its source, where each says which
command printed it).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

WORLD = Path(os.environ["STAND_IN"])
SCRIPT = json.loads((WORLD / "script.json").read_text())
SLICE = WORLD / "slice.json"
SSH = "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) "


def fail(message: str, status: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(status)


def command_name(words: list[str]) -> str:
    """The command without its values, for example "queued-resources create"."""
    return " ".join([word for word in words if not word.startswith("-")][-3:-1])


def value(words: list[str], flag: str) -> str:
    return next(w.split("=", 1)[1] for w in words if w.startswith(f"--{flag}="))


def not_found(command: str, name: str) -> NoReturn:
    where = f"projects/p/locations/us-central2-b/queuedResources/{name}"
    fail(
        f"ERROR: (gcloud.compute.tpus.{command}) NOT_FOUND: Resource '{where}' was not found. This "
        "command is authenticated as a@b.c which is the active account."
    )


def described(content: dict, name: str) -> dict:
    """A queued resource as `describe --format=json` prints it; the first of its states is due."""
    states = content["states"]
    now = states[0]
    if len(states) > 1:
        content["states"] = states[1:]
        SLICE.write_text(json.dumps(content))
    state = {"state": now} if isinstance(now, str) else now
    where = f"projects/p/locations/us-central2-b/queuedResources/{name}"
    spec: dict = {"nodeId": name}
    if content["slices"] > 1:
        spec = {"multisliceParams": {"nodeCount": content["slices"], "nodeIdPrefix": name}}
    spec["node"] = {"acceleratorType": content["kind"]}
    return {"name": where, "tpu": {"nodeSpec": [spec]}, "state": state}


def queued_resources(verb: str, name: str, words: list[str]) -> None:
    command = f"queued-resources.{verb}"
    content = json.loads(SLICE.read_text()) if SLICE.is_file() else None
    if verb == "create":
        if content:
            fail(f"ERROR: (gcloud.compute.tpus.{command}) ALREADY_EXISTS: Resource already exists")
        made = WORLD / "created"
        number = len(made.read_text()) if made.is_file() else 0
        made.write_text("x" * (number + 1))
        shutil.rmtree(WORLD / "hosts", ignore_errors=True)
        lives = SCRIPT["lives"]
        several = [word for word in words if word.startswith("--node-count=")]
        slices = int(value(words, "node-count")) if several else 1
        assert value(words, "node-prefix" if several else "node-id") == name
        life = lives[min(number, len(lives) - 1)]
        kind = value(words, "accelerator-type")
        SLICE.write_text(json.dumps({**life, "slices": slices, "kind": kind}))
    elif content is None:
        not_found(command, name)
    elif verb == "describe":
        print(json.dumps(described(content, name)))
    elif verb == "delete":
        assert "--force" in words
        SLICE.unlink()


def active() -> bool:
    """Whether ssh gets through: `looks` times, where given, and then the slice is taken away."""
    if not SLICE.is_file():
        return False
    content = json.loads(SLICE.read_text())
    if "looks" not in content:
        return content["states"][0] == "ACTIVE"
    content["looks"] -= 1
    if content["looks"] < 0:
        content["states"] = content["then"]
    SLICE.write_text(json.dumps(content))
    return content["looks"] >= 0


def not_reached() -> NoReturn:
    """As gcloud 528, which looks at the node first, and connects if that seems to be there."""
    node = "projects/p/locations/us-central2-b/nodes/bert"
    state = json.loads(SLICE.read_text())["states"][0] if SLICE.is_file() else ""
    if state != "ACTIVE":
        fail(f"{SSH}NOT_FOUND: Resource '{node}' was not found")
    if SCRIPT["node"] == "PREEMPTED":
        fail(f'{SSH}This TPU has terminal state "PREEMPTED", so it cannot be used anymore.')
    fail(f"{SSH}[/usr/bin/ssh] exited with return code [255].")


def workers(words: list[str]) -> list[int]:
    """All hosts: of the slice, or of the slices one after the other."""
    assert value(words, "worker") == "all"
    slices = json.loads(SLICE.read_text())["slices"]
    assert ("queued-resources" in words and "--node=all" in words) == (slices > 1), words
    return list(range(SCRIPT["hosts"] * slices))


def ssh(words: list[str]) -> None:
    if not active():
        not_reached()
    shells = []
    for worker in workers(words):
        home = WORLD / "hosts" / str(worker)
        home.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(home), "WORKER": str(worker)}
        command = ["bash", "-c", value(words, "command")]
        shells.append(subprocess.Popen(command, cwd=home, env=environment))
    codes = [shell.wait() for shell in shells]
    for worker, code in enumerate(codes):
        if code:
            print(f"##### Command execution on worker {worker} failed with exit status {code}. "
                  "Continuing.", file=sys.stderr)  # fmt: skip
    sys.exit(next(filter(None, codes), 0))


def scp(words: list[str]) -> None:
    if not active():
        not_reached()
    source, target = [word for word in words if not word.startswith("-")][-2:]
    for worker in workers(words):
        home = WORLD / "hosts" / str(worker)
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, home / target.partition(":")[2])


def storage(words: list[str]) -> None:
    rest = [word for word in words if not word.startswith("-")]
    path = WORLD / "buckets" / rest[-1].removeprefix("gs://")
    if rest[1:3] == ["buckets", "describe"]:
        if not path.is_dir():
            fail(f"ERROR: (gcloud.storage.buckets.describe) {rest[-1]} not found: 404.")
        flat = (path / ".flat").exists()
        shown = {"name": path.name, "location": "US-CENTRAL2"}
        if "--raw" in words and not flat:
            shown["hierarchicalNamespace"] = {"enabled": True}
        print(json.dumps(shown))
    elif rest[1] == "rsync":
        source = WORLD / "buckets" / rest[2].removeprefix("gs://")
        shutil.copytree(source, rest[3], dirs_exist_ok=True)
    elif not path.is_file():
        fail(f"ERROR: (gcloud.storage.{'.'.join(rest[1:-1])}) {rest[-1]} not found: 404.")
    else:
        print(path.read_text() if rest[1] == "cat" else "{}", end="")


def times(prefix: str) -> int:
    """How often commands that begin so were given, this one included."""
    calls = [json.loads(line) for line in (WORLD / "calls.jsonl").read_text().splitlines()]
    plain = (" ".join(word for word in call[1:] if not word.startswith("-")) for call in calls)
    return sum(command.startswith(prefix) for command in plain)


def main() -> None:
    words = sys.argv[1:]
    with (WORLD / "calls.jsonl").open("a") as file:
        file.write(json.dumps(["gcloud", *words]) + "\n")
    plain = [word for word in words if not word.startswith("-")]
    for prefix, error in SCRIPT["errors"].items():
        if " ".join(plain).startswith(prefix):
            fail(error)
    for prefix, number, error in SCRIPT["passing"]:
        if " ".join(plain).startswith(prefix) and number == times(prefix):
            fail(error)
    if plain[0] == "storage":
        storage(words)
    elif plain[3] == "ssh":
        ssh(words)
    elif plain[3] == "scp":
        scp(words)
    elif plain[2] == "queued-resources":
        queued_resources(plain[3], plain[4], words)
    elif plain[2:4] == ["tpu-vm", "describe"]:
        print(json.dumps({"state": SCRIPT["node"]}))
    else:
        fail(f"the stand-in does not know {words}", 2)


if __name__ == "__main__":
    main()
