# SPDX-License-Identifier: Apache-2.0
"""What stands in for the Python of a host's environment: a trainer that ends as the script says.

It writes a checkpoint and a line of metrics into the work directory, as bert_jax.pretrain does. It
trains for as many seconds as the script says, or until there is a file $STAND_IN/enough.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

WORLD = Path(os.environ["STAND_IN"])
WORKER = int(os.environ.get("WORKER", "0"))


def main() -> None:
    assert sys.argv[1:4] == ["-m", "bert_jax.pretrain", "--platform=tpu"], sys.argv
    given = dict(word.split("=", 1) for word in sys.argv[4:])
    with (WORLD / "trained.jsonl").open("a") as file:
        file.write(json.dumps({"worker": WORKER, **given}) + "\n")
    starts = WORLD / f"starts-{WORKER}"
    number = len(starts.read_text()) if starts.is_file() else 0
    starts.write_text("x" * (number + 1))
    rounds = json.loads((WORLD / "script.json").read_text())["rounds"]
    round_ = rounds[min(number, len(rounds) - 1)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    workdir = Path(given["--workdir"])
    if round_["checkpoint"] is not None and WORKER == 0:
        step = workdir / "checkpoints" / str(round_["checkpoint"])
        step.mkdir(parents=True, exist_ok=True)
        (step / "manifest.json").write_text("{}")
        line = {"step": round_["checkpoint"], "kind": "train", "loss": 2.5}
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(f"worker {WORKER} trains", flush=True)
    deadline = time.monotonic() + round_["seconds"]
    while time.monotonic() < deadline and not (WORLD / "enough").exists():
        time.sleep(0.02)
    sys.exit(round_["codes"][WORKER])


if __name__ == "__main__":
    main()
