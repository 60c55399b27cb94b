"""AgentTasks as the receiver makes them, and what the operator writes into their status."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.kubernetes.transport import MERGE_PATCH, ApiError, ApiServer
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import Item, Origin, Phase, TaskRequest, Trigger, new_uuid

from coding_agent_testbed.bench.load import Request
from coding_agent_testbed.bench.plane import Account, tasks_path

_CONFLICTS = 20
_SUCCEEDED = {Phase.SUCCEEDED: "True", Phase.FAILED: "False", Phase.CANCELLED: "False"}


def task_body(number: int, repository: str, host: str = "github.com") -> dict[str, Any]:
    """The AgentTask for a labeled GitHub issue."""
    now = datetime.now(UTC)
    request = TaskRequest(
        item=Item(
            platform=Platform.GITHUB, host=host, repository=repository, kind=ItemKind.ISSUE, number=number
        ),
        user="alice",
        trigger=Trigger(origin=Origin.WEBHOOK, received_at=now, labeled_at=now),
    )
    return agenttask.manifest(request, run=1, timeout_seconds=600, max_attempts=3)


def creation(account: Account, number: int) -> Request:
    """The request that creates such a task, as any HTTP client would send it."""
    return Request(
        account.server + tasks_path(account.namespace),
        {"Authorization": f"Bearer {account.token}", "Content-Type": "application/json"},
        json.dumps(task_body(number, f"octo/r{number % 20}")).encode(),
    )


async def create(server: ApiServer, namespace: str, body: dict[str, Any]) -> str:
    """Create the task; its name."""
    await server.request("POST", tasks_path(namespace), body=body)
    return str(body["metadata"]["name"])


def ended_task(namespace: str, number: int) -> dict[str, Any]:
    """A task that has succeeded and is reported, whole, as the API server keeps it."""
    body = stored(namespace, task_body(number, f"octo/r{number % 20}"))
    now = datetime.now(UTC)
    body["metadata"]["labels"][agenttask.LABEL_REPORTED] = "true"
    return body | {"status": status_in(Phase.SUCCEEDED, now, known=())}


def stored(namespace: str, body: dict[str, Any]) -> dict[str, Any]:
    """The task with what the API server adds when it creates one."""
    more = {
        "namespace": namespace,
        "uid": new_uuid(),
        "generation": 1,
        "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return body | {"metadata": body["metadata"] | more}


async def stand(server: ApiServer, namespace: str, name: str, phase: Phase) -> None:
    """In the operator's place: write where the task stands, and keep what the reporter has written.

    Raises:
        ApiError: it could not be written.
    """
    for left in reversed(range(_CONFLICTS)):
        body = await server.request("GET", tasks_path(namespace, name))
        known = (body.get("status") or {}).get("conditions") or ()
        patch = {
            "metadata": {"resourceVersion": body["metadata"]["resourceVersion"]},
            "status": status_in(phase, datetime.now(UTC), known),
        }
        try:
            await server.request("PATCH", tasks_path(namespace, name, "status"), body=patch, kind=MERGE_PATCH)
            break
        except ApiError as error:
            if not (error.conflict and left):
                raise


def status_in(phase: Phase, now: datetime, known: Any) -> dict[str, Any]:
    """The status of a task in that phase; conditions that are not the operator's stay as they are."""
    at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    reason = {Phase.QUEUED: "Waiting", Phase.SUCCEEDED: "Completed"}.get(phase, phase.value)
    condition = {
        "type": "Succeeded",
        "status": _SUCCEEDED.get(phase, "Unknown"),
        "reason": reason,
        "message": f"It is {phase.value}.",
        "lastTransitionTime": at,
    }
    others = [entry for entry in known if entry["type"] not in ("Succeeded", "Running")]
    attempt: dict[str, Any] = {"number": 1, "job": "job-1", "startTime": at, "counted": True}
    if phase.terminal:
        attempt |= {"completionTime": at, "outcome": "Succeeded", "reason": reason}
    begun = phase is not Phase.QUEUED
    return {
        "phase": phase.value,
        "reason": reason,
        **({"keptSince": str(now.date())} if phase.terminal else {}),
        "attempt": "1/3" if begun else "0/3",
        "conditions": [condition, *others],
        "attempts": [attempt] if begun else [],
    }
