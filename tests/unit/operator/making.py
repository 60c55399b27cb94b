"""Plain data for the tests of the operator's rules."""

from datetime import UTC, datetime, timedelta
from typing import Any

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.operator import Policy
from coding_agent_core.task import agenttask
from coding_agent_core.task.agenttask import AgentTask, AttemptStatus, Condition, OutcomeType, Spec, Status
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.commands import IssueCommand, store
from coding_agent_core.task.model import CommandName, Item, Origin, TaskRequest, Trigger
from coding_agent_core.task.reasons import Reason
from coding_agent_operator.cluster.observed import Job, Pod, job_name, left_in
from coding_agent_operator.tasks.outcome_of import AttemptPolicy

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
POLICY = AttemptPolicy.of(Policy(), Development())


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def task_body(
    number: int = 7, *, repository: str = "octo/demo", run: int = 1, uid: str = "uid-1", **spec: Any
) -> dict[str, Any]:
    item = Item(
        platform=Platform.GITHUB, host="github.com", repository=repository, kind=ItemKind.ISSUE, number=number
    )
    request = TaskRequest(item=item, trigger=Trigger(origin=Origin.WEBHOOK, received_at=NOW))
    body = agenttask.manifest(request, run=run, timeout_seconds=600, max_attempts=3)
    body["spec"].update(spec)
    body["metadata"] |= {
        "uid": uid,
        "resourceVersion": "5",
        "generation": 1,
        "creationTimestamp": ago(60).isoformat(),
    }
    return body


def task(status: Status | None = None, number: int = 7, **spec: Any) -> AgentTask:
    body = task_body(number, **spec)
    if status is not None:
        body["status"] = status.to_wire()
    return AgentTask.of(body)


def commanded(
    received: datetime, stored: Status | None = None, name: CommandName = CommandName.CANCEL
) -> AgentTask:
    body = task_body()
    if stored is not None:
        body["status"] = stored.to_wire()
    command = IssueCommand(name=name, comment="1", user="eve", received_at=received, item=task().spec.item)
    patch = store(AgentTask.of(body), command)
    assert isinstance(patch, dict)
    body["metadata"]["annotations"] = patch["metadata"]["annotations"]
    return AgentTask.of(body)


def changed(
    known: AgentTask, *, spec: Spec | None = None, status: Status | None = None, **metadata: Any
) -> AgentTask:
    body = {"spec": (spec or known.spec).to_wire(), "status": (status or known.status).to_wire()}
    return AgentTask(known.metadata._replace(**metadata), body)


def attempt(number: int = 1, outcome: OutcomeType | None = None, **fields: Any) -> AttemptStatus:
    end = {} if outcome is None else {"completion_time": ago(10), "outcome": outcome, "reason": "Because"}
    name = job_name(task().name, number)
    return AttemptStatus(number=number, job=name, start_time=ago(30), **{**end, **fields})


def status(*attempts: AttemptStatus, **fields: Any) -> Status:
    return Status(attempts=attempts, **fields)


def ended(value: str, reason: str = "Completed") -> Status:
    condition = Condition.model_validate(
        {"type": "Succeeded", "status": value, "reason": reason, "last_transition_time": NOW}
    )
    return Status(conditions=(condition,))


def job(number: int = 1, *, owner: str = "uid-1", **fields: Any) -> Job:
    name = job_name(task().name, number)
    plain: dict[str, Any] = {
        "name": name,
        "uid": f"job-{number}",
        "owner": owner,
        "task": task().name,
        "number": number,
        "created": ago(20),
        "labels": {},
    }
    if fields.get("complete") or fields.get("failure"):
        plain["finished_at"] = ago(1)
    return Job(**(plain | fields))


def pod(message: str = "", **fields: Any) -> Pod:
    """A pod that has failed, with its termination message."""
    plain: dict[str, Any] = {"name": "p", "phase": "Failed", "created": ago(20)}
    return Pod(**(plain | left_in(message) | fields))


def said(reason: Reason, **fields: Any) -> dict[str, Any]:
    outcome = Outcome(reason=reason, message="said by the agent", **fields)
    code = outcome.exit_code.value
    return {
        "exit_code": code,
        "message": outcome.to_termination_message(),
        "phase": "Failed" if code else "Succeeded",
    }


def failed(**fields: Any) -> Job:
    return job(failure="BackoffLimitExceeded", pods=(pod(**fields),))


def complete(**fields: Any) -> Job:
    plain: dict[str, Any] = {"phase": "Succeeded", "exit_code": 0}
    return job(complete=True, pods=(pod(**(plain | fields)),))
