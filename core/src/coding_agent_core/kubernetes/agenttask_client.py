"""The client for AgentTasks that the receiver, the operator and the reporter use."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.kubernetes.transport import JSON_PATCH, ApiError, ApiServer
from coding_agent_core.task.agenttask import (
    API_VERSION,
    GROUP,
    KIND,
    LABEL_ITEM,
    PLURAL,
    VERSION,
    AgentTask,
    Condition,
    Event,
    Status,
    labels_for,
)
from coding_agent_core.task.agenttask_patches import conditions_patch
from coding_agent_core.task.model import Item
from coding_agent_core.task.objects import Stored

_logger = logging.getLogger("agenttasks")

_API_VERSIONS = {KIND: API_VERSION, "Job": "batch/v1", "Pod": "v1"}
_RACES = 10
"""Maximum number of tries to write a condition. A further one is needed if somebody else has written."""


class AgentTasks:
    """The AgentTasks of one namespace. Every method except `emit` raises `ApiError`.

    Reads are consistent: without a resourceVersion, the API server returns the most recent version, whereas 0
    allows a stale cache (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).

    Args:
        manager: the field manager of writes and the source of Events.
        fence: called before every write; it raises `ApiError` if this process may not write now.

    Example:
        tasks = AgentTasks(server, "coding-agent", "coding-agent-receiver")
        for task in await tasks.runs(item):
            await tasks.patch(task, {"spec": {"cancel": True}})
    """

    def __init__(
        self, server: ApiServer, namespace: str, manager: str, *, fence: Callable[[], None] = lambda: None
    ) -> None:
        self._server = server
        self.namespace = namespace
        self._manager = manager
        self._fence = fence
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"

    async def list(self, labels: str, fields: str = "") -> tuple[list[AgentTask], int]:
        """Return the tasks that the selectors match, and the list's resourceVersion."""
        query = [("labelSelector", labels)] + ([("fieldSelector", fields)] if fields else [])
        found, version = await self._server.read_all(self._path, query, AgentTask.of)
        return found, int(version)

    async def pages(self, fields: str, size: int) -> AsyncIterator[Sequence[AgentTask]]:
        """Yield the tasks page by page, so that memory does not grow with their number."""
        async for page in self._server.pages(self._path, [("fieldSelector", fields)], size):
            yield [AgentTask.of(body) for body in page.items]

    async def watch(
        self, labels: str, fields: str, version: int, seconds: int
    ) -> AsyncIterator[tuple[str, AgentTask]]:
        """Yield the type and the task of each watch event after `version`, for some seconds."""
        query = [("labelSelector", labels), ("fieldSelector", fields), ("resourceVersion", str(version))]
        async for change in self._server.watch(self._path, query, seconds):
            yield change["type"], AgentTask.of(change["object"])

    async def runs(self, item: Item) -> Sequence[AgentTask]:
        """Return all runs of an item, and of any other item with the same hash."""
        return (await self.list(f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"))[0]

    async def get(self, name: str) -> AgentTask | None:
        body = await self._server.get(f"{self._path}/{name}")
        return None if body is None else AgentTask.of(body)

    async def newest(self, task: AgentTask) -> AgentTask | None:
        """Return the task's current version; `None` if it was deleted, even if a new task has its name."""
        found = await self.get(task.name)
        return found if found is not None and found.uid == task.uid else None

    async def probe(self) -> None:
        """Read one task, to check connection, credentials, schema and storage."""
        await self._server.request("GET", self._path, query=[("limit", "1")])

    async def create(self, manifest: Mapping[str, Any]) -> AgentTask | None:
        """Create a task; `None` if its name is taken."""
        self._fence()
        try:
            body = await self._server.request(
                "POST", self._path, body=dict(manifest), query=[("fieldManager", self._manager)]
            )
        except ApiError as error:
            if error.status == 409:
                # The name follows from the item and the run: somebody else has created this run.
                return None
            raise
        return AgentTask.of(body)

    async def patch(self, task: AgentTask, patch: Mapping[str, Any]) -> AgentTask | None:
        """Apply a merge patch to exactly this version of a task; `None` if it has changed or is gone."""
        # The API server answers a merge patch with an outdated resourceVersion with 409.
        return await self._merge(task, patch, {"resourceVersion": task.version})

    async def set_labels(self, task: AgentTask, labels: Mapping[str, str]) -> AgentTask | None:
        """Set labels of a task whatever its version; `None` if it is gone."""
        return await self._merge(task, {"metadata": {"labels": dict(labels)}}, {"uid": task.uid})

    async def set_status(self, task: AgentTask, status: Status) -> AgentTask:
        """Replace the status of exactly this version of a task.

        Raises:
            ApiError: `conflict` if the task has changed.
        """
        # A merge patch would keep fields that the new status lacks; a JSON patch replaces the status as a
        # whole.
        test = {"op": "test", "path": "/metadata/resourceVersion", "value": task.version}
        # `add` also replaces, and it works for a task that has no status yet.
        replace = {"op": "add", "path": "/status", "value": status.to_wire()}
        return await self._patch_status(task, [test, replace])

    async def set_conditions(
        self, task: AgentTask, wanted: Sequence[Condition], now: datetime
    ) -> AgentTask | None:
        """Set conditions of a task, and repeat this if others write the task at the same time.

        Returns:
            The task with the conditions; `None` if it is gone.

        Raises:
            ApiError: `conflict` if others have written ten times in between.
        """
        newest: AgentTask | None = task
        for left in reversed(range(_RACES)):
            if newest is None:
                return None
            patch = conditions_patch(newest, wanted, now)
            if patch is None:
                return newest
            try:
                return await self._patch_status(newest, patch)
            except ApiError as error:
                if error.status != 404 and (not error.conflict or left == 0):
                    raise
            newest = await self.newest(task)
        return None

    async def delete(self, task: AgentTask) -> bool:
        """Delete exactly this version of a task and its Jobs; return `False` if it has changed or is gone."""
        self._fence()
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            # A label may have been recorded on the task since it was read; then it must stay.
            "preconditions": {"uid": task.uid, "resourceVersion": task.version},
        }
        try:
            await self._server.request("DELETE", f"{self._path}/{task.name}", body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    async def emit(self, event: Event, about: Stored, now: datetime, *, kind: str = KIND) -> None:
        """Write an Event about a task, a Job or a pod. A failure is logged and not repeated."""
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {"generateName": f"{about.name[:200]}."},
            "involvedObject": {
                "apiVersion": _API_VERSIONS[kind],
                "kind": kind,
                "name": about.name,
                "namespace": self.namespace,
                "uid": about.uid,
            },
            "type": event.type,
            "reason": event.reason,
            # events.k8s.io allows a note of 1 kB.
            "message": event.message[:1000],
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": {"component": self._manager},
            "reportingComponent": self._manager,
            "reportingInstance": "",
        }
        try:
            self._fence()
            await self._server.request("POST", f"/api/v1/namespaces/{self.namespace}/events", body=body)
        except ApiError as error:
            # Events only inform people, so no work fails because of one.
            _logger.warning("Event %s of %s could not be written: %s", event.reason, about.name, error)

    async def renew(self) -> None:
        """Read the credentials again, because they were replaced or have expired."""
        await self._server.renew()

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _merge(
        self, task: AgentTask, patch: Mapping[str, Any], read: Mapping[str, str]
    ) -> AgentTask | None:
        """Apply a merge patch that also requires the metadata in `read`."""
        self._fence()
        patch = {**patch, "metadata": {**patch.get("metadata", {}), **read}}
        body = await self._server.merge(f"{self._path}/{task.name}", patch)
        return None if body is None else AgentTask.of(body)

    async def _patch_status(self, task: AgentTask, patch: Sequence[Mapping[str, Any]]) -> AgentTask:
        self._fence()
        path = f"{self._path}/{task.name}/status"
        return AgentTask.of(await self._server.request("PATCH", path, body=list(patch), kind=JSON_PATCH))
