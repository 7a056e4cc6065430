# SPDX-License-Identifier: Apache-2.0
"""Slices as a queued resource of the Cloud TPU API: ask for them, look, reach, delete.

Every function builds gcloud commands as lists. Source: `gcloud compute tpus queued-resources` and
`tpu-vm` (ssh, scp, describe) of gcloud 528, states from the API's QueuedResourceState. Several
slices are the nodes NAME-0, NAME-1, ... of one resource; each learns of the others from the
metadata of its machines, which JAX reads.
"""

import dataclasses
import json
import re
import time
from typing import Any

from bert_jax.slices import Slice
from data_pipeline.errors import UsageError
from launch.cloud import Answer, Cloud, CloudError, CloudSilent, failure
from launch.rentals import rental

ABSENT, ACTIVE, PREEMPTED = "ABSENT", "ACTIVE", "PREEMPTED"
DELETED = (ABSENT, "DELETING")  # by somebody: the cloud itself leaves what it takes away SUSPENDED
COMING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
_MISSED = "Could not prepare all"  # gcloud goes on with the slices that it could reach
# What ssh and scp of gcloud 528 print of hosts that are not there, or not yet, or no longer.
_NOT_REACHED = (
    r"\[255\]|exit status 255|Connection |has terminal state|cannot be currently connected to|"
    rf"{_MISSED}"
)
TIERS = {"on-demand": [], "spot": ["--spot"], "reserved": ["--reserved"]}


class NotReached(CloudError):
    """A host did not answer: it may be starting, or gone."""


class Unavailable(CloudError):
    """The slice was taken away, or there is none free; asking again may help."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A queued resource as the cloud describes it."""

    state: str
    reason: str = ""  # for which it failed
    kind: str = ""  # accelerator type; "": the cloud does not say
    slices: int = 0  # 0: the cloud does not say


@dataclasses.dataclass(frozen=True)
class Rented:
    """A slice, or several, by name, place and terms."""

    cloud: Cloud
    name: str
    zone: str
    project: str = ""  # "": gcloud's own setting
    tier: str = "on-demand"
    service_account: str = ""  # "": the project's default one
    valid_until: str = ""  # give up waiting after, for example 6h
    internal_ip: bool = False  # ssh from inside the network
    slices: int = 1  # all of one kind, rented and given back together

    @property
    def where(self) -> list[str]:
        """Flags that every command about it takes."""
        return [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else [])]

    @property
    def delete_command(self) -> str:
        """How a user ends the bill."""
        return " ".join(["python -m launch.tpu_vm delete", f"--name={self.name}", *self.where])

    @property
    def nodes(self) -> list[str]:
        """Names of the slices."""
        if self.slices == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(self.slices)]

    def gcloud(self, group: str, verb: str, *arguments: str) -> list[str]:
        """A command of `gcloud compute tpus`."""
        return ["gcloud", "compute", "tpus", group, verb, *arguments, *self.where, "--quiet"]

    def request(self) -> Request:
        """What the cloud says of the request.

        Raises:
            CloudError: the cloud cannot be asked.
        """
        command = self.gcloud("queued-resources", "describe", self.name, "--format=json")
        answer = self.cloud.ask(command)
        if answer.not_found:
            return Request(ABSENT)
        if answer.status:
            raise failure(f"look at {self.name}", answer.error)
        if self.cloud.dry_run:
            return Request(ACTIVE)
        content = _json(answer.output)
        state = content.get("state", {})
        reason = state.get("failedData", {}).get("error", {}).get("message", "")
        specs = content.get("tpu", {}).get("nodeSpec", [])
        spec: dict[str, Any] = specs[0] if specs else {"multisliceParams": {"nodeCount": 0}}
        return Request(
            state.get("state", "UNKNOWN"),
            reason,
            spec.get("node", {}).get("acceleratorType", ""),
            int(spec.get("multisliceParams", {}).get("nodeCount", 1)),
        )

    def state(self) -> tuple[str, str]:
        """State of the request and, where it failed, why. A preempted slice may still be ACTIVE.

        Raises:
            CloudError: the cloud cannot be asked.
        """
        request = self.request()
        return request.state, request.reason

    def check_same(self, tpu: Slice, request: Request) -> None:
        """Whether what the name stands for is what is asked for now.

        Raises:
            UsageError: it is another kind of slice, or another number of them.
        """
        kind, number = request.kind or tpu.name, request.slices or self.slices
        if (kind, number) != (tpu.name, self.slices):
            raise UsageError(
                f"{self.name} is {number} x {kind}, and {self.slices} x {tpu.name} is "
                f"asked for: take another --name, or end that one with\n  {self.delete_command}"
            )

    def node_preempted(self) -> bool:
        """Whether machines behind an ACTIVE request were taken away."""
        return any(self._preempted(node) for node in self.nodes)

    def _preempted(self, node: str) -> bool:
        answer = self.cloud.ask(self.gcloud("tpu-vm", "describe", node, "--format=json"))
        if answer.status:
            return answer.not_found
        return _json(answer.output).get("state") in (PREEMPTED, "TERMINATED")

    def create(self, tpu: Slice) -> None:
        """Asks for the slice; it is there once its state is ACTIVE.

        Raises:
            CloudError: the cloud refuses.
        """
        arguments = [f"--accelerator-type={tpu.name}", f"--runtime-version={rental(tpu).runtime}"]
        if self.slices == 1:
            arguments.append(f"--node-id={self.name}")
        else:
            arguments += [f"--node-count={self.slices}", f"--node-prefix={self.name}"]
        arguments += TIERS[self.tier]
        if self.service_account:
            arguments.append(f"--service-account={self.service_account}")
        if self.valid_until:
            arguments.append(f"--valid-until-duration={self.valid_until}")
        command = self.gcloud("queued-resources", "create", self.name, *arguments)
        answer = self.cloud.ask(command)
        if answer.status and "ALREADY_EXISTS" not in answer.error:
            raise failure(f"ask for {self.name} in {self.zone}", answer.error)

    def delete(self) -> bool:
        """Deletes request and machines and waits for it; false if there was nothing to delete.

        Raises:
            CloudError: they could not be deleted.
        """
        answer = self.cloud.ask(self.gcloud("queued-resources", "delete", self.name, "--force"))
        if answer.not_found:
            return False
        if answer.status:
            raise failure(f"delete {self.name}", answer.error)
        return True

    def wait(self, poll: float) -> None:
        """Returns once the slice is there.

        Raises:
            Unavailable: it was taken away, or there is none free.
            CloudError: it cannot come: no quota, not asked for.
        """
        shown = ""
        while True:
            try:
                state, reason = self.state()
            except CloudSilent as silence:
                self.cloud.say(f"{self.name}: {silence}")
                time.sleep(poll)
                continue
            if state != shown:
                self.cloud.say(f"{self.name}: {state}")
                shown = state
            if state == ACTIVE:
                return
            if state in DELETED:
                raise CloudError(f"{self.name} does not exist in {self.zone}; `create` asks for it")
            if state not in COMING:
                error = failure(f"get {self.name}", reason or f"its state is {state}")
                raise Unavailable(str(error)) if _may_come(state, reason) else error
            time.sleep(poll)

    def copy(self, path: str, target: str) -> None:
        """Copies a file to the home directory of every host.

        Raises:
            CloudError: a host could not be reached.
        """
        command = self._to_hosts("scp", path, f"{self.name}:{target}")
        answer = self.cloud.ask(command)
        if answer.status or _MISSED in answer.error:
            raise _remote_failure(f"copy the code to {self.name}", answer)

    def ssh(self, doing: str, remote: str) -> str:
        """Output of a command on all hosts.

        Raises:
            CloudError: a host could not be reached, or the command failed on it.
        """
        answer = self.cloud.ask(self._to_hosts("ssh", self.name, f"--command={remote}"))
        if answer.status or _MISSED in answer.error:
            raise _remote_failure(doing, answer)
        return answer.output

    def _to_hosts(self, verb: str, *arguments: str) -> list[str]:
        group, nodes = ("tpu-vm", []) if self.slices == 1 else ("queued-resources", ["--node=all"])
        ip = ["--internal-ip"] if self.internal_ip else []
        return self.gcloud(group, verb, *arguments, *nodes, "--worker=all", *ip)


def _may_come(state: str, reason: str) -> bool:
    return (
        state != "FAILED" or bool(re.search("capacity|EXHAUSTED", reason)) and "uota" not in reason
    )


def _remote_failure(doing: str, answer: Answer) -> CloudError:
    lines = (answer.error + "\n" + answer.output).splitlines()
    own = {line for line in lines if line.startswith("error on ")}
    if own:
        return CloudError(f"cannot {doing}: " + "\n".join(sorted(own)))
    error = failure(doing, answer.error)
    unreachable = answer.not_found or re.search(_NOT_REACHED, answer.error)
    if unreachable and not isinstance(error, CloudSilent):
        return NotReached(str(error))
    return error


def _json(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CloudError(f"gcloud answered something that is no JSON: {text[:200]!r}") from error
