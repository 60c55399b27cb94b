"""The interface of the store of AgentTasks: the API server of Kubernetes, or a file on one machine. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from coding_agent_core.task.agenttask import AgentTask, Condition, Event, Status
from coding_agent_core.task.model import Item
from coding_agent_core.task.objects import Stored


class TaskStore(Protocol):
    """The AgentTasks of one namespace, each with a version that every write changes.

    Reads are consistent: they show every write that was answered before. Every method except `emit` raises
    `ApiError` if the store refuses something or does not answer.

    Example:
        for task in await store.runs(item):
            await store.patch(task, {"spec": {"cancel": True}})
    """

    @property
    def namespace(self) -> str: ...

    async def list(self, labels: str, fields: str = "") -> tuple[list[AgentTask], int]:
        """Return the tasks that the selectors match, and the list's version."""
        ...

    def pages(self, fields: str, size: int) -> AsyncIterator[Sequence[AgentTask]]:
        """Yield the tasks page by page, so that memory does not grow with their number."""
        ...

    def watch(
        self, labels: str, fields: str, version: int, seconds: int
    ) -> AsyncIterator[tuple[str, AgentTask]]:
        """Yield the type and the task of each watch event after `version`, for some seconds."""
        ...

    async def runs(self, item: Item) -> Sequence[AgentTask]:
        """Return all runs of an item, and of any other item with the same hash."""
        ...

    async def get(self, name: str) -> AgentTask | None: ...

    async def newest(self, task: AgentTask) -> AgentTask | None:
        """Return the task's current version; `None` if it was deleted, even if a new task has its name."""
        ...

    async def probe(self) -> None:
        """Read one task, to check that the store can be used."""
        ...

    async def create(self, manifest: Mapping[str, Any]) -> AgentTask | None:
        """Create a task; `None` if its name is taken."""
        ...

    async def patch(self, task: AgentTask, patch: Mapping[str, Any]) -> AgentTask | None:
        """Apply a merge patch to exactly this version of a task; `None` if it has changed or is gone."""
        ...

    async def set_labels(self, task: AgentTask, labels: Mapping[str, str]) -> AgentTask | None:
        """Set labels of a task whatever its version; `None` if it is gone."""
        ...

    async def set_status(self, task: AgentTask, status: Status) -> AgentTask:
        """Replace the status of exactly this version of a task.

        Raises:
            ApiError: `conflict` if the task has changed; 404 if it is gone.
        """
        ...

    async def set_conditions(
        self, task: AgentTask, wanted: Sequence[Condition], now: datetime
    ) -> AgentTask | None:
        """Set conditions of a task, whoever else writes it; `None` if it is gone."""
        ...

    async def delete(self, task: AgentTask) -> bool:
        """Delete exactly this version of a task; return `False` if it has changed or is gone."""
        ...

    async def emit(self, event: Event, about: Stored, now: datetime, *, kind: str = ...) -> None:
        """Write an Event about a task, a Job or a pod. A failure is logged and not repeated."""
        ...

    async def renew(self) -> None:
        """Read the credentials again, because they were replaced or have expired."""
        ...

    async def aclose(self) -> None: ...
