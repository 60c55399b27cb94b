"""Operator and reporter write the status of one task at the same time: neither loses the other's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest
from coding_agent_core.agenttask import AgentTask, Condition, Status
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer
from coding_agent_operator.cluster import Cluster
from coding_agent_operator.reporter.report import acknowledged, unreported

from tests.integration.operator_reporter.world import World

WRITES = 25


def number(task: AgentTask, kind: str) -> int:
    """The number in a condition's message, 0 if it is not there."""
    found = task.status.condition(kind)
    return int(found.message) if found is not None and found.message else 0


class Turns:
    """Makes the two meet: each writes what it has read before the other's last write.

    The operator's first try of a write waits until the reporter has written in between; the reporter writes
    when the operator waits for it, or has written itself.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._reporter_may = True
        self._reported = 0
        self._over = False

    async def operator_has_read(self) -> None:
        async with self._changed:
            seen, self._reporter_may = self._reported, True
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._reported > seen or self._over)

    async def operator_has_written(self) -> None:
        async with self._changed:
            self._reporter_may = True
            self._changed.notify_all()

    async def reporters(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._reporter_may)
            self._reporter_may = False

    async def reporter_has_written(self, *, last: bool) -> None:
        async with self._changed:
            self._reported += 1
            self._over = last
            self._changed.notify_all()


def status_of(task: AgentTask, count: int) -> Status:
    """The status as it was read, with a new condition of the operator's."""
    status = task.status
    mine = Condition(
        type="Succeeded",
        status="Unknown",
        reason="Running",
        message=str(count),
        last_transition_time=datetime.now(UTC),
    )
    kept = tuple(condition for condition in status.conditions if condition.type != "Succeeded")
    return status.model_copy(update={"conditions": (mine, *kept)})


@pytest.mark.parametrize("flavour", ["github"])
async def test_no_write_is_lost(world: World) -> None:
    name = world.task(world.issue())
    access, turns = Access(str(world.plane.kubeconfig)), Turns()
    refused = Counter[str]()
    done = {"Succeeded": 0, "Reported": 0}

    def seen_by(writer: str) -> Callable[[str, str], None]:
        return lambda method, status: refused.update([writer] if (method, status) == ("PATCH", "422") else [])

    async def operator(cluster: Cluster) -> None:
        for count in range(1, WRITES + 1):
            waits = True
            while True:
                other = done["Reported"]
                task = await cluster.tasks.get(name)
                assert task is not None
                assert number(task, "Reported") >= other
                if waits:
                    await turns.operator_has_read()
                    waits = False
                try:
                    written = await cluster.tasks.set_status(task, status_of(task, count))
                except ApiError as error:
                    if not error.conflict:
                        raise
                    continue
                assert number(written, "Reported") >= other
                done["Succeeded"] = count
                await turns.operator_has_written()
                break

    async def reporter(tasks: AgentTasks) -> None:
        task = await tasks.get(name)
        for count in range(1, WRITES + 1):
            await turns.reporters()
            other = done["Succeeded"]
            assert task is not None
            wanted = (unreported("ForgeUnavailable", str(count)), acknowledged(""))
            task = await tasks.set_conditions(task, wanted, datetime.now(UTC))
            assert task is not None
            assert number(task, "Succeeded") >= other
            done["Reported"] = count
            await turns.reporter_has_written(last=count == WRITES)

    async with AsyncExitStack() as stack:
        servers = []
        for entry in ("operator", "reporter"):
            server = await ApiServer.connect(access, 10, role="a test", on_answer=seen_by(entry))
            stack.push_async_callback(server.aclose)
            servers.append(server)
        async with asyncio.timeout(90), asyncio.TaskGroup() as both:
            both.create_task(operator(Cluster(servers[0], world.namespace)))
            both.create_task(reporter(AgentTasks(servers[1], world.namespace, "test")))
    task = AgentTask.of(world.read(name))
    assert (number(task, "Succeeded"), number(task, "Reported")) == (WRITES, WRITES)
    assert world.condition(name, "Acknowledged")["status"] == "True"
    assert min(refused["operator"], refused["reporter"]) > 0, "they did meet, and each was second"
