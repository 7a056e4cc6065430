# SPDX-License-Identifier: Apache-2.0
"""What of the life of a run is too slow or too rare for the commands' own tests."""

import ast
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from bert_jax.slices import find_slice
from launch import pod
from launch.arguments import Run
from launch.cloud import Answer, Cloud
from launch.pod import Pod
from launch.queued_resource import NotReached, Rented
from launch.supervision import Verdict
from tests.launch.world import ROOT


class Answers(Rented):
    """A slice that is there and answers ssh with the next of the answers."""

    def ssh(self, doing: str, remote: str) -> str:
        asked.append(remote.partition("launch.on_host ")[2])
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def state(self) -> tuple[str, str]:
        return "SUSPENDED" if lost else "ACTIVE", ""

    def node_preempted(self) -> bool:
        return False


asked: list[str] = []
answers: list[Any] = []
lost: list[bool] = []
RUN = Run("configs/pretrain.py:tiny", "gs://data/store", "gs://work/run")


def reports(*states: tuple[str, int | None], saved: int | None = 10) -> str:
    lines = [
        {
            "host": f"t-{host}",
            "state": state,
            "exit_code": code,
            "checkpoint": saved,
            "metrics": None,
        }
        for host, (state, code) in enumerate(states)
    ]
    return "\n".join(json.dumps({"bert_jax": line}) for line in lines)


@pytest.fixture
def slice_of_two() -> Pod:
    for content in (asked, answers, lost):
        content.clear()
    return Pod(Answers(Cloud(), "bert", "us-central2-b"), find_slice("v4-16"), "0" * 40, 0)


def test_hosts_that_do_not_notice_the_loss_of_one_are_stopped(
    slice_of_two: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "ENDING_SECONDS", -1)
    answers.extend(
        [reports(("ended", 76), ("running", None)), "", reports(("ended", 76), ("ended", 75))]
    )
    assert pod.watch(slice_of_two)[0] is Verdict.RESUME
    assert asked == ["status", "stop --resumes", "status"]


def test_they_are_given_time_to_notice(slice_of_two: Pod) -> None:
    answers.extend(
        [reports(("ended", 76), ("running", None)), reports(("ended", 76), ("ended", 76))]
    )
    assert pod.watch(slice_of_two)[0] is Verdict.RESUME
    assert asked == ["status", "status"]


def test_a_host_that_does_not_answer_once_is_asked_again(slice_of_two: Pod) -> None:
    answers.extend([NotReached("no answer"), reports(("ended", 0), ("ended", 0))])
    assert pod.watch(slice_of_two)[0] is Verdict.DONE


@pytest.fixture
def slept(slice_of_two: Pod, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses of a slice that is launched anew in no time."""
    pauses: list[float] = []
    monkeypatch.setattr(pod.time, "sleep", pauses.append)
    monkeypatch.setattr(pod, "launch", lambda which, run: pauses.append(-1.0))
    return pauses


@pytest.mark.parametrize("saved", [None, 10])
def test_a_slice_that_is_taken_away_before_it_saves_is_given_up(
    slice_of_two: Pod, slept: list[float], saved: int | None
) -> None:
    lost.append(True)
    running = reports(("running", None), ("running", None), saved=saved)
    answers.extend([running, NotReached("gone")] * 4)
    patient = dataclasses.replace(slice_of_two, poll=60.0)
    place = "the beginning" if saved is None else "checkpoint 10"
    message = f"3 restarts in a row found no newer checkpoint than {place}; the slice was taken"
    with pytest.raises(pod.CrashLoop, match=message) as raised:
        pod.keep_running(patient, RUN)
    assert raised.value.exit_code == 70 and "--config.checkpoint.every" in str(raised.value)
    # After each look a poll; then none, one and three more before the launch.
    assert slept == [60, 0, -1, 60, 60, -1, 60, 180, -1, 60]


def test_a_slice_that_saves_between_losses_goes_on(slice_of_two: Pod, slept: list[float]) -> None:
    lost.append(True)
    for saved in range(10):
        running = reports(("running", None), ("running", None), saved=saved // 3)
        answers.extend([running, NotReached("gone")])
    answers.append(reports(("ended", 0), ("ended", 0)))
    pod.keep_running(slice_of_two, RUN)
    assert slept.count(-1.0) == 10


def test_restarts_that_bring_nothing_are_given_up(slice_of_two: Pod, slept: list[float]) -> None:
    answers.extend([reports(("ended", 76), ("ended", 76))] * 4 + ["the log"])
    with pytest.raises(pod.CrashLoop, match="than checkpoint 10; the ends of the logs:\nthe log"):
        pod.keep_running(slice_of_two, RUN)
    assert slept.count(-1.0) == 3 and asked[-1] == "log --lines=20"


def test_restarts_with_progress_go_on(slice_of_two: Pod, slept: list[float]) -> None:
    answers.extend(reports(("ended", 75), ("ended", 75), saved=step) for step in (1, 2, 3, 4, 5))
    answers.append(reports(("ended", 0), ("ended", 0)))
    pod.keep_running(slice_of_two, RUN)
    assert slept == [0, -1] * 5


def test_a_log_that_cannot_be_read_does_not_hide_how_the_run_ended(slice_of_two: Pod) -> None:
    answers.extend([reports(("ended", 78), ("ended", 76)), NotReached("no answer")])
    with pytest.raises(pod.TrainingFailed, match="exit code 78 on t-0") as raised:
        pod.keep_running(slice_of_two, RUN)
    assert raised.value.exit_code == 78 and "(no answer)" in str(raised.value)


@pytest.mark.parametrize(
    ("codes", "how"), [((75, 0), "has saved"), ((75, 137), "was killed before it had saved")]
)
def test_who_stopped_it_is_told_whether_it_saved(
    slice_of_two: Pod, codes: tuple[int, int], how: str
) -> None:
    answers.append(reports(*(("stopped", code) for code in codes)))
    with pytest.raises(pod.Preempted, match=f"bert was stopped and {how}; `up`"):
        pod.keep_running(slice_of_two, RUN)


def test_stopping_what_is_left_of_a_slice_that_is_gone_is_no_error(slice_of_two: Pod) -> None:
    answers.append(NotReached("gone"))
    pod.stop_rest(slice_of_two)
    assert asked == ["stop"]


class Recorded(Cloud):
    """Answers every command with success; the second slice is lost."""

    def ask(self, command: Sequence[str], stdin: str | None = None) -> Answer:
        asked.append(" ".join(command))
        lost_one = "describe bert-1 " in asked[-1]
        return Answer(0, json.dumps({"state": "PREEMPTED" if lost_one else "READY"}), *answers)


def test_several_slices_are_one_resource_with_a_node_each(slice_of_two: Pod) -> None:
    answers.append("")
    rented = Rented(Recorded(), "bert", "us-central2-b", slices=2)
    rented.create(find_slice("v4-16"))
    rented.copy("code.tar.gz", "code.tar.gz")
    rented.ssh("look", "ls")
    create, copy, ssh = asked
    assert "--node-count=2 --node-prefix=bert" in create and "--node-id" not in create
    several = "gcloud compute tpus queued-resources"
    assert copy.startswith(f"{several} scp code.tar.gz bert:code.tar.gz --node=all --worker=all")
    assert ssh.startswith(f"{several} ssh bert --command=ls --node=all --worker=all")
    assert Pod(rented, find_slice("v4-16"), "0" * 40, 0).hosts == 4
    assert rented.node_preempted()  # one lost slice is enough
    assert not dataclasses.replace(rented, slices=1).node_preempted()


def test_a_slice_that_gcloud_leaves_out_is_not_forgotten(slice_of_two: Pod) -> None:
    answers.append("WARNING: Could not prepare all 2 nodes, attempting to ssh into the rest.")
    rented = Rented(Recorded(), "bert", "us-central2-b", slices=2)
    for reach in (lambda: rented.ssh("look", "ls"), lambda: rented.copy("a", "a")):
        with pytest.raises(NotReached, match="Could not prepare all 2 nodes"):
            reach()


def test_the_part_on_the_hosts_runs_on_their_own_python() -> None:
    """Ubuntu 22.04, which the TPU images are, has Python 3.10 and none of our packages."""
    for name in ("__init__", "host_storage", "on_host"):
        tree = ast.parse((ROOT / "launch" / f"{name}.py").read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in names:
                top = module.split(".")[0]
                assert top in sys.stdlib_module_names or module in ("launch", "launch.host_storage")


def test_nothing_of_a_launch_goes_through_a_shell_here() -> None:
    for path in (ROOT / "launch").glob("*.py"):
        text = path.read_text()
        assert "shell=True" not in text and "os.system" not in text, path
