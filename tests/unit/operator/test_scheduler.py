"""Which tasks a pass of the scheduler grants a start, from what the caches show then."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_operator.cluster.controller import Controller, NamespacedName, ObjectCache
from coding_agent_operator.cluster.namespace_objects import NamespaceObjects
from coding_agent_operator.cluster.observed import Job
from coding_agent_operator.scheduling.scheduler import Scheduler

from tests.unit.operator.making import NOW, task_body

PLACE = "agents"


class Queue:
    """The names that the scheduler queues."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.added = asyncio.Event()

    def add(self, key: NamespacedName, *, urgent: bool = False) -> None:
        self.names.add(key.name)
        self.added.set()

    async def until(self, name: str) -> None:
        async with asyncio.timeout(60):
            while name not in self.names:
                self.added.clear()
                await self.added.wait()


def stored(name: str, number: int, **spec: Any) -> AgentTask:
    body = task_body(number, uid=f"uid-{name}", **spec)
    body["metadata"] |= {"name": name, "namespace": PLACE}
    return AgentTask.of(body)


def test_a_task_that_a_watch_shows_gone_before_its_end_is_recorded_is_remembered() -> None:
    """Found by CI: the unread run of the same item looked like the item's only task, and started."""

    async def scenario() -> None:
        queue, tasks, jobs = Queue(), ObjectCache[AgentTask](), ObjectCache[Job]()
        listed = asyncio.Event()
        listed.set()
        pods = SimpleNamespace(running=[], listed=listed)
        objects = NamespaceObjects(cast(Any, SimpleNamespace(namespace=PLACE)), tasks, jobs, cast(Any, pods))
        controller = SimpleNamespace(queue=queue, retries_later=lambda key: False)
        scheduler = Scheduler(objects, Settings(), controller=cast(Controller, controller), now=lambda: NOW)
        other, unread = stored("by-hand-7", 7, suspend=True), stored("issue-7", 7)
        tasks.put(other)
        tasks.put(unread)
        running = asyncio.create_task(scheduler.run(listed))
        scheduler.changed()
        await queue.until("issue-7")
        assert not scheduler.decision("issue-7", None).start

        queue.names.clear()
        tasks.remove(other)
        tasks.put(stored("issue-9", 9))
        scheduler.changed()
        await queue.until("issue-9")
        assert scheduler.decision("issue-9", None).start
        assert not scheduler.decision("issue-7", None).start
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
