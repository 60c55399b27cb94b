"""What the reporter shows of a task: the comment's text, and the cause of a cancellation."""

from typing import Any

import pytest
from coding_agent_core.reporting.comment import Links, State, comment
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import (
    ANNOTATION_CANCELLED,
    AgentTask,
    AttemptStatus,
    Condition,
    OutcomeType,
    Status,
    TaskResult,
)
from coding_agent_core.task.model import Phase
from coding_agent_operator.reporter.report import cancellation_cause, link_problems, report_of

from tests.unit.operator.making import NOW, attempt, task, task_body

LINKS = Links("https://github.com", "coding-agent/")


def status(
    phase: Phase, reason: str, message: str, *, begun: bool = False, ended: str | None = None
) -> Status:
    succeeded = Condition(
        type="Succeeded", status="Unknown", reason=reason, message=message, last_transition_time=NOW
    )
    attempts: tuple[AttemptStatus, ...] = (attempt(),) if begun else ()
    if ended is not None:
        attempts = (attempt(outcome=OutcomeType.FAILED, message=ended), attempt(2))
    return Status(phase=phase, reason=reason, conditions=(succeeded,), attempts=attempts)


@pytest.mark.parametrize(
    ("stored", "shown", "hidden"),
    [
        (
            status(Phase.QUEUED, "Refused", "…: POST /apis/batch/v1/namespaces/team/jobs with 403: quota"),
            "The administrator of this bot can read the cluster's answer in the task's status.",
            "namespaces/team",
        ),
        (
            status(Phase.RUNNING, "OperatorDefect", "A defect in the operator (KeyError)", begun=True),
            "A defect keeps the bot from working on this task; it keeps trying. The administrator",
            "KeyError",
        ),
        (
            status(Phase.STARTING, "ErrImagePull", "Attempt 1 has not started yet. No image.", begun=True),
            "**Coding agent: cannot start yet**\n\nThe agent's image could not be pulled. The administrator",
            "working on it",
        ),
        (
            status(Phase.STARTING, "Unschedulable", "… 0/3 nodes are available: pool=agents.", begun=True),
            "run the attempt. The administrator of this bot can read the details in the task's status.",
            "pool=agents",
        ),
        (
            status(
                Phase.RUNNING,
                "Cancelling",
                "The task is being cancelled; its attempt is ending. Pod p on n-7.",
            ),
            "The task is being cancelled.",
            "n-7",
        ),
        (
            status(
                Phase.BACKOFF,
                "StorageExceeded",
                "… EmptyDir volume work exceeds. Another attempt will follow.",
            ),
            "The attempt needed more disk space than it is allowed. The administrator",
            "EmptyDir",
        ),
        (
            status(Phase.STARTING, "SecretMissing", "… Missing: coding-agent-model.", begun=True),
            "Missing: coding-agent-model.",
            "working on it",
        ),
        (
            status(Phase.QUEUED, "Waiting", "at most 5 tasks run at a time (`limits.global`)"),
            "waiting**\n\nat most 5 tasks run at a time (`limits.global`)",
            "administrator",
        ),
        (
            status(Phase.STARTING, "Starting", "Attempt 1 waits for its pod to start.", begun=True),
            "**Coding agent: starting**",
            "its pod",
        ),
        (
            status(Phase.RUNNING, "Running", "Attempt 1 is running.", begun=True),
            "working on it",
            "is running",
        ),
        (
            status(Phase.RUNNING, "Running", "Attempt 2 is running.", ended="The forge gave up."),
            "working on it**\n\nAttempt 1 ended with the reason Because: The forge gave up.",
            "is running",
        ),
        (
            status(Phase.QUEUED, "Waiting", "as many run as `limits` allow", ended="The forge gave up."),
            "Attempt 1 ended with the reason Because: The forge gave up.",
            "limits",
        ),
        (
            status(Phase.RUNNING, "Cancelling", "The task is being cancelled.", begun=True),
            "**Coding agent: being cancelled**",
            "working on it",
        ),
        (
            status(Phase.QUEUED, "WaitingForKueue", "Kueue: quota is used up"),
            "Kueue: quota is used up",
            "administrator",
        ),
    ],
)
def test_the_comment_of_a_task_that_has_not_ended(stored: Status, shown: str, hidden: str) -> None:
    text = comment(report_of(task(stored), Labels(), LINKS))
    assert shown in text
    assert hidden not in text


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
        (body("alice cancelled it with a comment"), "alice cancelled it with a comment"),
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
def test_the_cause_of_a_cancellation(given: dict[str, Any], expected: str) -> None:
    assert cancellation_cause(AgentTask.of(given)) == expected


def comment_of(cause: str, message: str, result: TaskResult | None = None) -> str:
    succeeded = Condition(
        type="Succeeded", status="False", reason="Cancelled", message=message, last_transition_time=NOW
    )
    status = Status(phase=Phase.CANCELLED, conditions=(succeeded,), attempts=(attempt(),), result=result)
    return comment(
        report_of(AgentTask.of(task_body() | {"status": status.to_wire()}), Labels(), LINKS, (), cause)
    )


@pytest.mark.parametrize(
    ("cause", "message", "shown"),
    [
        ("the issue was closed", "The task was cancelled.", "The task was cancelled: the issue was closed."),
        (
            "alice cancelled it with a comment",
            "The task was cancelled before it started.",
            "The task was cancelled before it started: alice cancelled it with a comment.",
        ),
        ("", "The task was cancelled.", "\nThe task was cancelled.\n"),
        ("the issue was closed", "", "\n\nTo try again"),
        ("<!-- coding-agent:status {}", "The task was cancelled.", "<\u200b!-- coding-agent"),
    ],
)
def test_the_comment_names_the_cause(cause: str, message: str, shown: str) -> None:
    assert shown in comment_of(cause, message)


@pytest.mark.parametrize("change", [None, "https://github.com/octo/demo/pull/1"])
def test_work_that_was_pushed_is_named(change: str | None) -> None:
    text = comment_of(
        "", "The task was cancelled.", TaskResult(branch="coding-agent/issue-7", change_url=change)
    )
    assert text.count("The work so far is on the branch `coding-agent/issue-7`.") == 1
    assert (change or "To try again") in text


def test_what_a_compromised_agent_says_it_has_published_is_not_shown() -> None:
    said = TaskResult(branch="main`@all", change_url="https://github.com.evil.example/octo/demo/pull/1")
    text = comment_of("", "The task was cancelled.", said)
    assert "main" not in text
    assert "evil" not in text
    assert "To try again" in text
    problems = link_problems(task(Status(phase=Phase.CANCELLED, result=said)), LINKS)
    assert [problem.split("'")[1] for problem in problems] == [said.branch, said.change_url]


def test_no_branch_is_named_that_is_not_known() -> None:
    assert "branch" not in comment_of("", "The task was cancelled.", TaskResult())


OURS, CHANGE = "coding-agent/issue-7", "https://github.com/octo/demo/pull/1"


@pytest.mark.parametrize(
    ("pushed", "earlier", "branch", "change"),
    [
        # What the run's own attempt has pushed; the states of earlier runs, newest first; what is shown.
        (None, [(OURS, CHANGE)], OURS, CHANGE),
        (OURS, [(OURS, CHANGE)], OURS, CHANGE),
        (OURS, [(OURS, None), (OURS, CHANGE)], OURS, CHANGE),
        (None, [(None, None), (OURS, None), (OURS, CHANGE)], OURS, CHANGE),
        (f"{OURS}-r2", [(OURS, CHANGE)], f"{OURS}-r2", None),
        (OURS, [(f"{OURS}-r9", CHANGE)], OURS, None),
        (OURS, [], OURS, None),
    ],
)
def test_a_further_run_that_fails_still_shows_the_change_that_is_open(
    pushed: str | None, earlier: list[tuple[str | None, str | None]], branch: str, change: str | None
) -> None:
    failed = Status(phase=Phase.FAILED, attempts=(attempt(),), result=TaskResult(branch=pushed))
    states = [State(uuid="u", phase=Phase.SUCCEEDED, branch=one, change_url=two) for one, two in earlier]
    shown = report_of(task(failed), Labels(), LINKS, states).state
    assert (shown.branch, shown.change_url) == (branch, change)
