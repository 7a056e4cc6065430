# SPDX-License-Identifier: Apache-2.0
"""Verdicts over what the hosts report, case by case."""

import json

import pytest

from launch.supervision import Breaker, Report, Verdict, describe, judge, parse, progress


def ended(*codes: int, state: str = "ended") -> list[Report]:
    return [Report(f"t-{host}", state, code) for host, code in enumerate(codes)]


RUNNING, ABSENT = Report("r", "running", None), Report("a", "absent", None)


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [
        ([RUNNING] * 4, Verdict.RUNNING),
        (ended(0, 0, 0, 0), Verdict.DONE),
        ([*ended(0, 0), RUNNING, RUNNING], Verdict.RUNNING),
        (ended(75, 75, 75, 75), Verdict.RESUME),
        (ended(137, 76, 134, 143), Verdict.RESUME),
        (ended(0, 0, 0, 76), Verdict.RESUME),
        ([*ended(76), RUNNING, RUNNING, RUNNING], Verdict.ENDING),
        (ended(76, 78, 76, 76), Verdict.FAILED),
        ([*ended(65), RUNNING, RUNNING, RUNNING], Verdict.FAILED),
        (ended(1, 0, 0, 0), Verdict.FAILED),
        (ended(75, 75, 75, 75, state="stopped"), Verdict.STOPPED),
        ([*ended(75, state="stopped"), *ended(76, 76, 76)], Verdict.STOPPED),
        ([ABSENT] * 4, Verdict.RESUME),
        ([*ended(0, 0, 0), ABSENT], Verdict.RESUME),
        (ended(0, 0, 0), Verdict.RESUME),  # the fourth did not answer with a report
    ],
)
def test_verdicts(reports: list[Report], verdict: Verdict) -> None:
    assert judge(reports, 4) is verdict


def test_the_breaker_counts_restarts_without_progress_only() -> None:
    breaker = Breaker()
    assert [breaker.allows(step) for step in (-1, -1, -1, 10, 10, 10, 10)] == [True] * 6 + [False]


def test_reports_are_found_between_other_lines() -> None:
    report = {"host": "b", "state": "ended", "exit_code": 75, "checkpoint": 20, "metrics": None}
    mixed = "Using ssh batch size of 1.\n" + json.dumps({"bert_jax": report}) + "\nwarning: x\n"
    assert parse(mixed) == [Report(**report)]


def test_what_a_person_reads() -> None:
    reports = [
        Report("a", "running", None, 20, {"step": 25, "loss": 1.23456, "kind": "train"}),
        Report("b", "ended", 76, 10, None),
    ]
    assert describe(reports) == "a running, b ended (76); step 25; loss 1.235; checkpoint 20"
    assert progress(reports) == 20 and progress([RUNNING]) == -1
