# SPDX-License-Identifier: Apache-2.0
"""Bad input and refusals of the cloud: one message each, an exit code, and nothing done."""

import subprocess

import pytest

from tests.launch.world import RUN, SLICE, World, script

BAD_PLACES = (
    "runs/base", "gs://a/../../b", "gs://Bucket/x", "gs://bucket", "gs://bucket/a\nb",
    "gs://bucket/a*", "gs://-bucket/x", "gs://bucket//x", "-x", "", "/", "s3://bucket/x",
)  # fmt: skip
BAD_OVERRIDES = ("steps=3", "--config.steps", "--workdir=x", "--config.a=b\nc", "--flagfile=x")


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *messages: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    for message in messages:
        assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["name", "zone"])
def test_names_that_a_shell_or_gcloud_could_misread(world: World, flag: str) -> None:
    given = [word for word in SLICE if not word.startswith(f"--{flag}=")]
    assert_refused(
        world.launch("tpu_vm", "delete", *given, f"--{flag}=a; touch x"), 64, f"--{flag}"
    )
    assert not world.calls()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["upp", *SLICE], "'upp' is no command: choose one of up, create"),
        (["up", *SLICE[1:], "--slice=v4-33"], "slice 'v4-33': v4 comes in"),
        (["up", *SLICE[1:], "--slice=a100"], "slice 'a100' is not known"),
        (["up", *SLICE[1:], "--slice=tpu7x-32"], "rent it with `python -m launch.gke`"),
        (["up", *SLICE, "--tier=cheap"], "--tier='cheap' must be one of on-demand, spot, reserved"),
        (["up", *SLICE, "--valid_until=soon"], "--valid_until='soon' is no duration"),
        (["up", *SLICE, "--service_account=-x"], "--service_account='-x' is not of the form"),
        (["up", *SLICE, "--project=a b"], "--project='a b' is not of the form"),
        (["up", *SLICE, "--config=configs/none.py"], "there is no configs/none.py"),
        (["up", *SLICE, "--config=../x.py"], "must be a path inside this checkout"),
        (["up", *SLICE, "--config=configs/pretrain.py:a;b"], "is no argument of a recipe"),
        (["up", *SLICE, *RUN, "--", "--config.data.store=x"], "the store is given as --store"),
        (["up", *SLICE, *RUN, "--", "--config.mesh.slices=2"], "is given as --slices"),
        (["up", *SLICE[1:], *RUN, "--slice=v3-32", "--slices=2"], "v3-32 comes alone"),
        (["up", *SLICE[1:], *RUN, "--slice=v4-8", "--slices=2"], "v4-8 is one host"),
        (["up", *SLICE, "--polll=3"], "Unknown command line flag 'polll'"),
    ],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense(world: World, given: list[str], message: str) -> None:
    assert_refused(world.launch("tpu_vm", *given), 64, message)
    assert not world.calls()


def test_code_that_no_commit_holds_is_not_launched(world: World) -> None:
    recipe = world.checkout / "configs" / "pretrain.py"
    text = recipe.read_text()
    recipe.write_text(text + "# changed\n")
    try:
        done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    finally:
        recipe.write_text(text)
    assert_refused(done, 64, "has changes that are not committed (M configs/pretrain.py)")
    assert not world.calls()


NOT_LOGGED_IN = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) You do not currently have an active account \
selected.
Please run:

  $ gcloud auth login

to obtain new credentials."""
API_OFF = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) PERMISSION_DENIED: Cloud TPU API has not been \
used in project 1032 before or it is disabled. Enable it by visiting \
https://console.developers.google.com/apis/api/tpu.googleapis.com/overview then retry."""
QUOTA = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit \
'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. Limit: 0 in region us-east5."""
DENIED = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) PERMISSION_DENIED: Permission \
'tpu.nodes.create' denied on resource '//tpu.googleapis.com/projects/p/locations/us-central2-b'."""
ZONE = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) PERMISSION_DENIED: Permission denied on \
'locations/us-middle9-z' (or it may not exist)."""
PROJECT = """\
ERROR: (gcloud.compute.tpus.queued-resources.create) Error parsing [queued_resource].
The [queued_resource] resource is not properly specified.
Failed to find attribute [project]. The attribute can be set in the following ways:"""
BUCKET = """\
ERROR: (gcloud.storage.buckets.describe) [a@b.c] does not have permission to access b instance \
[work] (or it may not exist): a@b.c does not have storage.buckets.get access to the Google Cloud \
Storage bucket. Permission 'storage.buckets.get' denied on resource (or it may not exist)."""
SSH = "ERROR: (gcloud.compute.tpus.tpu-vm.scp) [/usr/bin/scp] exited with return code [255]."
AGENT = """\
ERROR: (gcloud.compute.tpus.tpu-vm.scp) SSH Key is not present in the SSH agent. Please run \
"ssh-add /home/a/.ssh/google_compute_engine" to add it, and try again."""
OFFLINE = """\
ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='tpu.googleapis.com', port=443): \
Max retries exceeded with url: /v2/projects/p/locations/us-central2-b/queuedResources/bert"""
CREATE = "compute tpus queued-resources create"


@pytest.mark.parametrize(
    ("command", "said", "messages"),
    [
        (CREATE, NOT_LOGGED_IN, ("active account", "log in with `gcloud auth login`")),
        (CREATE, API_OFF, ("API has not been used", "gcloud services enable tpu.googleapis.com")),
        (CREATE, QUOTA, ("Limit: 0 in region us-east5", "ask for quota")),
        (CREATE, DENIED, ("'tpu.nodes.create' denied", "roles/tpu.admin")),
        (CREATE, ZONE, ("locations/us-middle9-z", "check --zone")),
        (CREATE, PROJECT, ("queued_resource", "name the project with --project")),
        ("storage buckets describe", BUCKET, ("gs://work", "storage.buckets.get", "objectUser")),
        ("compute tpus tpu-vm scp", SSH, ("return code [255]", "the host did not answer")),
        ("compute tpus tpu-vm scp", AGENT, ("not present in the SSH agent", "`ssh-add ~/.ssh/")),
        ("storage buckets describe", OFFLINE, ("gs://work", "is this machine online?")),
    ],
)  # fmt: skip
def test_what_the_cloud_refuses(
    world: World, command: str, said: str, messages: tuple[str, ...]
) -> None:
    world.play(script(errors={command: said}))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert_refused(done, 69, "error: cannot ", *messages)
    assert not world.trained()


def test_quota_that_runs_out_while_waiting_is_final(world: World) -> None:
    said = "RESOURCE_EXHAUSTED: Quota 'TPUV4sPreemptiblePodPerProject' exhausted. Limit 20800"
    failed = {"state": "FAILED", "failedData": {"error": {"code": 8, "message": said}}}
    world.play(script(lives=[{"states": ["WAITING_FOR_RESOURCES", failed]}]))
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert_refused(done, 69, said, "ask for quota", "bert is FAILED and may be billed")
    assert len(world.calls("queued-resources", "create")) == 1


def test_gcloud_that_is_not_installed(world: World) -> None:
    program = world.path / "bin" / "gcloud"
    aside = program.rename(program.with_name("aside"))
    try:
        environment = {**world.environment(), "PATH": str(world.path / "bin") + ":/nowhere"}
        git = world.path / "bin" / "git"
        git.symlink_to("/usr/bin/git")
        done = world.launch("tpu_vm", "create", *SLICE, environment=environment)
    finally:
        git.unlink()
        aside.rename(program)
    assert_refused(done, 69, "gcloud is not installed or not on the PATH", "cloud.google.com/sdk")


def test_buckets_are_looked_at_before_anything_is_rented(world: World) -> None:
    (world.path / "buckets/work/.flat").touch()
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert_refused(done, 64, "gs://work has no hierarchical namespace")
    missing = ("--store=gs://data/none", *RUN[1:])
    done = world.launch("tpu_vm", "up", *SLICE, *missing)
    assert_refused(done, 64, "there is no store at gs://data/none")
    done = world.launch("tpu_vm", "up", *SLICE, RUN[0], "--workdir=gs://none/x", RUN[2])
    assert_refused(done, 69, "gs://none not found: 404", "check the address")
    assert not world.calls("queued-resources", "create")


def test_a_name_that_stands_for_other_slices_is_left_alone(world: World) -> None:
    assert world.launch("tpu_vm", "create", *SLICE).returncode == 0
    assert world.launch("tpu_vm", "wait", *SLICE).returncode == 0
    done = world.launch("tpu_vm", "create", *SLICE, "--slices=2")
    assert_refused(done, 64, "bert is 1 x v4-16, and 2 x v4-16 is asked for", "delete --name=bert")
    done = world.launch("tpu_vm", "relaunch", *SLICE[1:], *RUN, "--slice=v4-32")
    assert_refused(done, 64, "bert is 1 x v4-16, and 1 x v4-32 is asked for")
    assert len(world.calls("create")) == 1 and not world.calls("delete")


def test_a_work_directory_that_cannot_be_written_ends_on_the_host(world: World) -> None:
    (world.path / "buckets/work/runs").write_text("a file where the directory should be")
    done = world.launch("tpu_vm", "up", *SLICE, *RUN)
    assert_refused(done, 69, "cannot start training on bert: error on", "roles/storage.objectUser")
    assert not world.trained()
