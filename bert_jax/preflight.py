# SPDX-License-Identifier: Apache-2.0
"""Before the first step of a run of several processes: do all hosts mean the same run?

Hosts with different code, configuration or data would train something that nobody described, for
days, without an error. So they compare what they have, and one that differs ends the run on all.
"""

import collections
import hashlib
import json
import time
import uuid
from pathlib import Path
from typing import Any

import jax

from bert_jax import agreement
from bert_jax.typed_mapping import differences
from data_pipeline.errors import ConfigError, OutputError

_PACKAGE = Path(__file__).parent
_CODE = (_PACKAGE, _PACKAGE.parent / "data_pipeline")
_APPEAR_SECONDS = 10.0  # a network file system may show a new file late
# These may differ from host to host: a store can be staged to each host's disk.
_OWN_KEYS = ("data.store:", "data.reader:")


def check(description: dict[str, Any], workdir: Path) -> None:
    """Compares all hosts of the run, and whether they share the work directory.

    Args:
        description: what identifies the run: that of `run_directory`, or of a fine-tuning run.
        workdir: of the run.

    Raises:
        ConfigError: hosts have other code, packages, configuration, data or numbers of devices; in
            every process, naming the odd ones.
        OutputError: a host does not share, or cannot write, the work directory.
    """
    if jax.process_count() == 1:
        return
    own = {
        "code": code_fingerprint(),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        **description,
    }
    found = [json.loads(value) for value in agreement.gather(json.dumps(own))]
    lines = disagreements(found)
    if lines:
        raise ConfigError(
            "the hosts do not mean the same run:\n  "
            + "\n  ".join(lines)
            + "\nGive all hosts the same code, packages, command line and store."
        )
    _check_shared(workdir)


def disagreements(found: list[dict[str, Any]]) -> list[str]:
    """A line for each thing in which a process differs from most others (or from process 0)."""
    lines = []
    for key in found[0]:
        values = [json.dumps(one[key], sort_keys=True) for one in found]
        usual, _ = collections.Counter(values).most_common(1)[0]
        for process, value in enumerate(values):
            if value == usual:
                continue
            mine, others = found[process][key], json.loads(usual)
            name = agreement.host_name(process)
            if isinstance(mine, dict):
                changed = [
                    line for line in differences(others, mine) if not line.startswith(_OWN_KEYS)
                ]
                lines += [f"{name}: {key}: {line}" for line in changed]
            else:
                lines.append(f"{name}: {key}: {others} -> {mine}")
    return lines


def code_fingerprint() -> str:
    """SHA-256 over the names and contents of this system's Python files."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in folder.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE.parent)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _check_shared(workdir: Path) -> None:
    """Every process leaves a file in the work directory, and process 0 must see them all."""
    token = agreement.from_primary(lambda: uuid.uuid4().hex)
    probe = workdir / f"preflight-{token}-{jax.process_index()}"
    problem = ""
    try:
        probe.touch()
    except OSError as error:
        problem = f"cannot write into the work directory {workdir}: {error.strerror}"
    problems = agreement.gather(problem)
    try:
        for process, text in enumerate(problems):
            if text:
                raise OutputError(f"{agreement.host_name(process)} {text}")
        agreement.from_primary(lambda: _await_all(workdir, token))
    finally:
        probe.unlink(missing_ok=True)


def _await_all(workdir: Path, token: str) -> None:
    wanted = {f"preflight-{token}-{process}": process for process in range(jax.process_count())}
    deadline = time.monotonic() + _APPEAR_SECONDS
    while missing := wanted.keys() - {path.name for path in workdir.iterdir()}:
        if time.monotonic() > deadline:
            names = " and ".join(agreement.host_name(wanted[name]) for name in sorted(missing))
            raise OutputError(
                f"{workdir} of {names} is not the directory of process 0: --workdir must be on a "
                "file system that all hosts share"
            )
        time.sleep(0.2)
