"""What a task costs at the forge, one task at a time and in a burst: what the sandbox forge has counted.

One at a time each state is shown before the next one comes. In a burst tasks change while the reporter cannot
keep up with its rate; states that are over by the time it comes to them are never written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from coding_agent_core.kubernetes.transport import ApiServer
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import Phase

from coding_agent_testbed.bench.agent_tasks import create, stand, task_body
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.plane import at_once, items_of, tasks_path
from coding_agent_testbed.bench.program import ROOT, Program, free_port, main_py
from coding_agent_testbed.bench.result import Case, Measure, Result
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.until import until_async

REPOSITORY = "acme/pricing"
_BOT, _PROCESSING, _DONE = "coding agent", "coding agent processing", "coding agent done"
_TOKEN = "bench-bot-token"
_SHOWN_SECONDS = 120.0
_RATE = {"forge_share": 7.5}
_CLOCKS = {"grace": 1.0, "check_interval": 3600.0}
"""A reporter's settings: ten times the usual rate, and less time for people to change their minds, because
otherwise it takes an hour."""


def seed() -> dict[str, Any]:
    """A forge with a person, the agent's account, and a repository."""
    return {
        "users": [
            {"login": "alice", "token": "bench-alice-token", "admin": True},
            {"login": "coding-agent-bot", "token": _TOKEN, "bot": True},
        ],
        "repositories": [
            {
                "owner": "acme",
                "name": "pricing",
                "files": str(ROOT / "dev" / "testbed" / "samples" / "pricing"),
                "roles": {"coding-agent-bot": "write"},
            }
        ],
    }


_MEASURES = (
    Measure("requests", "requests each", 2),
    Measure("reads", "reads", 2),
    Measure("writes", "writes", 2),
)


@dataclass(frozen=True)
class _Rig:
    namespace: str
    server: ApiServer
    forge: ForgeServer

    def issue(self) -> int:
        """A person opens an issue and labels it."""
        number = self.forge.open_issue(REPOSITORY, "A bug", "It is there.")
        self.forge.add_label(REPOSITORY, number, _BOT)
        return number

    async def task(self, number: int) -> str:
        """The issue's AgentTask."""
        host = host_of(self.forge.api_url)
        return await create(self.server, self.namespace, task_body(number, REPOSITORY, host))

    async def stand(self, name: str, phase: Phase) -> None:
        """The operator writes where it stands."""
        await stand(self.server, self.namespace, name, phase)


async def run(world: World) -> Result:
    """Measure; the base is one task at a time."""
    alone, burst = world.size(20, 1), world.size(200, 3)
    namespace = await asyncio.to_thread(world.plane.namespace)
    server = await world.plane.connect()
    try:
        with ForgeServer("github", seed(), world.folder / "forge") as forge:
            rig = _Rig(namespace, server, forge)
            with reporter_of(world, namespace, forge) as reporter:
                await reporter.ready()
                for _ in range(alone):
                    await _one(rig)
                await _reported(rig, alone)
                singly = _taken(rig, alone)
                await _many(rig, burst)
                await _reported(rig, burst)
                together = _taken(rig, burst)
    finally:
        await server.aclose()
    return Result(_MEASURES, (Case("one at a time", singly), Case(f"a burst of {burst}", together)))


def reporter_of(
    world: World,
    namespace: str,
    forge: ForgeServer,
    name: str = "reporter",
    sections: Mapping[str, Any] = MappingProxyType({}),
) -> Program:
    """The reporter of a namespace, with its own account and a forge.

    Args:
        sections: further settings.
    """
    port = free_port()
    kubeconfig = world.plane.account(namespace, "operator/deploy/reporter-role.yaml", world.folder)
    return main_py(
        "reporter",
        folder=world.folder,
        port=port,
        settings={
            forge.flavour.value: {"api_url": forge.api_url, "personal_access_token": _TOKEN},
            "operator": {"namespace": namespace},
            "reporter": _RATE,
            "development": {"http_host": "127.0.0.1", "http_port": port, **_CLOCKS},
            **sections,
        },
        environment={"KUBECONFIG": str(kubeconfig)},
        name=name,
    )


async def _one(rig: _Rig) -> None:
    """One task from its label to its end, each state shown before the next."""
    number = rig.issue()
    name = await rig.task(number)
    await rig.stand(name, Phase.QUEUED)
    item = rig.forge.item(REPOSITORY, number)

    async def commented() -> bool:
        return rig.forge.run(lambda: any(not comment.system for comment in item.comments))

    async def labeled(label: str) -> None:
        async def there() -> bool:
            return label in rig.forge.labels(REPOSITORY, number)

        await until_async(f"#{number} is labeled {label}", there, timeout=_SHOWN_SECONDS, interval=0.02)

    await until_async(f"#{number} is shown as waiting", commented, timeout=_SHOWN_SECONDS, interval=0.02)
    await rig.stand(name, Phase.RUNNING)
    await labeled(_PROCESSING)
    await rig.stand(name, Phase.SUCCEEDED)
    await labeled(_DONE)


async def _many(rig: _Rig, count: int) -> None:
    """So many tasks from their labels to their ends, as quickly as they can be written."""
    names: list[str] = []

    async def label(number: int) -> None:
        names.append(await rig.task(number))

    await at_once([rig.issue() for _ in range(count)], label)
    for phase in (Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED):
        await at_once(names, lambda name, to=phase: rig.stand(name, to))  # type: ignore[misc]


async def _reported(rig: _Rig, count: int) -> None:
    """Wait until the ends of all tasks are shown for good."""
    query = [("labelSelector", f"{agenttask.LABEL_REPORTED}!=true"), ("limit", "1")]

    async def shown() -> bool:
        return not items_of(await rig.server.request("GET", tasks_path(rig.namespace), query=query))

    await until_async(f"the ends of {count} tasks are shown", shown, timeout=_SHOWN_SECONDS, interval=0.1)


def _taken(rig: _Rig, count: int) -> Mapping[str, float]:
    """The requests that the forge has counted since the last look, for each task."""

    def take() -> list[str]:
        methods = [request.method for request in rig.forge.sandbox.requests]
        rig.forge.sandbox.requests.clear()
        return methods

    methods = rig.forge.run(take)
    reads = methods.count("GET")
    return {
        "requests": len(methods) / count,
        "reads": reads / count,
        "writes": (len(methods) - reads) / count,
    }


BENCHMARK = Benchmark(
    name="reporter",
    title="Requests to the forge for a task, from its label to its end",
    needs=frozenset({Part.PLANE}),
    limit=300.0,
    run=run,
)
