# SPDX-License-Identifier: Apache-2.0
"""The commands of launch.gke against a stand-in cluster."""

import json
import signal
import subprocess
import sys

import pytest

from tests.launch.test_refusals import assert_refused
from tests.launch.world import RUN, World, script

ARGUMENTS = ("--slice=v6e-16", "--name=bert", "--image=us-docker.pkg.dev/p/r/bert:1", *RUN)
WATCH = ("--name=bert", "--poll=0.05")


def play(world: World, *states: str, **given: dict[str, str]) -> None:
    world.play({**script(**given), "jobset": list(states)})


def test_apply_watch_delete_and_each_twice(world: World) -> None:
    play(world, "Running", "Running", "Completed")
    arguments = (*ARGUMENTS, "--slices=2")
    rendered = world.launch("gke", "render", *arguments, "--", "--config.steps=7")
    assert rendered.returncode == 0 and not world.calls()
    for said in ("applied", "Running already"):
        done = world.launch("gke", "apply", *arguments, "--", "--config.steps=7")
        assert done.returncode == 0 and said in done.stdout, done.stderr
    applied = json.loads((world.path / "jobset.json").read_text())["manifest"]
    assert applied == json.loads(rendered.stdout)
    assert "--config.steps=7" in rendered.stdout
    assert "--config.mesh.slices=2" in rendered.stdout
    assert applied["spec"]["replicatedJobs"][0]["replicas"] == 2
    done = world.launch("gke", "watch", *WATCH)
    assert done.returncode == 0, done.stderr
    assert "step 10 loss 2.5" in done.stdout and "bert: Completed" in done.stdout
    for said in ("deleted", "was gone before"):
        done = world.launch("gke", "delete", *WATCH)
        assert done.returncode == 0 and f"bert: {said}" in done.stdout


@pytest.mark.parametrize("ended", ["Completed", "Failed"])
def test_what_has_ended_is_replaced(world: World, ended: str) -> None:
    play(world, ended)
    for _ in range(2):
        done = world.launch("gke", "apply", *ARGUMENTS)
        assert done.returncode == 0 and "applied" in done.stdout
    assert len(world.calls("kubectl", "apply")) == 2 and len(world.calls("kubectl", "delete")) == 1


def test_a_jobset_that_failed(world: World) -> None:
    play(world, "Failed")
    world.launch("gke", "apply", *ARGUMENTS)
    done = world.launch("gke", "watch", *WATCH)
    assert_refused(done, 70, "bert failed: matched rule final_exit_code", "step 10 loss 2.5")


def test_ctrl_c_says_what_goes_on(world: World) -> None:
    play(world, "Running")
    world.launch("gke", "apply", *ARGUMENTS)
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.gke", "watch", *WATCH],
        cwd=world.checkout, env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None and "Running" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "python -m launch.gke delete --name=bert --namespace=default" in errors
    assert not world.calls("kubectl", "delete")


NO_CLUSTER = "error: current-context is not set"
NO_JOBSET = 'error: the server doesn\'t have a resource type "jobset"'
DENIED = (
    'Error from server (Forbidden): jobsets.jobset.x-k8s.io "bert" is forbidden: User "a@b.c" '
    "cannot get resource"
)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (NO_CLUSTER, "gcloud container clusters get-credentials"),
        (NO_JOBSET, "the cluster has no JobSet"),
        (DENIED, "roles/container.developer"),
    ],
)
def test_what_the_cluster_refuses(world: World, said: str, advice: str) -> None:
    play(world, "Running", errors={"kubectl": said})
    assert_refused(world.launch("gke", "watch", *WATCH), 69, "cannot look at the JobSet", advice)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--slice=v2-32"], "slice 'v2-32' is not offered by GKE"),
        (["--slice=v6e-8", "--slices=2"], "v6e-8 is one host"),
        (["--image=a b"], "--image='a b' is not of the form"),
        (["--namespace=Bad"], "--namespace='Bad' is not of the form"),
        (["--workdir=/nfs/run"], "the pods mount buckets only"),
    ],
)
def test_a_command_line_that_makes_no_sense(world: World, given: list[str], message: str) -> None:
    assert_refused(world.launch("gke", "render", *ARGUMENTS, *given), 64, message)


def test_watch_and_delete_without_a_jobset(world: World) -> None:
    assert_refused(world.launch("gke", "watch", *WATCH), 69, "there is no JobSet bert")
    assert world.launch("gke", "delete", *WATCH).returncode == 0


def test_dry_run_prints_the_commands(world: World) -> None:
    done = world.launch("gke", "apply", *ARGUMENTS, "--dry_run")
    assert done.returncode == 0 and not world.calls()
    assert "kubectl apply --filename=- --namespace=default <<'EOF'\n{" in done.stdout
    text = done.stdout.partition("<<'EOF'\n")[2].partition("\nEOF")[0]
    assert json.loads(text)["kind"] == "JobSet"
