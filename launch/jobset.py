# SPDX-License-Identifier: Apache-2.0
"""The JobSet that trains on a slice, or several, of a GKE cluster.

A Job for each slice, of as many pods as that has hosts; all come and go together. An exit code of
the trainer that no restart can change fails the Job by its pod failure policy, and with it the
JobSet; anything else (75, 76, a lost node) restarts all pods, each of which resumes. GKE tells the
pods of several slices of each other (MEGASCALE_*), which JAX reads. Sources: JobSet API v1alpha2,
GKE's "TPUs in GKE", "Deploy TPU Multislices" and "Cloud Storage FUSE CSI driver", xpk's manifests.
"""

import dataclasses
from typing import Any

from bert_jax.slices import Slice
from data_pipeline.errors import UsageError
from launch.arguments import Run, bucket_of
from launch.host_storage import MOUNTS
from launch.rentals import chips_per_host, rental, topology
from launch.supervision import RESUMABLE

STAGED = "/store"
# Every host has to see at once what another one has written, so nothing is remembered.
MOUNT_OPTIONS = "metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0"
STAGING_IMAGE = "gcr.io/google.com/cloudsdktool/google-cloud-cli:slim"
_JOB_INDEX = "metadata.annotations['jobset.sigs.k8s.io/job-index']"  # number of the slice
GRACE_SECONDS = 60  # to save after a notice
RESTARTS = 50  # at most; restarts without progress end a run much earlier (launch.on_host run)


@dataclasses.dataclass(frozen=True)
class Terms:
    """Where and as whom the pods run."""

    name: str
    image: str
    namespace: str = "default"
    service_account: str = "default"  # of Kubernetes, with access to the buckets
    spot: bool = False
    reservation: str = ""
    slices: int = 1


def manifest(tpu: Slice, run: Run, terms: Terms) -> dict[str, Any]:
    """The JobSet as Kubernetes takes it.

    Raises:
        UsageError: store or work directory are in no bucket.
    """
    for flag, place in (("store", run.store), ("workdir", run.workdir)):
        if not bucket_of(place):
            raise UsageError(
                f"--{flag}={place!r}: the pods mount buckets only, as gs://bucket/path"
            )
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": terms.service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "nodeSelector": _node_selector(tpu, terms),
        "tolerations": _tolerations(terms),
        "containers": [_trainer(tpu, run, terms)],
        "volumes": _volumes(run),
    }
    if run.stage:
        pod["initContainers"] = [_staging(run.store)]
    labels = {"app.kubernetes.io/name": "bert-jax", "app.kubernetes.io/instance": terms.name}
    job = {
        "completionMode": "Indexed",
        "completions": tpu.hosts,
        "parallelism": tpu.hosts,
        "backoffLimit": 0,  # one lost host ends them all: they compute together
        "podFailurePolicy": {"rules": [_final()]},
        "template": {
            "metadata": {
                "labels": labels,
                "annotations": {"gke-gcsfuse/volumes": "true"},
            },
            "spec": pod,
        },
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": terms.name,
            "namespace": terms.namespace,
            "labels": labels,
            # One slice is one node pool: the pods must not be spread over two.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            # The headless service by whose names the hosts find each other.
            "network": {"enableDNSHostnames": True, "subdomain": terms.name},
            "failurePolicy": {
                "maxRestarts": RESTARTS,
                "rules": [
                    {
                        "name": "final_exit_code",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": terms.slices, "template": {"spec": job}}
            ],
        },
    }


def _final() -> dict[str, Any]:
    codes = {"containerName": "trainer", "operator": "NotIn", "values": sorted(RESUMABLE)}
    return {"action": "FailJob", "onExitCodes": codes}


def _node_selector(tpu: Slice, terms: Terms) -> dict[str, str]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": rental(tpu).accelerator,
        "cloud.google.com/gke-tpu-topology": topology(tpu),
    }
    if terms.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    if terms.reservation:
        selector["cloud.google.com/reservation-name"] = terms.reservation
    return selector


def _tolerations(terms: Terms) -> list[dict[str, str]]:
    tolerations = [{"key": "google.com/tpu", "operator": "Exists"}]
    if terms.spot:
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists"})
    return tolerations


def _trainer(tpu: Slice, run: Run, terms: Terms) -> dict[str, Any]:
    store = STAGED if run.stage else run.store
    given = [f"--config={run.config}", f"--workdir={run.workdir}", f"--store={store}"]
    chips = str(chips_per_host(tpu))
    return {
        "name": "trainer",
        "image": terms.image,
        "command": ["python", "-m", "launch.on_host", "run"],
        # Kubernetes reads $(NAME) in arguments as a variable; $$ is a dollar.
        "args": [word.replace("$", "$$") for word in (*given, "--", *run.overrides)],
        "env": [
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "JOB_INDEX", "valueFrom": {"fieldRef": {"fieldPath": _JOB_INDEX}}},
        ],
        # libtpu's, its own between slices, JAX's coordinator
        "ports": [{"containerPort": port} for port in (8471, 8080, 8482)],
        "resources": {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}},
        "volumeMounts": _mounts(run),
    }


def _staging(store: str) -> dict[str, Any]:
    return {
        "name": "staging",
        "image": STAGING_IMAGE,
        "command": ["gcloud", "storage", "rsync", "--recursive", store.replace("$", "$$"), STAGED],
        "volumeMounts": [{"name": "store", "mountPath": STAGED}],
    }


def _buckets(run: Run) -> list[str]:
    """What the trainer reads or writes in place."""
    return sorted(
        {bucket_of(place) for place in (run.workdir, *(() if run.stage else (run.store,)))}
    )


def _mounts(run: Run) -> list[dict[str, Any]]:
    mounts = [
        {"name": f"bucket-{number}", "mountPath": f"{MOUNTS}/{bucket}"}
        for number, bucket in enumerate(_buckets(run))
    ]
    return [*mounts, *([{"name": "store", "mountPath": STAGED}] if run.stage else [])]


def _volumes(run: Run) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = []
    for number, bucket in enumerate(_buckets(run)):
        attributes = {"bucketName": bucket, "mountOptions": MOUNT_OPTIONS}
        csi = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
        volumes.append({"name": f"bucket-{number}", "csi": csi})
    return [*volumes, *([{"name": "store", "emptyDir": {}}] if run.stage else [])]
