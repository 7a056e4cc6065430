# SPDX-License-Identifier: Apache-2.0
"""The fields of a JobSet that launch.jobset may use, written down from the APIs' documentation.

Sources: JobSet API reference v1alpha2 (JobSet 0.11), Kubernetes API reference 1.33 (batch/v1 Job,
core/v1 Pod). A schema in a few Python values: a dictionary holds the fields an object may have, a
required one is marked with "!"; a list holds the form of each item; a set the allowed strings; a
type is a type; {"*": form} is a map with any keys.
"""

from typing import Any

STRINGS = {"*": str}
MOUNT = {"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}
QUANTITIES = {"limits": STRINGS, "requests": STRINGS}
CONTAINER = {
    "name!": str,
    "image!": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath!": str}}}],
    "ports": [{"containerPort!": int, "name": str, "protocol": {"TCP", "UDP", "SCTP"}}],
    "resources": QUANTITIES,
    "volumeMounts": [MOUNT],
}
CSI = {"driver!": str, "readOnly": bool, "volumeAttributes": STRINGS}
TOLERATION = {
    "key": str,
    "operator": {"Exists", "Equal"},
    "value": str,
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
}
POD = {
    "restartPolicy": {"Never", "OnFailure"},  # a Job's pods
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": STRINGS,
    "tolerations": [TOLERATION],
    "initContainers": [CONTAINER],
    "containers!": [CONTAINER],
    "volumes": [{"name!": str, "csi": CSI, "emptyDir": {"medium": str, "sizeLimit": str}}],
}
METADATA = {"name": str, "namespace": str, "labels": STRINGS, "annotations": STRINGS}
EXIT_CODES = {"containerName": str, "operator!": {"In", "NotIn"}, "values!": [int]}
RULE = {"action!": {"FailJob", "FailIndex", "Ignore", "Count"}, "onExitCodes": EXIT_CODES}
JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules!": [RULE]},
    "template!": {"metadata": METADATA, "spec": POD},
}
ACTIONS = {
    "FailJobSet",
    "RestartJobSet",
    "RestartJobSetAndIgnoreMaxRestarts",
    "RestartJob",
    "RestartJobAndIgnoreMaxRestarts",
}
REASONS = {
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
}
FAILURE_RULE = {"name!": str, "action!": ACTIONS, "onJobFailureReasons": [REASONS]}
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": METADATA,
    "spec!": {
        "network": {"enableDNSHostnames": bool, "subdomain": str, "publishNotReadyAddresses": bool},
        "failurePolicy": {"maxRestarts": int, "rules": [FAILURE_RULE]},
        "replicatedJobs": [{"name!": str, "replicas": int, "template!": {"spec": JOB}}],
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
    },
}


def problems(value: Any, form: Any, place: str = "") -> list[str]:
    """Where `value` is not of the form."""
    if isinstance(form, set):
        return [] if value in form else [f"{place}: {value!r} is none of {sorted(form)}"]
    if isinstance(form, type):
        fits = type(value) is form  # a bool is no int
        return [] if fits else [f"{place}: {value!r} is no {form.__name__}"]
    if isinstance(form, list):
        if not isinstance(value, list):
            return [f"{place}: {value!r} is no list"]
        found = [problems(item, form[0], f"{place}[{i}]") for i, item in enumerate(value)]
        return sum(found, [])
    if not isinstance(value, dict):
        return [f"{place}: {value!r} is no object"]
    fields = {name.rstrip("!"): kind for name, kind in form.items()}
    required = {name[:-1] for name in form if name.endswith("!")}
    found = [f"{place}: {name} is missing" for name in sorted(required - set(value))]
    for name, item in value.items():
        kind = fields.get(name, fields.get("*"))
        if kind is None:
            found.append(f"{place}: there is no field {name}")
        else:
            found += problems(item, kind, f"{place}.{name}")
    return found
