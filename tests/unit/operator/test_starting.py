"""When people see why a pod does not start: what the scheduler and the kubelet say, after 30 seconds."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_core.agenttask import AgentTask
from coding_agent_core.kubernetes.controller import ObjectCache
from coding_agent_operator.attempt_pods import AttemptPods
from coding_agent_operator.observed import Job, Pod, read_job, read_pods
from coding_agent_operator.reconcile import Reconciler
from coding_agent_operator.task_plan import SchedulingDecision

from tests.unit.operator.making import NOW, POLICY, ago, attempt, status, task, task_body

SINCE = ago(10).isoformat()
SCHEDULED = [
    {"type": "PodScheduled", "status": "True", "lastTransitionTime": SINCE},
    {"type": "PodReadyToStartContainers", "status": "False"},
]


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "agent", "state": state}]}


class Cluster:
    """The API server: the task's Job is there, and its one pod does not start."""

    namespace = "team"

    def __init__(self, pod: dict[str, Any], mount_failures: list[str]) -> None:
        self.tasks = self
        self._pod = pod
        self._mount_failures = mount_failures
        self.written: dict[str, Any] = {}

    async def pods_of(self, _: str) -> tuple[Pod, ...]:
        metadata = {"name": "p", "creationTimestamp": ago(30).isoformat()}
        return read_pods([{"metadata": metadata, "status": self._pod}])

    async def mount_failures(self, _: str) -> list[str]:
        return self._mount_failures

    async def set_status(self, _: AgentTask, new: Any) -> AgentTask:
        self.written = new.to_wire()
        return AgentTask.of(stored() | {"status": self.written})

    async def emit(self, *_: Any, **__: Any) -> None: ...


def stored() -> dict[str, Any]:
    body = task_body()
    body["metadata"]["namespace"] = "team"
    return body | {"status": status(attempt()).to_wire()}


def job_body(age: float) -> dict[str, Any]:
    owner = {"kind": "AgentTask", "name": task().name, "uid": "uid-1", "controller": True}
    metadata: dict[str, Any] = {
        "name": f"{task().name}-1",
        "namespace": "team",
        "uid": "job-1",
        "resourceVersion": "6",
        "creationTimestamp": ago(age).isoformat(),
        "ownerReferences": [owner],
    }
    return {"metadata": metadata, "spec": {}, "status": {}}


UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes fit",
            "lastTransitionTime": SINCE,
        }
    ]
}


@pytest.mark.parametrize(
    ("age", "pod", "mount_failures", "reason", "words"),
    [
        (31, UNSCHEDULABLE, [], "Unschedulable", "0/3 nodes fit"),
        (31, waiting("ErrImagePull", "no such image"), [], "ErrImagePull", "no such image"),
        (
            31,
            waiting("CreateContainerConfigError", 'configmap "c" not found'),
            [],
            "CreateContainerConfigError",
            'configmap "c" not found',
        ),
        (31, {"conditions": SCHEDULED}, ['configmap "c" not found'], "PodNotReadyToStart", 'configmap "c"'),
        # Sooner, or while nobody says what is missing, it is only starting.
        (29, UNSCHEDULABLE, [], "Starting", "waits for its pod"),
        (31, {"conditions": SCHEDULED}, [], "Starting", "waits for its pod"),
        (31, waiting("ContainerCreating", ""), [], "Starting", "waits for its pod"),
        # A Secret that is missing does not come by itself.
        (16, {"conditions": SCHEDULED}, ['secret "s" not found'], "SecretMissing", "Missing: s."),
    ],
)
async def test_the_words_of_the_cluster(
    age: float, pod: dict[str, Any], mount_failures: list[str], reason: str, words: str
) -> None:
    cluster, tasks, jobs = Cluster(pod, mount_failures), ObjectCache(AgentTask.compact), ObjectCache[Job]()
    tasks.put(AgentTask.of(stored()))
    jobs.put(read_job(job_body(age)))
    reconciler = Reconciler(
        cluster,  # type: ignore[arg-type]
        tasks,
        jobs,
        AttemptPods(cluster, lambda _: None, lambda: None),  # type: ignore[arg-type]
        policy=POLICY,
        build=None,  # type: ignore[arg-type]
        refusal=lambda _: None,
        unauthorized=lambda _: None,
        waits={},
        ended=lambda _: None,
        now=lambda: NOW,
    )
    await reconciler.reconcile(task().name, SchedulingDecision())
    assert (cluster.written["phase"], cluster.written["reason"]) == ("Starting", reason)
    assert words in cluster.written["conditions"][0]["message"]
