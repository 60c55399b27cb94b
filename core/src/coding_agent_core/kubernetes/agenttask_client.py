"""The client for AgentTasks: of the receiver, the operator and the reporter."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.agenttask import (
    API_VERSION,
    GROUP,
    KIND,
    LABEL_ITEM,
    PLURAL,
    VERSION,
    Condition,
    Event,
    Status,
    conditions_patch,
)
from coding_agent_core.kubernetes.transport import JSON_PATCH, ApiError, ApiServer, Body

_logger = logging.getLogger("agenttasks")

_RACES = 10
"""Tries to write a condition; each further one means that somebody else has written in between."""


class AgentTasks:
    """The AgentTasks of one namespace. Every method but `emit` raises `ApiError`.

    Reads are consistent: they name no resourceVersion, which is the API's "Most Recent"; 0 could be answered
    from a stale cache (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).

    Args:
        manager: field manager of writes, and source of Events.
        fence: is called before every write, and raises `ApiError` where this process may not write now.
    """

    def __init__(
        self, server: ApiServer, namespace: str, manager: str, *, fence: Callable[[], None] = lambda: None
    ) -> None:
        self._server = server
        self.namespace = namespace
        self._manager = manager
        self._fence = fence
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"

    async def list(self, labels: str, fields: str = "") -> tuple[list[Body], int]:
        """The tasks that the selectors match, and the list's resourceVersion."""
        query = [("labelSelector", labels)] + ([("fieldSelector", fields)] if fields else [])
        found = await self._server.request("GET", self._path, query=query)
        return found["items"], int(found["metadata"]["resourceVersion"])

    async def pages(self, fields: str, size: int) -> AsyncIterator[Sequence[Body]]:
        """The tasks, a page at a time, so that memory does not grow with their number."""
        token = ""
        while True:
            query = [("fieldSelector", fields), ("limit", str(size))]
            page = await self._server.request(
                "GET", self._path, query=[*query, ("continue", token)] if token else query
            )
            yield page["items"] or ()  # an empty list of metadata has null here
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def watch(self, labels: str, fields: str, version: int, seconds: int) -> AsyncIterator[Body]:
        """The watch events after `version`, for so many seconds."""
        query = [("labelSelector", labels), ("fieldSelector", fields), ("resourceVersion", str(version))]
        async for change in self._server.watch(self._path, query, seconds):
            yield change

    async def runs(self, item: str) -> Sequence[Body]:
        """Every run of an item, and of other items whose hash is the same.

        Args:
            item: the hash of the item's identity, as in its label.
        """
        found, _ = await self.list(f"{LABEL_ITEM}={item}")
        return found

    async def get(self, name: str) -> Body | None:
        return await self._server.get(f"{self._path}/{name}")

    async def probe(self) -> None:
        """Read one task: connection, credentials, schema and storage work."""
        await self._server.request("GET", self._path, query=[("limit", "1")])

    async def create(self, manifest: Mapping[str, Any]) -> Body | None:
        """Create a task; `None` if its name is taken."""
        self._fence()
        try:
            return await self._server.request(
                "POST", self._path, body=dict(manifest), query=[("fieldManager", self._manager)]
            )
        except ApiError as error:
            if error.status == 409:
                return None
            raise

    async def patch(self, body: Mapping[str, Any], patch: Mapping[str, Any]) -> Body | None:
        """Apply a merge patch to exactly this version of a task; `None` if it has another, or is gone."""
        # A merge patch with a resourceVersion is refused with 409 when the object has another by now.
        version = {"resourceVersion": body["metadata"]["resourceVersion"]}
        return await self._merge(
            body["metadata"]["name"], {**patch, "metadata": {**patch.get("metadata", {}), **version}}
        )

    async def set_labels(self, name: str, uid: str, labels: Mapping[str, str]) -> Body | None:
        """Set labels of a task whatever its version; `None` if it is gone."""
        return await self._merge(name, {"metadata": {"labels": dict(labels), "uid": uid}})

    async def annotate(self, body: Mapping[str, Any], annotations: Mapping[str, str]) -> Body | None:
        """Set annotations of a task whatever its version; `None` if it is gone."""
        name, uid = body["metadata"]["name"], body["metadata"]["uid"]
        return await self._merge(name, {"metadata": {"annotations": dict(annotations), "uid": uid}})

    async def set_status(self, name: str, version: str, status: Status) -> Body:
        """Replace the status of exactly this version of a task.

        Raises:
            ApiError: `conflict` if it has another by now.
        """
        return await self._patch_status(
            name,
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/status", "value": status.to_wire()},
            ],
        )

    async def set_conditions(self, body: Body, wanted: Sequence[Condition], now: datetime) -> Body | None:
        """Set conditions of a task whatever others write meanwhile; the task then, `None` if it is gone.

        Raises:
            ApiError: `conflict` if others have written ten times in between.
        """
        name, uid = body["metadata"]["name"], body["metadata"]["uid"]
        newest: Body | None = body
        for left in range(_RACES - 1, -1, -1):
            if newest is None or newest["metadata"]["uid"] != uid:
                return None
            patch = conditions_patch(newest, wanted, now)
            if patch is None:
                return newest
            try:
                return await self._patch_status(name, patch)
            except ApiError as error:
                if error.status != 404 and (not error.conflict or left == 0):
                    raise
            newest = await self.get(name)
        return None

    async def delete(self, name: str, uid: str, version: str) -> bool:
        """Delete exactly this version of a task, and what it owns; `False` if it has another, or is gone."""
        self._fence()
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid, "resourceVersion": version},
        }
        try:
            await self._server.request("DELETE", f"{self._path}/{name}", body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    async def emit(
        self,
        event: Event,
        *,
        name: str,
        uid: str,
        now: datetime,
        kind: str = KIND,
    ) -> None:
        """Write an Event about a task, or about a Job of one; a failure is logged, and it is not repeated."""
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "metadata": {"generateName": f"{name[:200]}."},
            "involvedObject": {
                "apiVersion": API_VERSION if kind == KIND else "batch/v1",
                "kind": kind,
                "name": name,
                "namespace": self.namespace,
                "uid": uid,
            },
            "type": event.type,
            "reason": event.reason,
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
            _logger.warning("Event %s of %s could not be written: %s", event.reason, name, error)

    async def renew(self) -> None:
        """Read the credentials again: they were replaced, or have expired."""
        await self._server.renew()

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _merge(self, name: str, patch: Body) -> Body | None:
        self._fence()
        return await self._server.merge(f"{self._path}/{name}", patch)

    async def _patch_status(self, name: str, patch: Sequence[Mapping[str, Any]]) -> Body:
        self._fence()
        path = f"{self._path}/{name}/status"
        return await self._server.request("PATCH", path, body=list(patch), kind=JSON_PATCH)
