"""What ended tasks cost the operator: start and memory in a namespace full of them and in an empty one.

They carry no label `active`, and the day on which they ended, so that the API server keeps them back, from
the sweep too. Both namespaces are in the same control plane and take turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.bench.agent_tasks import ended_task
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.etcd import restore
from coding_agent_testbed.bench.program import free_port, main_py
from coding_agent_testbed.bench.result import Measure, Result, median_case
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.until import until_async

_RESYNCS = 3
_SETTLE_SECONDS = 60.0
_MEASURES = (
    Measure("ready_seconds", "ready after (s)", 2),
    Measure("start_cpu_seconds", "CPU of the start (s)", 2),
    Measure("cpu_seconds", "CPU with a sweep (s)", 2),
    Measure("peak_mib", "peak memory (MiB)"),
)


@dataclass(frozen=True)
class _Place:
    namespace: str
    kubeconfig: Path
    ended: int


async def run(world: World) -> Result:
    """Measure; the base is the empty namespace."""
    count, rounds = world.size(10_000, 20), world.size(3, 1)
    places = [await asyncio.to_thread(_place, world, ended) for ended in (0, count)]
    await _fill(world, places[1])
    found: list[list[Mapping[str, float]]] = [[], []]
    for _ in range(rounds):
        for place, values in zip(places, found, strict=True):
            values.append(await _measure(world, place))
    names = ("no ended tasks", f"{count:,} ended tasks")
    return Result(_MEASURES, tuple(median_case(*name) for name in zip(names, found, strict=True)))


async def _fill(world: World, place: _Place) -> None:
    """Ended tasks; returns when the API server shows all of them."""
    tasks = (ended_task(place.namespace, number) for number in range(1, place.ended + 1))
    await asyncio.to_thread(restore, world.plane.etcd_url, place.namespace, tasks)

    async def all_shown() -> bool | None:
        # They are written past the API server, whose cache follows etcd.
        get = ("-n", place.namespace, "get", "agenttasks", "-o", "name")
        names = await asyncio.to_thread(world.plane.kubectl, *get)
        return names.count("\n") == place.ended or None

    await until_async(f"the API server shows {place.ended} ended tasks", all_shown, timeout=60, interval=1)


def _place(world: World, ended: int) -> _Place:
    namespace = world.plane.namespace()
    kubeconfig = world.plane.account(namespace, "operator/deploy/role.yaml", world.folder)
    return _Place(namespace, kubeconfig, ended)


async def _measure(world: World, place: _Place) -> Mapping[str, float]:
    port = free_port()
    development = {
        "http_host": "127.0.0.1",
        "http_port": port,
        "relist_interval": 0.5 if world.quick else 2.0,
    }
    program = main_py(
        "operator",
        folder=world.folder,
        port=port,
        settings={
            "operator": {"namespace": place.namespace, "lease_duration": 6},
            "development": development,
        },
        environment={"KUBECONFIG": str(place.kubeconfig)},
    )
    # A resync lists tasks and Jobs; the operator looks once for what to adopt, and once for what to delete.
    looks = 2 * _RESYNCS + 2
    began = time.monotonic()
    with program:
        await program.acts()
        ready, start_cpu = time.monotonic() - began, program.cpu_seconds()

        async def settled() -> bool:
            return await program.api_requests("GET") >= looks

        await until_async("a sweep and three resyncs", settled, timeout=_SETTLE_SECONDS, interval=0.2)
        return {
            "ready_seconds": ready,
            "start_cpu_seconds": start_cpu,
            "cpu_seconds": program.cpu_seconds(),
            "peak_mib": program.peak_mib(),
        }


BENCHMARK = Benchmark(
    name="ended-tasks",
    title="The operator, beside tasks that have ended",
    needs=frozenset({Part.PLANE}),
    limit=300.0,
    run=run,
)
