"""Every request that the operator makes itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from coding_agent_core.agenttask import GROUP, LABEL_ACTIVE, PLURAL, VERSION
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import JSON_PATCH, Access, ApiError, ApiServer, Body

from coding_agent_operator.metrics import API_REQUESTS
from coding_agent_operator.observed import ACTIVE, MANAGER, Job
from coding_agent_operator.schedule import WORKLOADS


async def connect(timeout: float) -> ApiServer:
    """Connections with the credentials that this process has; close them with `aclose`.

    Raises:
        SettingsError: it has none, or they cannot be read.
    """
    return await ApiServer.connect(Access.find(), timeout, role="operator/deploy/role.yaml", on_answer=_count)


async def namespaces_with_tasks(server: ApiServer, labels: str = "", page: int = 200) -> set[str]:
    """The namespaces that have AgentTasks with these labels, read `page` tasks at a time to save memory.

    Raises:
        ApiError: the API server did not answer, or not for the whole cluster.
    """
    found: set[str] = set()
    token = ""
    while True:
        query = [("limit", str(page))]
        query += [("labelSelector", labels)] if labels else []
        query += [("continue", token)] if token else []
        part = await server.request("GET", f"/apis/{GROUP}/{VERSION}/{PLURAL}", query=query)
        found.update(body["metadata"]["namespace"] for body in part["items"])
        token = part["metadata"].get("continue") or ""
        if not token:
            return found


class Cluster:
    """One namespace of a cluster.

    Attributes:
        may_write: the fence: without it nothing is created, changed or deleted (but for the Lease itself).
    """

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self.may_write: Callable[[], bool] = lambda: True
        self.tasks = AgentTasks(server, namespace, MANAGER, fence=self._require_leave)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._core = f"/api/v1/namespaces/{namespace}"
        group, version, plural = WORKLOADS
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._workloads = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"

    async def probe(self, lease: str) -> None:
        """Ask for a little of what is looked at regularly.

        Raises:
            ApiError: this namespace cannot be served.
        """
        await self.tasks.probe()
        await self._server.request("GET", self._jobs, query=[("labelSelector", ACTIVE), ("limit", "1")])
        await self.get_lease(lease)

    async def has_tasks(self) -> bool:
        """Whether the namespace has any AgentTask, ended or not; in doubt it has."""
        try:
            return bool(await anext(self.tasks.pages("", 1)))
        except ApiError:
            return True

    async def list_jobs(self, labels: str) -> tuple[list[Body], int]:
        """A consistent list, and its resourceVersion."""
        found = await self._server.request("GET", self._jobs, query=[("labelSelector", labels)])
        return list(found["items"]), int(found["metadata"]["resourceVersion"])

    async def get_job(self, name: str) -> Body | None:
        """A Job, `None` if there is none of that name."""
        return await self._server.get(f"{self._jobs}/{name}")

    async def pods_of(self, job: str) -> list[Body]:
        """The pods of a Job."""
        query = [("labelSelector", f"batch.kubernetes.io/job-name={job}"), ("limit", "100")]
        return list((await self._server.request("GET", f"{self._core}/pods", query=query))["items"])

    async def watch_pods(self, labels: str, seconds: int) -> AsyncIterator[Body]:
        """What happens to pods from now on, for so many seconds; those that are there are not listed.

        Raises:
            ApiError: it was refused or broke off.
        """
        path, query = f"{self._core}/pods", [("labelSelector", labels)]
        one = await self._server.request("GET", path, query=[*query, ("limit", "1")])
        version = str(one["metadata"]["resourceVersion"])
        async for change in self._server.watch(path, [*query, ("resourceVersion", version)], seconds):
            yield change

    async def list_workloads(self) -> list[Body]:
        """What Kueue knows; perhaps a little old, which is cheaper.

        Raises:
            ApiError: 404 if Kueue is not installed.
        """
        found = await self._server.request("GET", self._workloads, query=[("resourceVersion", "0")])
        return list(found["items"])

    async def create_job(self, manifest: Body) -> Body:
        """Create a Job.

        Raises:
            ApiError: 409 if its name is taken; status `None` if nobody knows whether it was created.
        """
        self._require_leave()
        return await self._server.request(
            "POST", self._jobs, body=manifest, query=[("fieldManager", MANAGER)]
        )

    async def delete_job(self, job: Job) -> Body | None:
        """Delete exactly this Job in the foreground: it stays until its pods are gone.

        Returns:
            The Job as it is now, which is being deleted; `None` if it is gone.
        """
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job.uid}}
        answer = await self._delete(f"{self._jobs}/{job.name}", options)
        return answer if answer is not None and answer.get("kind") == "Job" else None

    async def release_job(self, job: Job, keep_seconds: int) -> Body | None:
        """No longer watch a Job that has ended; it goes after `keep_seconds`. `None`: it is gone."""
        patch = {
            "metadata": {"labels": {LABEL_ACTIVE: None}, "uid": job.uid},
            "spec": {"ttlSecondsAfterFinished": keep_seconds},
        }
        return await self._merge(f"{self._jobs}/{job.name}", patch)

    async def get_lease(self, name: str) -> Body | None:
        """The Lease, `None` if there is none."""
        return await self._server.get(f"{self._leases}/{name}")

    async def create_lease(self, name: str, spec: Body) -> Body:
        """Create the Lease.

        Raises:
            ApiError: `conflict` if there is one.
        """
        return await self._server.request(
            "POST", self._leases, body={"metadata": {"name": name}, "spec": spec}
        )

    async def patch_lease(self, name: str, version: str, spec: Body) -> Body:
        """Change fields of the Lease if nothing of it has changed since it was read.

        Raises:
            ApiError: `conflict` if it has.
        """
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *({"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()),
        ]
        return await self._server.request("PATCH", f"{self._leases}/{name}", body=patch, kind=JSON_PATCH)

    def _require_leave(self) -> None:
        if not self.may_write():
            # No status: as after a request without an answer, nothing is concluded from it.
            raise ApiError("The operator's Lease is not held; nothing is written.", None)

    async def _merge(self, path: str, patch: Body) -> Body | None:
        self._require_leave()
        return await self._server.merge(path, patch)

    async def _delete(self, path: str, options: Body) -> Body | None:
        """The server's answer: the object, or a Status; `None` if the object was not there (any more)."""
        self._require_leave()
        try:
            return await self._server.request("DELETE", path, body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return None


def _count(method: str, status: str) -> None:
    API_REQUESTS.labels(method, status).inc()
