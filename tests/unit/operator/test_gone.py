"""An attempt whose Job was gone before its end was seen: what its agent reported is kept."""

from __future__ import annotations

from typing import Any

from coding_agent_core.agenttask import AgentTask, OutcomeType
from coding_agent_core.kubernetes.controller import ObjectCache
from coding_agent_core.reasons import Reason
from coding_agent_core.settings.operator import Policy
from coding_agent_core.usage import Cost, Usage
from coding_agent_operator.attempt_pods import AttemptPods
from coding_agent_operator.observed import Job, Pod, read_pod
from coding_agent_operator.reconcile import Reconciler
from coding_agent_operator.task_plan import SchedulingDecision

from tests.unit.operator.making import NOW, ago, attempt, said, status, task, task_body

SAID = said(
    Reason.CANCELLED,
    branch="coding-agent/issue-7",
    usage=Usage(requests=3, cost=Cost(amount="0.10", currency="USD")),
)


class Cluster:
    """The API server: the task is there, its Job and pods are gone."""

    namespace = "team"

    def __init__(self) -> None:
        self.tasks = self
        self.written: dict[str, Any] = {}

    async def get_job(self, _: str) -> None:
        return None

    async def pods_of(self, _: str) -> tuple[Pod, ...]:
        return ()

    async def set_status(self, _: AgentTask, new: Any) -> AgentTask:
        self.written = new.to_wire()
        return AgentTask.of(cancelled() | {"status": self.written})

    async def emit(self, *_: Any, **__: Any) -> None: ...


def cancelled() -> dict[str, Any]:
    body = task_body(cancel=True)
    body["metadata"]["namespace"] = "team"
    return body | {"status": status(attempt()).to_wire()}


def pod(created: float) -> dict[str, Any]:
    state: dict[str, Any] = {"exitCode": SAID["exit_code"], "message": SAID["message"], "reason": "Error"}
    agent = {"name": "agent", "state": {"terminated": state}}
    labels = {
        "batch.kubernetes.io/controller-uid": f"job-{created}",
        "batch.kubernetes.io/job-name": f"{task().name}-1",
    }
    return {
        "metadata": {
            "name": "p",
            "uid": "p",
            "creationTimestamp": ago(created).isoformat(),
            "labels": labels,
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [agent],
        },
    }


async def recorded(*pods: dict[str, Any]) -> dict[str, Any]:
    """What is written after the watch has shown the ends of the pods, and then nothing is there any more."""
    cluster, tasks = Cluster(), ObjectCache(AgentTask.compact)
    messages = AttemptPods(cluster, lambda _: None, lambda: None)  # type: ignore[arg-type]
    for body in pods:
        messages.take("MODIFIED", read_pod(body))
        messages.take("DELETED", read_pod(body))
    tasks.put(AgentTask.of(cancelled()))
    reconciler = Reconciler(
        cluster,  # type: ignore[arg-type]
        tasks,
        ObjectCache[Job](),
        messages,
        policy=Policy(),
        build=None,  # type: ignore[arg-type]
        refusal=lambda _: None,
        unauthorized=lambda _: None,
        waits={},
        ended=lambda _: None,
        now=lambda: NOW,
    )
    await reconciler.reconcile(task().name, SchedulingDecision())
    return cluster.written


async def test_the_report_of_its_pod_is_kept() -> None:
    found = await recorded(pod(created=29))
    assert found["phase"] == "Cancelled"
    [entry] = found["attempts"]
    assert (entry["outcome"], entry["usage"]["requests"]) == (OutcomeType.CANCELLED, 3)
    assert found["result"]["branch"] == "coding-agent/issue-7"


async def test_the_report_of_an_older_job_of_that_name_is_not_its() -> None:
    found = await recorded(pod(created=31))
    assert found["phase"] == "Cancelled"
    assert "usage" not in found["attempts"][0]
    assert "branch" not in found.get("result", {})
