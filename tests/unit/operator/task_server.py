"""The API server as a model, for tests that let programs act on one item request by request."""

import types
from collections.abc import Generator, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Item

ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)


@types.coroutine
def others_act() -> Generator[None, None, None]:
    yield


class Server:
    """The API server as `AgentTasks` shows it: others act before each request, and before its answer."""

    namespace = "ns"

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
        self.stored: dict[str, dict[str, Any]] = {}
        self._version = 0

    def of_item(self) -> list[dict[str, Any]]:
        return list(self.stored.values())

    def tasks(self) -> list[AgentTask]:
        return [AgentTask.of(deepcopy(body)) for body in self.of_item()]

    def write(self, body: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.stored[body["metadata"]["name"]] = body
        return deepcopy(body)

    def add(self, body: dict[str, Any]) -> AgentTask:
        at = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        self._version += 1
        meta = {"uid": f"u{self._version}", "namespace": self.namespace, "creationTimestamp": at}
        metadata = {"labels": {}, **body["metadata"], **meta}
        return AgentTask.of(self.write({**body, "metadata": metadata}))

    async def runs(self, _: Item) -> Sequence[AgentTask]:
        await others_act()
        answer = self.tasks()
        await self.answer()
        return answer

    async def get(self, name: str) -> AgentTask | None:
        await others_act()
        return next((task for task in self.tasks() if task.name == name), None)

    async def create(self, body: Mapping[str, Any]) -> AgentTask | None:
        await others_act()
        answer = None if body["metadata"]["name"] in self.stored else self.add(deepcopy(dict(body)))
        await self.answer()
        return answer

    async def newest(self, read: AgentTask) -> AgentTask | None:
        found = await self.get(read.name)
        return found if found is not None and found.uid == read.uid else None

    async def patch(self, read: AgentTask, patch: Mapping[str, Any]) -> AgentTask | None:
        await others_act()
        body = self.stored.get(read.name)
        if body is None or body["metadata"]["resourceVersion"] != read.version:
            return None
        answer = AgentTask.of(self._merge(body, patch))
        await self.answer()
        return answer

    async def delete(self, read: AgentTask) -> bool:
        await others_act()
        body = self.stored.get(read.name)
        found = None if body is None else (body["metadata"]["uid"], body["metadata"]["resourceVersion"])
        if found != (read.uid, read.version):
            return False
        del self.stored[read.name]
        return True

    async def answer(self) -> None:
        """The answer is on its way."""
        await others_act()

    def _merge(self, body: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
        notes = (patch.get("metadata") or {}).get("annotations") or {}
        body = deepcopy(body)
        body["metadata"].setdefault("annotations", {}).update(notes)
        body["spec"].update(patch.get("spec") or {})
        return self.write(body)
