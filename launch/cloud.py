# SPDX-License-Identifier: Apache-2.0
"""Runs gcloud and kubectl, and turns what they complain about into one message that helps.

With `dry_run` nothing is run: each command is printed as a shell would take it.
"""

import dataclasses
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from data_pipeline.errors import UserError

# What the cloud says (first match counts), and what to do about it. The wordings are those of
# gcloud 528 and kubectl 1.32, of the services behind them, and of reports of users.
ADVICE = (
    (r"do not currently have an active account|gcloud auth login|Reauthentication|"
     r"refreshing your current auth tokens",
     "log in with `gcloud auth login`"),
    (r"Failed to find attribute \[project\]|project property .* not set",
     "name the project with --project, or once with `gcloud config set project PROJECT`"),
    (r"has not been used in project|it is disabled|SERVICE_DISABLED",
     "switch the API on: `gcloud services enable tpu.googleapis.com compute.googleapis.com "
     "storage.googleapis.com` (and container.googleapis.com for GKE), then wait some minutes"),
    (r"[Qq]uota.{0,120}(exceeded|exhausted)|QUOTA_EXCEEDED",
     "ask for quota (console: IAM & Admin, Quotas), or delete requests that are FAILED or "
     "SUSPENDED, which still count: `gcloud compute tpus queued-resources list --zone=ZONE`"),
    (r"Permission denied on 'locations/|Unknown zone|Invalid location|location.{0,40}not found|"
     r"Zone .{0,60}not (exist|found)",
     "check --zone: docs/tpu.md lists some, `gcloud compute tpus locations list` all of yours"),
    (r"(no more|[Ii]nsufficient).{0,20}capacity|RESOURCE_POOL_EXHAUSTED|stockout",
     "there are no free machines: wait (the same command asks again), or try another zone, slice "
     "or --tier"),
    (r"(?<!gcloud\.)storage\.\w+\.\w+|does not have permission to access b instance",
     "give the account roles/storage.objectUser (and roles/storage.legacyBucketReader) on the "
     "bucket: `gcloud storage buckets add-iam-policy-binding`"),
    (r"gs://\S+ not found: 404|The following URLs matched no objects",
     "check the address; a bucket is made as docs/tpu.md shows"),
    (r"PERMISSION_DENIED|[Pp]ermission .{0,80}denied|does not have permission|Forbidden",
     "your account needs roles/tpu.admin and roles/iam.serviceAccountUser in the project "
     "(roles/container.developer for GKE); its owner grants them"),
    (r"[Aa]ccelerator.{0,60}(not found|not supported|invalid)|Invalid accelerator",
     "this zone does not have that slice: choose another --zone (docs/tpu.md)"),
    (r"SSH [Kk]ey is not present in the SSH agent",
     "ssh to several hosts asks your agent for the key: `ssh-add ~/.ssh/google_compute_engine`"),
    (r"exited with return code \[255\]|Connection timed out|Connection refused|Could not SSH",
     "the host did not answer: it may be starting or have been taken away; the same command tries "
     "again, and the firewall must let port 22 in (or --internal_ip from a machine inside)"),
    (r"no matches for kind \"JobSet\"|doesn't have a resource type \"jobset",
     "the cluster has no JobSet: `kubectl apply --server-side -f https://github.com/kubernetes-sigs/"
     "jobset/releases/download/v0.11.0/manifests.yaml`"),
    (r"connection to the server|current-context is not set|no configuration has been provided|"
     r"gke-gcloud-auth-plugin",
     "fetch the cluster's credentials: `gcloud container clusters get-credentials CLUSTER "
     "--location=LOCATION`"),
)  # fmt: skip


# What gcloud 528 prints, after half a minute of its own attempts, when nobody answers it.
_SILENCE = re.compile(
    r"gcloud crashed \((Connection|Timeout|ReadTimeout|SSL|Transport|ServerNotFound)|"
    r"HttpError accessing .{0,900}'status': '?5\d\d|\bUNAVAILABLE\b|DEADLINE_EXCEEDED",
    re.S,
)


class CloudError(UserError):
    """The cloud refused or could not be asked; exit code 69 as BSD's EX_UNAVAILABLE."""

    exit_code = 69


class CloudSilent(CloudError):
    """The cloud did not answer; it may when it is asked again."""


class Interrupted(UserError):
    """Ctrl-C, or the terminal went away."""

    exit_code = 130


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command ended with."""

    status: int
    output: str
    error: str

    @property
    def not_found(self) -> bool:
        """Whether it failed because the thing asked for does not exist."""
        return self.status != 0 and bool(
            re.search(r"NOT_FOUND|\(NotFound\)|was not found|not found: 404", self.error)
        )


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Runs commands, or with `dry_run` prints them."""

    dry_run: bool = False

    def ask(self, command: Sequence[str], stdin: str | None = None) -> Answer:
        """Runs a command and returns how it ended, whatever that is.

        Raises:
            CloudError: the program is not installed.
        """
        if self.dry_run:
            self.show(command, stdin)
            return Answer(0, "", "")
        if shutil.which(command[0]) is None:
            raise CloudError(
                f"{command[0]} is not installed or not on the PATH: see "
                "https://cloud.google.com/sdk/docs/install"
                + ("" if command[0] == "gcloud" else " and `gcloud components install kubectl`")
            )
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run(self, doing: str, command: Sequence[str], stdin: str | None = None) -> str:
        """Output of a command that has to succeed.

        Args:
            doing: what it is for, as in "cannot <doing>".

        Raises:
            CloudError: it failed, with what the cloud said and what to do.
        """
        answer = self.ask(command, stdin)
        if answer.status:
            raise failure(doing, answer.error or answer.output)
        return answer.output

    def say(self, text: str) -> None:
        """Tells the user something that has happened, which in a dry run nothing has."""
        if text and not self.dry_run:
            print(text, flush=True)

    def show(self, command: Sequence[str], stdin: str | None = None) -> None:
        """Prints a command so that a shell runs the same."""
        print(shlex.join(command) + (" <<'EOF'\n" + stdin + "\nEOF" if stdin else ""), flush=True)


def failure(doing: str, said: str) -> CloudError:
    """One message from what a command of the cloud printed."""
    if _SILENCE.search(said):
        return CloudSilent(
            f"cannot {doing}: the cloud does not answer ({_gist(said)}); is this machine online?"
        )
    return CloudError(f"cannot {doing}: {_gist(said)}\n{advice(said)}")


def advice(said: str) -> str:
    """What to do about a complaint of the cloud."""
    for pattern, hint in ADVICE:
        if re.search(pattern, said, re.S):
            return hint
    return "this is all the cloud said; --dry_run prints the command to try by hand"


def _gist(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"ERROR|[Ee]rror", line)]
    first = (errors or lines or ["no reason given"])[0]
    return re.sub(r"^ERROR: (\(gcloud[\w.-]*\) )?|^[Ee]rror( from server)?:? ", "", first)[:600]
