# SPDX-License-Identifier: Apache-2.0
"""How a host reaches the store and the work directory: buckets as mounts, the store as a copy.

bert_jax reads and writes paths. A gs:// address is therefore mounted with Cloud Storage FUSE under
MOUNTS, the same on every host, and a store is copied to the host's own disk once. Standard library
only, like `launch.on_host`, which this is part of.

Sources: gcsfuse docs/semantics.md (consistency, hierarchical namespace), docs/troubleshooting.md
(package repository).
"""

import hashlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

BASE = Path.home() / "bert_jax"
MOUNTS = Path("/mnt/gs")
# Every host has to see at once what another one has written, so nothing is remembered.
GCSFUSE = ("gcsfuse", "--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0")
PACKAGES = "https://packages.cloud.google.com/apt"
KEY = "/usr/share/keyrings/cloud.google.asc"
EXIT_DISK = 74


def fail(message: str, code: int = EXIT_DISK) -> NoReturn:
    """Ends with one message that names the host."""
    print(f"error on {socket.gethostname()}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def call(command: list[str], doing: str, stdin: str = "") -> None:
    """Runs a command that has to succeed."""
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        said = done.stdout.strip()[-2000:]
        reason = said.splitlines()[-1:] or [f"exit code {done.returncode}"]
        fail(f"cannot {doing}: {reason[0]} ({shlex.join(command)})\n{said}")


def mounted(place: str) -> str:
    """The path at which a host sees a gs:// address; a path is that path."""
    return f"{MOUNTS}/{place[5:]}" if place.startswith("gs://") else place


def mount(place: str) -> None:
    """Makes the bucket of a gs:// address visible as a directory; of a path, checks that it is."""
    if not place.startswith("gs://"):
        if not Path(place).parent.is_dir():
            fail(f"{Path(place).parent} does not exist here; mount it on every host")
        return
    bucket = place[5:].partition("/")[0]
    point = MOUNTS / bucket
    if os.path.ismount(point):
        return
    if shutil.which("gcsfuse") is None:
        install_gcsfuse()
    call(["sudo", "mkdir", "-p", str(point)], "make the mount point")
    call(["sudo", "chown", f"{os.getuid()}:{os.getgid()}", str(point)], "own the mount point")
    call([*GCSFUSE, bucket, str(point)], f"mount gs://{bucket}")


def install_gcsfuse() -> None:
    """Installs Cloud Storage FUSE from Google's packages, as its documentation says."""
    release = subprocess.run(["lsb_release", "-cs"], capture_output=True, text=True).stdout.strip()
    source = f"deb [signed-by={KEY}] {PACKAGES} gcsfuse-{release} main\n"
    call(["sudo", "curl", "-fsSL", f"{PACKAGES}/doc/apt-key.gpg", "-o", KEY], "fetch Google's key")
    call(["sudo", "tee", "/etc/apt/sources.list.d/gcsfuse.list"], "add Google's packages", source)
    # The machine's own updates may be at work.
    apt = ["sudo", "apt-get", "-o", "DPkg::Lock::Timeout=300"]
    call([*apt, "update"], "list packages")
    call([*apt, "install", "-y", "gcsfuse"], "install gcsfuse")


def probe(workdir: Path) -> None:
    """Writes, renames and deletes in the work directory, before the hosts wait for each other."""
    name = f".probe-{socket.gethostname()}-{os.getpid()}"
    try:
        (workdir / name).mkdir(parents=True)
        (workdir / name / "file").write_text("written")
        (workdir / name).rename(workdir / f"{name}-renamed")
        shutil.rmtree(workdir / f"{name}-renamed")
    except OSError as error:
        fail(
            f"cannot write into the work directory {workdir}: {error.strerror}; the service "
            "account of the slice needs roles/storage.objectUser on the bucket, and the bucket a "
            "hierarchical namespace (docs/tpu.md)"
        )


def stage(store: str) -> str:
    """A copy of a gs:// store on this host's disk, named after what its store.json says."""
    command = ["gcloud", "storage", "cat", f"{store}/store.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"cannot read the store {store}: {done.stderr.strip()[-600:]}")
    target = BASE / "stores" / hashlib.sha256(done.stdout.encode()).hexdigest()[:16]
    complete = target.with_suffix(".complete")
    if not complete.is_file():
        target.mkdir(parents=True, exist_ok=True)
        # rsync: what an interrupted copy has brought is not brought again.
        copy = ["gcloud", "storage", "rsync", "--recursive", store, str(target)]
        call(copy, f"copy the store {store}")
        if (target / "store.json").read_text() != done.stdout:
            fail(f"the store {store} changed while it was copied; start again")
        complete.touch()
    return str(target)
