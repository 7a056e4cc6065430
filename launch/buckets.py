# SPDX-License-Identifier: Apache-2.0
"""Are the buckets of a run there, and fit for it? Asked before anything is rented.

A work directory is written by all hosts through Cloud Storage FUSE and committed by renaming
directories, which only a bucket with a hierarchical namespace does at once and whole.
"""

import json

from data_pipeline.errors import UsageError
from launch.arguments import Run, bucket_of
from launch.cloud import Cloud, failure


def check(cloud: Cloud, run: Run, project: str) -> None:
    """Looks at the store and at the bucket of the work directory.

    Raises:
        UsageError: there is no store, or the bucket cannot hold a work directory.
        CloudError: one of them cannot be looked at.
    """
    where = [f"--project={project}"] if project else []
    if bucket_of(run.store):
        command = ["gcloud", "storage", "objects", "describe", f"{run.store}/store.json"]
        answer = cloud.ask([*command, "--format=json", *where, "--quiet"])
        if answer.not_found:
            raise UsageError(
                f"there is no store at {run.store}: copy one that data_pipeline.prepare has made: "
                f"gcloud storage rsync --recursive STORE {run.store}"
            )
        if answer.status:
            raise failure(f"look at the store {run.store}", answer.error)
    bucket = bucket_of(run.workdir)
    if not bucket:
        return
    command = ["gcloud", "storage", "buckets", "describe", f"gs://{bucket}", "--format=json"]
    # --raw: the standardised form leaves the namespace out.
    command += ["--raw", *where, "--quiet"]
    output = cloud.run(f"look at the bucket gs://{bucket}", command)
    if cloud.dry_run:
        return
    if not json.loads(output).get("hierarchicalNamespace", {}).get("enabled"):
        raise UsageError(
            f"the bucket gs://{bucket} has no hierarchical namespace, so a checkpoint cannot be "
            "committed whole there; make another one for --workdir: gcloud storage buckets create "
            "gs://NAME --location=REGION --uniform-bucket-level-access "
            "--enable-hierarchical-namespace"
        )
