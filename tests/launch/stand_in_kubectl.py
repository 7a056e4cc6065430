# SPDX-License-Identifier: Apache-2.0
"""What stands in for kubectl in the tests: a cluster that holds one JobSet, in jobset.json.

Its status goes through `jobset` of script.json, one state a look. Errors are worded as kubectl 1.32
words them.
"""

import json
import os
import sys
from pathlib import Path

WORLD = Path(os.environ["STAND_IN"])
SCRIPT = json.loads((WORLD / "script.json").read_text())
JOBSET = WORLD / "jobset.json"


def status(states: list[str]) -> dict:
    """The status of a JobSet whose first state is due; the API's conditions."""
    now = states.pop(0) if len(states) > 1 else states[0]
    conditions = [
        {"type": "Completed", "status": str(now == "Completed"), "message": "jobset completed"},
        {
            "type": "Failed",
            "status": str(now == "Failed"),
            "message": "matched rule final_exit_code",
        },
    ]
    return {"conditions": conditions, "restarts": 0}


def main() -> None:
    words = sys.argv[1:]
    with (WORLD / "calls.jsonl").open("a") as file:
        file.write(json.dumps(["kubectl", *words]) + "\n")
    for prefix, error in SCRIPT["errors"].items():
        if " ".join(["kubectl", *words]).startswith(prefix):
            sys.exit(error)
    if words[0] == "apply":
        JOBSET.write_text(
            json.dumps({"manifest": json.load(sys.stdin), "states": SCRIPT["jobset"]})
        )
        print("jobset.jobset.x-k8s.io/bert created")
    elif words[0] == "logs":
        print("step 10 loss 2.5")
    elif not JOBSET.is_file():
        if words[0] != "delete" or "--ignore-not-found" not in words:
            sys.exit('Error from server (NotFound): jobsets.jobset.x-k8s.io "bert" not found')
    elif words[0] == "delete":
        JOBSET.unlink()
        print('jobset.jobset.x-k8s.io "bert" deleted')
    else:
        content = json.loads(JOBSET.read_text())
        shown = {"kind": "JobSet", "status": status(content["states"])}
        JOBSET.write_text(json.dumps(content))
        print(json.dumps(shown))


if __name__ == "__main__":
    main()
