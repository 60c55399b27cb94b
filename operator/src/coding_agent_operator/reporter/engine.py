"""The reporter's heart: which tasks are there, and whose lane each is in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.forge.pacing import Paced
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings

from coding_agent_operator.observed import Task, read_task
from coding_agent_operator.reporter.backlog import Rank
from coding_agent_operator.reporter.errors import NotConfiguredError
from coding_agent_operator.reporter.lane import Lane, Look
from coding_agent_operator.reporter.memory import Memory
from coding_agent_operator.reporter.mirror import Again, look
from coding_agent_operator.reporter.place import Place
from coding_agent_operator.store import Shelf

_logger = logging.getLogger("reporter.engine")

_TICK_S = 1.0
_SHARE_FOR_CHECKS = 0.25
"""Of the request rate: looks at items to which nothing happens take no more."""


class Engine:
    """Keeps the items of every task of a namespace true."""

    def __init__(
        self,
        tasks: AgentTasks,
        sink: TaskSink,
        forges: Mapping[str, tuple[Forge, Paced]],
        settings: Settings,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.tasks = tasks
        self.settings = settings.reporter
        self.seen: Shelf[Task] = Shelf(read_task)
        self.synced = asyncio.Event()
        self._clock = clock or (lambda: datetime.now(UTC))
        self._lanes = {
            host: self._lane(host, forge, pace, sink, settings) for host, (forge, pace) in forges.items()
        }
        self._nowhere = self._new_lane("", self._homeless, lambda: 0)

    def observe(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take a watch event; `kind` is its type, `None` in the initial list."""
        if kind == "DELETED":
            self.seen.unwatched(body)
            self._forget(body["metadata"]["name"], body["metadata"]["uid"])
        elif (task := self.seen.watched(body)) is not None:
            self._add(task)

    def take(self, bodies: list[dict[str, Any]], version: int) -> set[Any]:
        """Take a consistent list; the versions that the watch has not shown."""
        before = {task.name: task.uid for task in self.seen}
        changed, missed = self.seen.replace(bodies, version)
        for name in changed:
            task = self.seen.get(name)
            if task is None or task.uid != before.get(name, task.uid):
                self._forget(name, before[name])
            if task is not None:
                self._add(task)
        self.synced.set()
        return missed

    async def run(self) -> None:
        """Work until cancelled."""
        await self.synced.wait()
        async with asyncio.TaskGroup() as group:
            for lane in (*self._lanes.values(), self._nowhere):
                group.create_task(lane.run())
            group.create_task(self._tick_forever())

    async def _tick_forever(self) -> None:
        while True:
            for lane in self._lanes.values():
                lane.measure()
                try:
                    await lane.tell_of_absence()
                except ApiError as error:
                    _logger.warning("%s", error)
            await asyncio.sleep(_TICK_S)

    def _add(self, task: Task) -> None:
        self._lane_of(task).add(task, Rank.END if task.ended else Rank.CHANGE)

    def _forget(self, name: str, uid: str) -> None:
        for lane in (*self._lanes.values(), self._nowhere):
            lane.forget(name, uid)

    def _lane_of(self, task: Task) -> Lane:
        return self._lanes.get(task.spec.source.host.lower(), self._nowhere)

    def _new_lane(self, host: str, one: Look, answers: Callable[[], int]) -> Lane:
        return Lane(
            host,
            one,
            task=self.seen.get,
            tasks=self.tasks,
            settings=self.settings,
            clock=self._clock,
            answers=answers,
        )

    def _lane(self, host: str, forge: Forge, pace: Paced, sink: TaskSink, settings: Settings) -> Lane:
        place = Place(
            forge=forge,
            labels=settings.labels(forge.platform),
            tasks=self.tasks,
            sink=sink,
            settings=self.settings,
            clock=self._clock,
            monotonic=lambda: asyncio.get_running_loop().time(),
            check_interval=lambda: check_interval(
                self.settings.check_interval, self.settings.requests_per_second, len(lane)
            ),
        )

        async def one(task: Task, memory: Memory, rank: Rank) -> Again | None:
            return await look(place, task, memory, rank)

        lane = self._new_lane(host, one, lambda: pace.answers)
        return lane

    async def _homeless(self, task: Task, memory: Memory, rank: Rank) -> Again | None:
        known = ", ".join(sorted(self._lanes))
        raise NotConfiguredError(
            f"The item is on {task.spec.source.host}, which is not configured here; configured with a token: "
            f"{known}. See `{task.spec.source.platform}.api_url` and "
            f"`{task.spec.source.platform}.personal_access_token`."
        )


def check_interval(configured: float, requests_per_second: float, tasks: int) -> float:
    """Seconds between two looks at an item to which nothing happens: longer where there are many."""
    return max(configured, tasks / (requests_per_second * _SHARE_FOR_CHECKS))
