# SPDX-License-Identifier: Apache-2.0
"""The code of one commit as an archive, which is all of it that the hosts get to see."""

from pathlib import Path

from launch.arguments import ROOT
from launch.cloud import Cloud

CACHE = Path.home() / ".cache" / "bert_jax"


def archive(revision: str, cloud: Cloud) -> Path:
    """Path of bert_jax-<revision>.tar.gz; packed unless it was before.

    Raises:
        CloudError: git cannot pack it.
    """
    path = CACHE / f"bert_jax-{revision[:12]}.tar.gz"
    if not path.is_file():
        # A person who runs what is printed has it all or not at all.
        partial = path if cloud.dry_run else path.with_name(f"partial-{path.name}")
        if not cloud.dry_run:
            CACHE.mkdir(parents=True, exist_ok=True)
        command = ["git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={partial}"]
        cloud.run("pack the code", [*command, revision])
        if not cloud.dry_run:
            partial.replace(path)
    return path
