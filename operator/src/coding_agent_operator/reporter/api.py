"""Every request that the reporter makes to the API server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from coding_agent_core.agenttask import (
    GROUP,
    KIND,
    LABEL_ITEM,
    LABEL_REPORTED,
    PLURAL,
    VERSION,
    Condition,
)
from coding_agent_core.kubernetes.runs import cancellation
from coding_agent_core.kubernetes.transport import JSON_PATCH, Access, ApiError, ApiServer, Body

from coding_agent_operator.notices import Notice, event
from coding_agent_operator.observed import Task
from coding_agent_operator.reporter import conditions
from coding_agent_operator.reporter.metrics import API_REQUESTS
from coding_agent_operator.reporter.names import MANAGER, ROLE

_RACES = 10
"""Tries to write a condition; each further one means that somebody else has written in between."""


async def connect(namespace: str, timeout: float) -> Tasks:
    """A connection with the credentials that this process has.

    Raises:
        SettingsError: it has none, or they cannot be read.
    """
    server = await ApiServer.connect(
        Access.find(),
        timeout,
        role=ROLE,
        seen=lambda method, status: API_REQUESTS.labels(method, status).inc(),
    )
    return Tasks(server, namespace)


class Tasks:
    """The AgentTasks of one namespace. Every method raises `ApiError`."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self._tasks = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        self._events = f"/api/v1/namespaces/{namespace}/events"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()

    async def renew(self) -> None:
        """Read the credentials again."""
        await self._server.renew()

    async def watched(self, selector: str) -> tuple[list[Body], int]:
        """A consistent list, and its resourceVersion."""
        found = await self._server.request("GET", self._tasks, query=[("labelSelector", selector)])
        return list(found["items"]), int(found["metadata"]["resourceVersion"])

    async def get(self, name: str) -> Body | None:
        """A task, `None` if there is none of that name."""
        return await self._server.get(f"{self._tasks}/{name}")

    async def runs(self, task: Task) -> list[Body]:
        """Every run of the task's item, and of others whose hash is the same, as new as this request."""
        found = await self._server.request(
            "GET", self._tasks, query=[("labelSelector", f"{LABEL_ITEM}={task.item}")]
        )
        return list(found["items"])

    async def set_conditions(self, body: Body, wanted: tuple[Condition, ...], now: datetime) -> Body | None:
        """Set conditions of a task whatever others write meanwhile; the task then, `None` if it is gone.

        Raises:
            ApiError: `conflict` if others have written ten times in between.
        """
        name, uid = body["metadata"]["name"], body["metadata"]["uid"]
        newest: Body | None = body
        for left in range(_RACES - 1, -1, -1):
            if newest is None or newest["metadata"]["uid"] != uid:
                return None
            patch = conditions.patch(newest, wanted, now)
            if patch is None:
                return newest
            path = f"{self._tasks}/{name}/status"
            try:
                return await self._server.request("PATCH", path, body=patch, kind=JSON_PATCH)
            except ApiError as error:
                if error.status != 404 and (not error.conflict or left == 0):
                    raise
            newest = await self.get(name)
        return None

    async def cancel(self, body: Body, why: str) -> bool:
        """Cancel exactly this version of a task; `False` if it has another by now."""
        return await self._server.merge(self._path(body), cancellation(body, why)) is not None

    async def mark_reported(self, body: Body) -> bool:
        """No longer watch exactly this version of a task; `False` if it has another by now."""
        meta: dict[str, Any] = {
            "labels": {LABEL_REPORTED: "true"},
            "resourceVersion": body["metadata"]["resourceVersion"],
        }
        return await self._server.merge(self._path(body), {"metadata": meta}) is not None

    async def patch(self, body: Body, patch: Body) -> bool:
        """Apply a merge patch that names this version; `False` if the task has another by now, or is gone."""
        return await self._server.merge(self._path(body), patch) is not None

    async def delete(self, body: Body) -> bool:
        """Delete exactly this version of a task; `False` if it has another by now, or is gone."""
        meta = body["metadata"]
        exactly = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": exactly}
        try:
            await self._server.request("DELETE", self._path(body), body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        return True

    async def emit(self, notice: Notice, task: Task, now: datetime) -> None:
        """Write an Event about a task."""
        body = event(
            notice,
            kind=KIND,
            namespace=self.namespace,
            name=task.name,
            uid=task.uid,
            component=MANAGER,
            now=now,
        )
        await self._server.request("POST", self._events, body=body)

    def _path(self, body: Body) -> str:
        return f"{self._tasks}/{body['metadata']['name']}"
