"""The AgentTasks of a file: the `TaskStore` of one machine."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from coding_agent_core.kubernetes.transport import ApiError, Body
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import (
    KIND,
    LABEL_ITEM,
    AgentTask,
    Condition,
    Event,
    Status,
    labels_for,
)
from coding_agent_core.task.agenttask_patches import conditions_patch
from coding_agent_core.task.model import Item
from coding_agent_core.task.objects import Stored
from coding_agent_core.task_file.objects import NAMESPACE, ObjectFile

_logger = logging.getLogger("agenttasks")


def file_of(settings: Settings) -> Path:
    """Return the file with the tasks of an installation on one machine."""
    return settings.context_storage.base_dir / "tasks.sqlite"


class FileTasks:
    """The AgentTasks of a file. `TaskStore` describes the methods."""

    def __init__(self, objects: ObjectFile) -> None:
        self.objects = objects
        self.namespace = NAMESPACE

    async def list(self, labels: str, fields: str = "") -> tuple[list[AgentTask], int]:
        found, version = self.objects.list(KIND, labels, fields)
        return [AgentTask.of(body) for body in found], version

    async def pages(self, fields: str, size: int) -> AsyncIterator[Sequence[AgentTask]]:
        tasks, _ = await self.list("", fields)
        for start in range(0, max(1, len(tasks)), size):
            yield tasks[start : start + size]

    async def watch(
        self, labels: str, fields: str, version: int, seconds: int
    ) -> AsyncGenerator[tuple[str, AgentTask], None]:
        async for kind, body in self.objects.watch(KIND, labels, fields, version, seconds):
            yield kind, AgentTask.of(body)

    async def runs(self, item: Item) -> Sequence[AgentTask]:
        return (await self.list(f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"))[0]

    async def get(self, name: str) -> AgentTask | None:
        body = self.objects.get(KIND, name)
        return None if body is None else AgentTask.of(body)

    async def newest(self, task: AgentTask) -> AgentTask | None:
        found = await self.get(task.name)
        return found if found is not None and found.uid == task.uid else None

    async def probe(self) -> None:
        self.objects.get(KIND, "")

    async def create(self, manifest: Mapping[str, Any]) -> AgentTask | None:
        body = self.objects.create(KIND, manifest)
        return None if body is None else AgentTask.of(body)

    async def patch(self, task: AgentTask, patch: Mapping[str, Any]) -> AgentTask | None:
        return self._changed(task, lambda body: merged(body, patch) if _is_version(body, task) else None)

    async def set_labels(self, task: AgentTask, labels: Mapping[str, str]) -> AgentTask | None:
        patch = {"metadata": {"labels": dict(labels)}}
        return self._changed(task, lambda body: merged(body, patch) if _is(body, task) else None)

    async def set_status(self, task: AgentTask, status: Status) -> AgentTask:
        def replace(body: Body) -> Body:
            if not _is_version(body, task):
                raise ApiError(f"AgentTask {task.name} has changed", 409)
            return {**body, "status": status.to_wire()}

        changed = self._changed(task, replace)
        if changed is None:
            raise ApiError(f"AgentTask {task.name} does not exist", 404)
        return changed

    async def set_conditions(
        self, task: AgentTask, wanted: Sequence[Condition], now: datetime
    ) -> AgentTask | None:
        def update(body: Body) -> Body | None:
            if not _is(body, task):
                return None
            patch = conditions_patch(AgentTask.of(body), wanted, now)
            return body if patch is None else _with_conditions(body, patch)

        return self._changed(task, update)

    async def delete(self, task: AgentTask) -> bool:
        # Whoever runs the attempts also ends those of a task that is gone.
        return self.objects.delete(KIND, task.name, lambda body: _is_version(body, task))

    async def emit(self, event: Event, about: Stored, now: datetime, *, kind: str = KIND) -> None:
        try:
            self.objects.record_event(about.uid, event.type, event.reason, event.message[:1000])
        except ApiError as error:
            _logger.warning("Event %s of %s could not be written: %s", event.reason, about.name, error)

    async def renew(self) -> None:
        """Do nothing: a file needs no credentials."""

    async def aclose(self) -> None:
        """Do nothing: the file belongs to the program, which closes it last."""

    def _changed(self, task: AgentTask, edit: Callable[[Body], Body | None]) -> AgentTask | None:
        body = self.objects.change(KIND, task.name, edit)
        return None if body is None else AgentTask.of(body)


def merged(body: Any, patch: Mapping[str, Any]) -> Body:
    """Return JSON with a merge patch applied (RFC 7386): `null` removes a key, mappings are merged."""
    result: Body = dict(body) if isinstance(body, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(result.get(key), value)
        else:
            result[key] = value
    return result


def _is(body: Mapping[str, Any], task: AgentTask) -> bool:
    return bool(body["metadata"]["uid"] == task.uid)


def _is_version(body: Mapping[str, Any], task: AgentTask) -> bool:
    return _is(body, task) and bool(body["metadata"]["resourceVersion"] == task.version)


def _with_conditions(body: Body, patch: Sequence[Mapping[str, Any]]) -> Body:
    """Apply the JSON patch of `conditions_patch`, which changes the status or its conditions."""
    status: Body = dict(body.get("status") or {})
    conditions = list(status.get("conditions") or ())
    for change in patch:
        path, value = change["path"], change["value"]
        if path == "/status":
            status, conditions = dict(value), list(value["conditions"])
        elif path == "/status/conditions":
            conditions = list(value)
        elif path == "/status/conditions/-":
            conditions.append(value)
        elif path.startswith("/status/conditions/"):
            conditions[int(path.rpartition("/")[2])] = value
    return {**body, "status": {**status, "conditions": conditions}}
