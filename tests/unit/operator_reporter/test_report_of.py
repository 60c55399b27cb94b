"""What a comment says of a task; words that are of no use outside stay in the cluster."""

from __future__ import annotations

import pytest
from coding_agent_core.agenttask import Condition, Status
from coding_agent_core.phases import Phase
from coding_agent_core.reporting.render import comment
from coding_agent_core.settings.forges import Labels
from coding_agent_operator.reporter.report_of import report_of

from tests.unit.operator.making import NOW, attempt, task


def status(phase: Phase, reason: str, message: str, *, begun: bool = False) -> Status:
    told = Condition(
        type="Succeeded", status="Unknown", reason=reason, message=message, last_transition_time=NOW
    )
    return Status(phase=phase, reason=reason, conditions=(told,), attempts=(attempt(),) if begun else ())


@pytest.mark.parametrize(
    ("told", "said", "unsaid"),
    [
        (
            status(Phase.QUEUED, "Refused", "…: POST /apis/batch/v1/namespaces/team/jobs with 403: quota"),
            "The administrator of this bot finds on the task what it says.",
            "namespaces/team",
        ),
        (
            status(Phase.RUNNING, "ErrImagePull", "Attempt 1 has not begun yet. No image.", begun=True),
            "Attempt 1 has not begun yet. No image.",
            "is running",
        ),
        (status(Phase.QUEUED, "Waiting", "as many run as `limits` allow"), "waiting", "limits"),
        (
            status(Phase.RUNNING, "Running", "Attempt 1 is running.", begun=True),
            "working on it",
            "is running",
        ),
        (
            status(Phase.QUEUED, "WaitingForKueue", "Kueue: quota is used up"),
            "Kueue: quota is used up",
            "administrator",
        ),
    ],
)
def test_what_is_said_of_a_task_that_has_not_ended(told: Status, said: str, unsaid: str) -> None:
    text = comment(report_of(task(told), Labels()))
    assert said in text
    assert unsaid not in text
