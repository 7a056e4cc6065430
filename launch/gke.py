# SPDX-License-Identifier: Apache-2.0
r"""Command: train on a TPU slice of a GKE cluster, as a JobSet.

    python -m launch.gke render --slice=v6e-16 --name=bert --image=REGION-docker.pkg.dev/P/R/bert \
        --store=gs://BUCKET/store --workdir=gs://BUCKET/runs/base \
        --config=configs/pretrain.py:base,pod -- --config.steps=1000000

`render` prints the manifest (JSON, which kubectl takes as it takes YAML); `apply` hands it to the
cluster that kubectl is set up for, `watch` follows it to its end, `delete` ends it. `apply` leaves
a JobSet that runs alone and replaces one that has ended. --dry_run prints the commands instead.
docs/tpu.md says how to make the cluster and the image, and how xpk does the same.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from data_pipeline.errors import UsageError, UserError, run_command
from launch import arguments, buckets
from launch.arguments import Run
from launch.cloud import Cloud, CloudError, Interrupted, failure
from launch.jobset import Terms, manifest
from launch.rentals import check_joined, gke_slice

COMMANDS = "render apply watch delete".split()
ABSENT = "Absent"
_FIRST_HOST = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"


class JobSetFailed(UserError):
    """The trainer ended for a reason that no restart changes, or was restarted too often."""

    exit_code = 70


def main(values: Sequence[str]) -> None:
    """Checks the command line and carries out one command."""
    command = values[1] if len(values) > 1 else ""
    if command not in COMMANDS:
        raise UsageError(f"{command!r} is no command: choose one of {', '.join(COMMANDS)}")
    given, overrides = flags.FLAGS, arguments.overrides(values[2:])
    cloud = Cloud(given.dry_run)
    name = arguments.matching("name", given.name, arguments.NAME, "bert-base")
    namespace = arguments.matching("namespace", given.namespace, arguments.NAME, "default")
    if command == "watch":
        try:
            _watch(cloud, name, namespace)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {name} goes on, and its nodes are billed. End it with\n"
                f"  python -m launch.gke delete --name={name} --namespace={namespace}\n"
                "and a node pool of its own with `gcloud container node-pools delete`"
            ) from None
    elif command == "delete":
        _delete(cloud, name, namespace)
    else:
        run = Run.from_flags(overrides)
        text = json.dumps(_manifest(name, namespace, run), indent=2)
        if command == "render":
            print(text)
        else:
            buckets.check(cloud, run, "")
            _apply(cloud, name, namespace, text)


def state(cloud: Cloud, name: str, namespace: str) -> tuple[str, str]:
    """Absent, Running, Suspended, Completed or Failed, and why it failed.

    Raises:
        CloudError: the cluster cannot be asked.
    """
    answer = cloud.ask(_kubectl(namespace, "get", "jobset", name, "--output=json"))
    if answer.not_found:
        return ABSENT, ""
    if answer.status:
        raise failure(f"look at the JobSet {name}", answer.error)
    if cloud.dry_run:
        return "Completed", ""
    content = json.loads(answer.output).get("status", {})
    for condition in content.get("conditions", []):
        if (
            condition["type"] in ("Completed", "Failed", "Suspended")
            and condition["status"] == "True"
        ):
            return condition["type"], condition.get("message", "")
    return "Running", f"{content.get('restarts', 0)} restarts"


def _apply(cloud: Cloud, name: str, namespace: str, text: str) -> None:
    now, _ = (ABSENT, "") if cloud.dry_run else state(cloud, name, namespace)
    if now in ("Running", "Suspended"):
        cloud.say(f"{name}: {now} already; `delete` ends it")
        return
    if now != ABSENT:
        _delete(cloud, name, namespace)
    cloud.run(f"apply the JobSet {name}", _kubectl(namespace, "apply", "--filename=-"), text)
    cloud.say(
        f"{name}: applied; its node pool is billed as long as it exists, whether pods run or not"
    )


def _watch(cloud: Cloud, name: str, namespace: str) -> None:
    shown = ("", "")
    while True:
        now = state(cloud, name, namespace)
        if now != shown:
            cloud.say(f"{name}: {': '.join(part for part in now if part)}")
            shown = now
        if now[0] == "Completed":
            return
        if now[0] == ABSENT:
            raise CloudError(
                f"there is no JobSet {name} in namespace {namespace}; `apply` makes it"
            )
        selector = f"--selector=jobset.sigs.k8s.io/jobset-name={name},{_FIRST_HOST}"
        log = cloud.ask(_kubectl(namespace, "logs", selector, "--container=trainer", "--tail=20"))
        if now[0] == "Failed":
            raise JobSetFailed(f"{name} failed: {now[1]}\n{log.output}")
        if log.output.strip():
            cloud.say(log.output.strip().splitlines()[-1])
        time.sleep(flags.FLAGS.poll)


def _delete(cloud: Cloud, name: str, namespace: str) -> None:
    command = _kubectl(namespace, "delete", "jobset", name, "--ignore-not-found", "--wait")
    output = cloud.run(f"delete the JobSet {name}", command)
    cloud.say(f"{name}: {'deleted' if output.strip() else 'was gone before'}")


def _kubectl(namespace: str, verb: str, *given: str) -> list[str]:
    return ["kubectl", verb, *given, f"--namespace={namespace}"]


def _manifest(name: str, namespace: str, run: Run) -> dict[str, Any]:
    given = flags.FLAGS
    terms = Terms(
        name=name,
        namespace=namespace,
        image=arguments.matching(
            "image", given.image, arguments.IMAGE, "us-docker.pkg.dev/p/r/bert"
        ),
        service_account=arguments.matching(
            "service_account", given.service_account, arguments.NAME, "bert"
        ),
        spot=given.spot,
        slices=given.slices,
        reservation=given.reservation
        and arguments.matching("reservation", given.reservation, arguments.NAME, "my-tpus"),
    )
    tpu = gke_slice(given.slice)
    check_joined(tpu, terms.slices)
    return manifest(tpu, run, terms)


if __name__ == "__main__":
    Run.define_flags()
    flags.DEFINE_string("slice", "", "Accelerator type, for example v6e-16 (docs/tpu.md).")
    flags.DEFINE_string("name", "", "Name of the JobSet.")
    flags.DEFINE_string("namespace", "default", "Kubernetes namespace.")
    flags.DEFINE_string("image", "", "Container image made from launch/Dockerfile.")
    flags.DEFINE_string(
        "service_account", "default", "Kubernetes account that may use the buckets."
    )
    flags.DEFINE_bool("spot", False, "Run on spot nodes, which may be taken away.")
    flags.DEFINE_string("reservation", "", "Name of a reservation to run on.")
    flags.DEFINE_float("poll", 30.0, "Seconds between two looks at the JobSet.", lower_bound=0)
    run_command(main)
