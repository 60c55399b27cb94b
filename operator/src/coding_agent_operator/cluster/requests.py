"""The requests that the operator itself sends to one namespace of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError, ApiServer, Body
from coding_agent_core.task.agenttask import GROUP, LABEL_ACTIVE, PLURAL, VERSION
from coding_agent_core.task.objects import Metadata

from coding_agent_operator.cluster.lease import lease_path
from coding_agent_operator.cluster.observed import (
    ACTIVE,
    MANAGER,
    WORKLOADS,
    Job,
    Pod,
    read_job,
    read_pod,
    read_pods,
)

LEASE = "coding-agent-operator"
"""Name of the operator's Lease, in the namespace of the AgentTasks."""
_SETUP_FAILURES = ("FailedMount", "FailedCreatePodSandBox")
"""Reasons of the kubelet's Events about a pod whose containers cannot be created yet: a volume, or what the
container runtime refuses, such as a RuntimeClass that the node lacks (its `pkg/kubelet/events/event.go`)."""


async def namespaces_with_tasks(server: ApiServer, fields: str = "", page: int = 200) -> set[str]:
    """Return the namespaces with matching AgentTasks, reading `page` tasks at a time to save memory.

    Args:
        fields: a field selector.

    Raises:
        ApiError: the API server did not answer, or refused to list the whole cluster.
    """
    query = [("fieldSelector", fields)] if fields else []
    path = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
    return {
        Metadata.of(body).namespace async for part in server.pages(path, query, page) for body in part.items
    }


class Cluster:
    """The operator's requests to one namespace of a cluster: `Attempts` as Jobs, and their volume claims.

    Attributes:
        may_write: the fence. While it returns `False`, nothing is created, changed or deleted.
    """

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self.may_write: Callable[[], bool] = lambda: True
        self.tasks = AgentTasks(server, namespace, MANAGER, fence=self._require_lease)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._core = f"/api/v1/namespaces/{namespace}"
        self._volume_claims = f"{self._core}/persistentvolumeclaims"
        group, version, plural = WORKLOADS
        self._workloads = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"

    async def probe(self) -> None:
        """Check the operator's rights with small requests of the kinds that it sends regularly.

        Raises:
            ApiError: this namespace cannot be served.
        """
        await self.tasks.probe()
        await self._server.request("GET", self._jobs, query=[("labelSelector", ACTIVE), ("limit", "1")])
        await self._server.request("GET", f"{self._core}/pods", query=[("limit", "1")])
        await self._server.get(lease_path(self.namespace, LEASE))

    async def missing_runtime_classes(self, names: Iterable[str]) -> list[str]:
        """Return the names of the given RuntimeClasses that do not exist.

        Raises:
            ApiError: 403 if this process may not read RuntimeClasses, which belong to the whole cluster.
        """
        path = "/apis/node.k8s.io/v1/runtimeclasses"
        return [name for name in names if await self._server.get(f"{path}/{name}") is None]

    async def list_jobs(self, labels: str) -> tuple[list[Job], int]:
        """Return a consistent list of Jobs and its resourceVersion."""
        found, version = await self._server.read_all(self._jobs, [("labelSelector", labels)], read_job)
        return found, int(version)

    async def get_job(self, name: str) -> Job | None:
        body = await self._server.get(f"{self._jobs}/{name}")
        return None if body is None else read_job(body)

    async def pods_of(self, job: str) -> tuple[Pod, ...]:
        """Return the pods of a Job, oldest first."""
        query = [("labelSelector", f"batch.kubernetes.io/job-name={job}"), ("limit", "100")]
        return read_pods((await self._server.list(f"{self._core}/pods", query)).items)

    async def setup_failures(self, pod: str) -> list[str]:
        """Return the kubelet's messages about a pod that it cannot set up yet; the newest is last."""
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod},type=Warning"
        return [message for reason, message in await self._events(selector) if reason in _SETUP_FAILURES]

    async def volume_claim_events(self, uid: str) -> list[tuple[str, str]]:
        """Return reasons and messages of the Events about a PersistentVolumeClaim; the newest is last."""
        return await self._events(f"involvedObject.kind=PersistentVolumeClaim,involvedObject.uid={uid}")

    async def _events(self, selector: str) -> list[tuple[str, str]]:
        query = [("fieldSelector", selector), ("limit", "50")]
        found = await self._server.list(f"{self._core}/events", query)
        events = sorted(found.items, key=lambda event: event.get("lastTimestamp") or "")
        return [(str(event.get("reason") or ""), str(event.get("message") or "")) for event in events]

    async def list_running_pods(self, labels: str) -> tuple[Sequence[Pod], str]:
        """Return the pods that have not ended and the list's resourceVersion."""
        fields = "status.phase!=Succeeded,status.phase!=Failed"
        query = [("labelSelector", labels), ("fieldSelector", fields)]
        found, version = await self._server.read_all(f"{self._core}/pods", query, lambda body: body)
        return read_pods(found), version

    async def watch_pods(self, labels: str, version: str, seconds: int) -> AsyncIterator[tuple[str, Pod]]:
        """Yield the type and the pod of each watch event since a resourceVersion, for some seconds.

        Raises:
            ApiError: the watch was refused or broke off.
        """
        query = [("labelSelector", labels), ("resourceVersion", version)]
        async for change in self._server.watch(f"{self._core}/pods", query, seconds):
            yield change["type"], read_pod(change["object"])

    async def list_workloads(self) -> list[Body]:
        """Return Kueue's Workloads. They may be slightly outdated, because that is cheaper to read.

        Raises:
            ApiError: 404 if Kueue is not installed.
        """
        return (await self._server.list(self._workloads, [("resourceVersion", "0")])).items

    async def create_job(self, manifest: Body) -> Job:
        """Create a Job.

        Raises:
            ApiError: 409 if its name is taken; status `None` if it is unknown whether the Job was created.
        """
        return read_job(await self._create(self._jobs, manifest))

    async def get_volume_claim(self, name: str) -> Body | None:
        """Read a PersistentVolumeClaim."""
        return await self._server.get(f"{self._volume_claims}/{name}")

    async def create_volume_claim(self, manifest: Body) -> Body:
        """Create a PersistentVolumeClaim.

        Raises:
            ApiError: 409 if its name is taken.
        """
        return await self._create(self._volume_claims, manifest)

    async def delete_job(self, job: Job) -> Job | None:
        """Delete exactly this Job in the foreground, so that it stays until its pods are gone.

        Returns:
            The Job, which is now being deleted; `None` if it is gone.
        """
        self._require_lease()
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job.uid}}
        try:
            answer = await self._server.request("DELETE", f"{self._jobs}/{job.name}", body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return None
        return read_job(answer) if answer.get("kind") == "Job" else None  # a Status: the Job is gone

    async def release_job(self, job: Job, keep_seconds: int) -> Job | None:
        """Stop watching an ended Job, to be deleted after `keep_seconds`; return `None` if it is gone."""
        self._require_lease()
        patch = {
            "metadata": {"labels": {LABEL_ACTIVE: None}, "uid": job.uid},
            "spec": {"ttlSecondsAfterFinished": keep_seconds},
        }
        body = await self._server.merge(f"{self._jobs}/{job.name}", patch)
        return None if body is None else read_job(body)

    async def _create(self, path: str, manifest: Body) -> Body:
        self._require_lease()
        return await self._server.request("POST", path, body=manifest, query=[("fieldManager", MANAGER)])

    def _require_lease(self) -> None:
        if not self.may_write():
            # Without a status, callers conclude nothing from it, as after a request without an answer.
            raise ApiError("This operator does not hold its Lease, so it writes nothing.", None)
