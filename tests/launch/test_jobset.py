# SPDX-License-Identifier: Apache-2.0
"""The manifest against the fields of the APIs, and against what a slice and a run need."""

import copy
import json
from typing import Any

import pytest

from bert_jax.slices import SLICES_OF_16, find_slice
from data_pipeline.errors import UsageError
from launch.arguments import Run
from launch.jobset import Terms, manifest
from tests.launch.jobset_fields import JOBSET, problems

RUN = Run("configs/pretrain.py:base", "gs://data/store", "gs://work/runs/a", ("--config.a=$(B)",))
IN_PLACE = Run(RUN.config, RUN.store, RUN.workdir, (), stage=False)
TERMS = Terms("bert", "us-docker.pkg.dev/p/r/bert:1")
ON_GKE = [name for name in SLICES_OF_16 if name != "v2-32"]


def pod_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", ON_GKE)
@pytest.mark.parametrize("run", [RUN, IN_PLACE])
@pytest.mark.parametrize("spot", [False, True])
def test_every_field_is_one_of_the_api(name: str, run: Run, spot: bool) -> None:
    terms = Terms("bert", "image", spot=spot, reservation="" if spot else "mine")
    assert problems(json.loads(json.dumps(manifest(find_slice(name), run, terms))), JOBSET) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "replicatedJobs", 0, "template", "spec", "completions"], "4"),
        (["spec", "replicatedJobs", 0, "replica"], 1),
        (["spec", "failurePolicy", "rules", 0, "action"], "FailJob"),
        (["kind"], "Jobset"),
    ],
)
def test_the_check_sees_what_is_wrong(path: list[Any], value: Any) -> None:
    content = copy.deepcopy(manifest(find_slice("v4-32"), RUN, TERMS))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert len(problems(content, JOBSET)) == 1


@pytest.mark.parametrize(
    ("name", "accelerator", "topology", "hosts", "chips"),
    [
        ("v3-32", "tpu-v3-slice", "4x4", 4, "4"),
        ("v4-32", "tpu-v4-podslice", "2x2x4", 4, "4"),
        ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4, "4"),
        ("v5p-32", "tpu-v5p-slice", "2x2x4", 4, "4"),
        ("v6e-16", "tpu-v6e-slice", "4x4", 4, "4"),
        ("tpu7x-32", "tpu7x", "2x2x4", 4, "4"),
        ("v6e-8", "tpu-v6e-slice", "2x4", 1, "8"),
        ("v4-64", "tpu-v4-podslice", "2x4x4", 8, "4"),
    ],
)  # fmt: skip
def test_one_pod_a_host_with_all_its_chips(
    name: str, accelerator: str, topology: str, hosts: int, chips: str
) -> None:
    content = manifest(find_slice(name), RUN, TERMS)
    job = content["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts and job["completionMode"] == "Indexed"
    pod = pod_of(content)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": chips}


def test_several_slices_are_as_many_jobs() -> None:
    terms = Terms("bert", "image", slices=3)
    content = manifest(find_slice("v6e-16"), RUN, terms)
    assert problems(json.loads(json.dumps(content)), JOBSET) == []
    (jobs,) = content["spec"]["replicatedJobs"]
    assert jobs["replicas"] == 3 and jobs["template"]["spec"]["completions"] == 4
    (index,) = [e for e in pod_of(content)["containers"][0]["env"] if e["name"] == "JOB_INDEX"]
    assert "job-index" in index["valueFrom"]["fieldRef"]["fieldPath"]


def test_only_exit_codes_that_a_restart_can_change_restart() -> None:
    content = manifest(find_slice("v4-32"), RUN, TERMS)
    job = content["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "NotIn"
    assert rule["onExitCodes"]["values"] == [75, 76, 134, 137, 143]
    assert rule["onExitCodes"]["containerName"] == pod_of(content)["containers"][0]["name"]
    assert job["backoffLimit"] == 0 and pod_of(content)["restartPolicy"] == "Never"
    (final,) = content["spec"]["failurePolicy"]["rules"]
    assert final["action"] == "FailJobSet" and final["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert content["spec"]["failurePolicy"]["maxRestarts"] > 3


def test_hosts_find_each_other_by_name_in_one_node_pool() -> None:
    content = manifest(find_slice("v4-32"), RUN, TERMS)
    assert content["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "bert"}
    annotations = content["metadata"]["annotations"]
    assert (
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"]
        == "cloud.google.com/gke-nodepool"
    )


def test_the_store_is_staged_by_a_container_before_the_trainer() -> None:
    pod = pod_of(manifest(find_slice("v4-32"), RUN, TERMS))
    (staging,), (trainer,) = pod["initContainers"], pod["containers"]
    assert staging["command"][-2:] == ["gs://data/store", "/store"]
    assert "--store=/store" in trainer["args"]
    assert {mount["mountPath"] for mount in trainer["volumeMounts"]} == {"/mnt/gs/work", "/store"}
    assert staging["volumeMounts"][0]["name"] == "store"
    # Kubernetes turns $$ into $ and would replace $(B).
    assert trainer["args"][-1] == "--config.a=$$(B)"


def test_a_store_read_in_place_is_mounted_beside_the_work_directory() -> None:
    pod = pod_of(manifest(find_slice("v4-32"), IN_PLACE, TERMS))
    assert "initContainers" not in pod
    assert "--store=gs://data/store" in pod["containers"][0]["args"]
    buckets = [volume["csi"]["volumeAttributes"]["bucketName"] for volume in pod["volumes"]]
    assert buckets == ["data", "work"]
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_paths_are_refused() -> None:
    with pytest.raises(UsageError, match="the pods mount buckets only"):
        manifest(find_slice("v4-32"), Run(RUN.config, "/nfs/store", RUN.workdir), TERMS)
