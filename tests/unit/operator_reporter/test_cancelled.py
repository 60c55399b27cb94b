"""Who or what cancelled a task, as its comment says it."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_core.agenttask import ANNOTATION_CANCELLED, Condition, Result, Status
from coding_agent_core.phases import Phase
from coding_agent_core.reporting.render import comment
from coding_agent_core.settings.forges import Labels
from coding_agent_operator.observed import read_task
from coding_agent_operator.reporter.cancelled import cancelled_because
from coding_agent_operator.reporter.report_of import report_of

from tests.unit.operator.making import NOW, attempt, task_body

KUBECTL = "somebody cancelled it with kubectl"


def wrote(manager: str, **fields: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "fieldsV1": fields}


def body(why: str | None = None, *, cancel: bool = True, managers: Any = ()) -> dict[str, Any]:
    made = task_body(cancel=cancel)
    made["metadata"]["managedFields"] = managers
    if why is not None:
        made["metadata"]["annotations"] = {ANNOTATION_CANCELLED: why}
    return made


SPEC: dict[str, Any] = {"f:spec": {".": {}, "f:user": {}}}
CANCEL: dict[str, Any] = {"f:spec": {"f:cancel": {}}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (body("alice cancelled it by a comment"), "alice cancelled it by a comment"),
        (body(" the issue was\n closed. "), "the issue was closed"),
        (body("x" * 400), "x" * 256),
        (body("the issue was closed", cancel=False), ""),
        (body("the issue was closed", managers=[wrote("kubectl-patch", **CANCEL)]), "the issue was closed"),
        (body(), ""),
        (body(" "), ""),
        (body(managers=[wrote("coding-agent-receiver", **SPEC), wrote("kubectl-patch", **CANCEL)]), KUBECTL),
        (body(managers=[wrote("kubectl-agenttask", **SPEC), wrote("k9s", **CANCEL)]), ""),
        (body(managers=[wrote("kubectl-edit", **CANCEL)], cancel=False), ""),
        (body(managers=[{"manager": "kubectl-edit"}]), ""),
    ],
)
def test_what_the_task_tells(given: dict[str, Any], expected: str) -> None:
    assert cancelled_because(given) == expected


def shown(why: str, message: str, result: Result | None = None) -> str:
    told = Condition(
        type="Succeeded", status="False", reason="Cancelled", message=message, last_transition_time=NOW
    )
    status = Status(phase=Phase.CANCELLED, conditions=(told,), attempts=(attempt(),), result=result)
    return comment(report_of(read_task(task_body() | {"status": status.to_wire()}), Labels(), (), why))


@pytest.mark.parametrize(
    ("why", "message", "said"),
    [
        ("the issue was closed", "The task was cancelled.", "The task was cancelled: the issue was closed."),
        (
            "alice cancelled it by a comment",
            "The task was cancelled before it started.",
            "The task was cancelled before it started: alice cancelled it by a comment.",
        ),
        ("", "The task was cancelled.", "\nThe task was cancelled.\n"),
        ("the issue was closed", "", "\n\nTo try again"),
        ("<!-- coding-agent:status {}", "The task was cancelled.", "&lt;!-- coding-agent"),
    ],
)
def test_what_the_comment_says(why: str, message: str, said: str) -> None:
    assert said in shown(why, message)


@pytest.mark.parametrize("change", [None, "https://forge.example/pull/1"])
def test_work_that_was_pushed_is_named(change: str | None) -> None:
    text = shown(
        "", "The task was cancelled.", Result(branch="coding-agent/issue-7", pull_request_url=change)
    )
    assert text.count("What was done so far is on the branch `coding-agent/issue-7`.") == 1
    assert (change or "To try again") in text


def test_no_branch_is_named_that_is_not_known() -> None:
    assert "branch" not in shown("", "The task was cancelled.", Result())
