"""Which statuses a task puts on which commits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coding_agent_core.forge.changes import Actor, CheckConclusion, CheckKind, CheckState
from coding_agent_core.task.agenttask import Status, TaskResult
from coding_agent_core.task.model import Cause, Origin, Phase, RoundTrigger, Trigger
from coding_agent_core.task.verification import VERIFY_STATUS, Evidence, EvidenceState
from coding_agent_operator.reporter.commit_statuses import (
    commit_statuses,
    foreign_evidence,
    own_evidence,
    with_evidence,
)

from tests.unit.core_rounds.making import OURS, change, check
from tests.unit.operator.making import NOW, ended, task

OLD, NEW = "a" * 40, "b" * 40
ROUND = Trigger(
    origin=Origin.POLL,
    cause=Cause.CHECKS,
    received_at=NOW,
    round=RoundTrigger(cause="[]", name_part="checks-1", head=OLD, number=1, of=3, decided_at=NOW),
)
DONE, FAILED, CANCELLED = ended("True"), ended("False", "Failed"), ended("False", "Cancelled")
RUNS, WAITS = Status(phase=Phase.RUNNING), Status(phase=Phase.QUEUED)


def evidence(state: str) -> Evidence:
    return Evidence(commit=NEW, started=NOW, state=EvidenceState(state), description="It says so.")


def pushed(status: Status, **fields: Any) -> Status:
    return status.model_copy(update={"result": TaskResult(commit=NEW), **fields})


@pytest.mark.parametrize(
    ("status", "is_round", "expected"),
    [
        pytest.param(WAITS, False, set(), id="a task without a push"),
        pytest.param(FAILED, False, set(), id="a task that never pushed"),
        pytest.param(pushed(RUNS), False, {(NEW, "coding-agent", "pending")}, id="pushed"),
        pytest.param(pushed(DONE), False, {(NEW, "coding-agent", "success")}, id="done"),
        pytest.param(pushed(FAILED), False, {(NEW, "coding-agent", "failure")}, id="failed"),
        pytest.param(pushed(CANCELLED), False, {(NEW, "coding-agent", "error")}, id="cancelled"),
        pytest.param(WAITS, True, {(OLD, "coding-agent", "pending")}, id="a round waits"),
        pytest.param(FAILED, True, {(OLD, "coding-agent", "failure")}, id="a round failed"),
        pytest.param(DONE, True, {(OLD, "coding-agent", "success")}, id="a round without a push"),
        pytest.param(
            pushed(RUNS),
            True,
            {(OLD, "coding-agent", "success"), (NEW, "coding-agent", "pending")},
            id="a round has pushed",
        ),
        *(
            pytest.param(
                pushed(DONE if state != "pending" else RUNS, verify=evidence(state)),
                False,
                {(NEW, "coding-agent", state), (NEW, "coding-agent/verify", state)},
                id=f"verified: {state}",
            )
            for state in EvidenceState
        ),
    ],
)
def test_statuses(status: Status, is_round: bool, expected: set[tuple[str, str, str]]) -> None:
    spec: dict[str, Any] = {"trigger": ROUND.model_dump(mode="json", by_alias=True)} if is_round else {}
    found = commit_statuses(task(status, **spec))
    assert {(one.commit, one.status.name, one.status.state.value) for one in found} == expected
    assert len({one.key for one in found}) == len(found)
    assert all(len(one.status.description) <= 140 for one in found)


GREEN = replace(
    check(VERIFY_STATUS, CheckConclusion.SUCCESS, kind=CheckKind.STATUS, run=""), creator="99", errors=""
)


@pytest.mark.parametrize(
    ("shown", "own", "foreign"),
    [
        pytest.param(GREEN, OURS, True, id="another account's"),
        pytest.param(replace(GREEN, creator=""), OURS, True, id="the forge's own, or a deleted account's"),
        pytest.param(replace(GREEN, creator=OURS.id), OURS, False, id="ours"),
        pytest.param(replace(GREEN, creator=None), OURS, False, id="a forge that does not say whose"),
        pytest.param(GREEN, Actor("", "bot"), False, id="it is not known who we are"),
        pytest.param(replace(GREEN, name="ci"), OURS, False, id="another status"),
        pytest.param(replace(GREEN, kind=CheckKind.JOB), OURS, False, id="a job of this name"),
    ],
)
def test_whose_evidence_is_shown(shown: Any, own: Actor, foreign: bool) -> None:
    assert foreign_evidence(replace(change(checks=(check(), shown)), own=own)) is foreign


@pytest.mark.parametrize(
    ("recorded", "commit", "expected", "conclusion"),
    [
        pytest.param("failure", NEW, "failure", CheckConclusion.FAILURE, id="red"),
        pytest.param("success", NEW, "success", CheckConclusion.SUCCESS, id="green"),
        pytest.param("error", NEW, "error", CheckConclusion.FAILURE, id="not known"),
        pytest.param("pending", NEW, "pending", None, id="the pods run"),
        pytest.param("success", OLD, "error", CheckConclusion.FAILURE, id="of another commit"),
        pytest.param(None, NEW, "error", CheckConclusion.FAILURE, id="nothing is recorded"),
    ],
)
def test_what_is_recorded_counts(
    recorded: str | None, commit: str, expected: str, conclusion: CheckConclusion | None
) -> None:
    runs = [task(pushed(DONE)), task(pushed(DONE, verify=evidence(recorded) if recorded else None))]
    status = own_evidence(commit, runs, "https://github.com/o/r/pull/1")
    assert (status.name, status.state.value) == (VERIFY_STATUS, expected)
    if commit == OLD or recorded is None:
        assert status.description.startswith("Could not be checked: ")
    forged = change(checks=(check(), GREEN))
    other, shown = with_evidence(forged, status).checks
    assert other == forged.checks[0]
    assert (shown.conclusion, shown.creator) == (conclusion, forged.own.id)
    assert shown.state is (CheckState.COMPLETED if conclusion else CheckState.WAITING)
    assert not foreign_evidence(with_evidence(forged, status))


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://github.com/octo/demo/issues/7", True),
        ("https://GitHub.com/octo/demo/issues/7", True),
        ("https://evil.example/octo/demo/issues/7", False),
        ("https://github.com.evil.example/", False),
        ("https://evil.example\\@github.com/", False),
        ("https://github.com@evil.example/", False),
        ("", False),
    ],
)
def test_a_status_links_to_the_items_forge_only(url: str, linked: bool) -> None:
    [shown] = commit_statuses(task(pushed(DONE), url=url))
    assert shown.status.url == (url if linked else "")
