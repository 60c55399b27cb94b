"""What one reconcile records: why a pod does not start, and the report of an attempt whose Job is gone."""

from dataclasses import replace
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.task.agenttask import AgentTask, OutcomeType
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage
from coding_agent_operator.cluster.attempt_pods import AttemptPods
from coding_agent_operator.cluster.controller import ObjectCache
from coding_agent_operator.cluster.namespace_objects import NamespaceObjects
from coding_agent_operator.cluster.observed import Job, Pod, read_job, read_pod, read_pods
from coding_agent_operator.tasks.evidence import EvidencePod
from coding_agent_operator.tasks.plan import SchedulingDecision
from coding_agent_operator.tasks.reconcile import ObjectRejectedError, Reconciler

from tests.unit.operator.making import NOW, POLICY, ago, attempt, said, status, task, task_body


class Cluster:
    """The API server: the task is there, its Job is gone, and its pods are those given."""

    namespace = "team"

    def __init__(self, stored: dict[str, Any], *pods: dict[str, Any], missing: tuple[str, ...] = ()) -> None:
        self.tasks = self
        self.stored, self.pods, self.missing = stored, pods, missing
        self.written: dict[str, Any] = {}
        self.refusal: ApiError | None = None
        self.newest_version = "5"

    async def get_job(self, _: str) -> None:
        return None

    async def pods_of(self, _: str) -> tuple[Pod, ...]:
        return read_pods(self.pods)

    async def setup_failures(self, _: str) -> list[str]:
        return list(self.missing)

    async def newest(self, _: AgentTask) -> AgentTask:
        metadata = {**self.stored["metadata"], "resourceVersion": self.newest_version}
        return AgentTask.of({**self.stored, "metadata": metadata})

    async def set_status(self, _: AgentTask, new: Any) -> AgentTask:
        if self.refusal is not None:
            raise self.refusal
        self.written = new.to_wire()
        return AgentTask.of(self.stored | {"status": self.written})

    async def emit(self, *_: Any, **__: Any) -> None: ...


def stored(**spec: Any) -> dict[str, Any]:
    body = task_body(**spec)
    body["metadata"]["namespace"] = "team"
    return body | {"status": status(attempt()).to_wire()}


class NoJobs:
    """Fails a test in which the reconciler builds a Job."""

    async def build(self, task: AgentTask, number: int) -> dict[str, Any]:
        raise AssertionError(f"attempt {number} of {task.name} was built")

    async def build_evidence(self, task: AgentTask, pod: EvidencePod) -> dict[str, Any]:
        raise AssertionError(f"{pod} of {task.name} was built")

    def environment_refusal(self, environment: Environment) -> str | None:
        return None


async def recorded(cluster: Cluster, *jobs: Job, seen: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """The status that is written after the watch has shown pods that end and go."""
    tasks, known = ObjectCache(AgentTask.compact), ObjectCache[Job]()
    pods = AttemptPods(cluster, lambda _: None, lambda: None)  # type: ignore[arg-type]
    for body in seen:
        pods.take("MODIFIED", read_pod(body))
        pods.take("DELETED", read_pod(body))
    tasks.put(AgentTask.of(cluster.stored))
    for job in jobs:
        known.put(job)
    reconciler = Reconciler(
        NamespaceObjects(cluster, tasks, known, pods),  # type: ignore[arg-type]
        NoJobs(),
        policy=POLICY,
        evidence_limit=None,
        unauthorized=lambda _: None,
        waits={},
        ended=lambda _: None,
        now=lambda: NOW,
    )
    await reconciler.reconcile(task().name, SchedulingDecision())
    return cluster.written


def job(age: float) -> Job:
    owner = {"kind": "AgentTask", "name": task().name, "uid": "uid-1", "controller": True}
    metadata: dict[str, Any] = {
        "name": f"{task().name}-1",
        "namespace": "team",
        "uid": "job-1",
        "resourceVersion": "6",
        "creationTimestamp": ago(age).isoformat(),
        "ownerReferences": [owner],
    }
    return read_job({"metadata": metadata, "spec": {}, "status": {}})


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "agent", "state": state}]}


def scheduled(is_: str, **more: str) -> dict[str, str]:
    return {"type": "PodScheduled", "status": is_, "lastTransitionTime": ago(10).isoformat(), **more}


UNSCHEDULABLE = {"conditions": [scheduled("False", reason="Unschedulable", message="0/3 nodes fit")]}
NOT_SET_UP = {"conditions": [scheduled("True"), {"type": "PodReadyToStartContainers", "status": "False"}]}
NO_MAP, NO_SECRET = 'configmap "c" not found', 'secret "s" not found'


@pytest.mark.parametrize(
    ("age", "pod", "missing", "reason", "words"),
    [
        (31, UNSCHEDULABLE, (), "Unschedulable", "0/3 nodes fit"),
        (31, waiting("ErrImagePull", "no such image"), (), "ErrImagePull", "no such image"),
        (31, NOT_SET_UP, (NO_MAP,), "PodNotReadyToStart", NO_MAP),
        # Sooner, or while nobody says what is missing, it is only starting.
        (29, UNSCHEDULABLE, (), "Starting", "waits for its pod"),
        (31, NOT_SET_UP, (), "Starting", "waits for its pod"),
        (31, waiting("ContainerCreating", ""), (), "Starting", "waits for its pod"),
        # A Secret that is missing does not come by itself.
        (16, NOT_SET_UP, (NO_SECRET,), "SecretMissing", "Missing: s."),
    ],
)
async def test_why_a_pod_does_not_start_is_shown_after_half_a_minute(
    age: float, pod: dict[str, Any], missing: tuple[str, ...], reason: str, words: str
) -> None:
    metadata = {"name": "p", "creationTimestamp": ago(30).isoformat()}
    cluster = Cluster(stored(), {"metadata": metadata, "status": pod}, missing=missing)
    written = await recorded(cluster, job(age))
    assert (written["phase"], written["reason"]) == ("Starting", reason)
    assert words in written["conditions"][0]["message"]


def ended(created: float) -> dict[str, Any]:
    report = said(Reason.CANCELLED, branch="coding-agent/issue-7", usage=Usage(requests=3))
    state: dict[str, Any] = {"exitCode": report["exit_code"], "message": report["message"], "reason": "Error"}
    labels = {
        "batch.kubernetes.io/controller-uid": f"job-{created}",
        "batch.kubernetes.io/job-name": f"{task().name}-1",
    }
    metadata = {"name": "p", "uid": "p", "creationTimestamp": ago(created).isoformat(), "labels": labels}
    agent = {"name": "agent", "state": {"terminated": state}}
    return {"metadata": metadata, "status": {"phase": "Running", "containerStatuses": [agent]}}


async def test_the_report_of_an_attempt_is_kept_whose_job_and_pod_are_gone() -> None:
    found = await recorded(Cluster(stored(cancel=True)), seen=(ended(created=29),))
    assert found["phase"] == "Cancelled"
    [entry] = found["attempts"]
    assert (entry["outcome"], entry["usage"]["requests"]) == (OutcomeType.CANCELLED, 3)
    assert found["result"]["branch"] == "coding-agent/issue-7"


async def test_the_report_of_an_older_job_of_that_name_is_not_its() -> None:
    found = await recorded(Cluster(stored(cancel=True)), seen=(ended(created=31),))
    assert found["phase"] == "Cancelled"
    assert "usage" not in found["attempts"][0]
    assert "branch" not in found.get("result", {})


@pytest.mark.parametrize(("newest", "raised"), [("5", ObjectRejectedError), ("6", ApiError)])
async def test_a_status_that_fits_no_schema_is_not_taken_for_a_conflict(
    newest: str, raised: type[ApiError]
) -> None:
    """The API server answers 422 to both; only the version tells them apart."""
    cluster = Cluster(stored(cancel=True))
    cluster.refusal, cluster.newest_version = ApiError("no such phase here", 422), newest
    with pytest.raises(ApiError) as found:
        await recorded(cluster)
    assert type(found.value) is raised


@pytest.mark.parametrize(("kind", "phase"), [("DELETED", "Running"), ("MODIFIED", "Failed")])
def test_a_pod_that_has_ended_or_is_gone_runs_no_more(kind: str, phase: str) -> None:
    heard: list[str] = []
    pods = AttemptPods(None, heard.append, lambda: heard.append("gone"))  # type: ignore[arg-type]
    running = Pod(name="p", uid="p", phase="Running", created=NOW)
    pods.take("ADDED", running)
    assert pods.running == [running]
    pods.take(kind, replace(running, phase=phase))
    assert (pods.running, heard) == ([], ["gone"])
