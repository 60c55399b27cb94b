"""What one list of all active tasks costs, which operator and reporter each read regularly.

Each task is a copy of one that the API server has stored, with its status and the fields that it manages. The
list is read in pages, as the programs do, and for comparison in one request, which must answer within the ten
seconds that a request may take.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.task.agenttask import LABEL_DEFAULTED, NOT_ENDED
from coding_agent_core.task.model import Phase, new_uuid

from coding_agent_testbed.bench.agent_tasks import create, stand, task_body
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.etcd import restore
from coding_agent_testbed.bench.plane import tasks_path
from coding_agent_testbed.bench.result import Case, Measure, Result, median_case
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.until import until_async

_SELECTED = f"{LABEL_DEFAULTED}=true"
_MEASURES = (
    Measure("requests", "requests", 0),
    Measure("mb", "MB"),
    Measure("seconds", "seconds", 2),
    Measure("longest", "longest request (s)", 2),
    Measure("whole", "as one request (s)", 2),
    Measure("cpu", "program CPU (s)", 2),
    Measure("plane", "API server + etcd CPU (s)", 2),
)


async def run(world: World) -> Result:
    """Measure; the base is what a namespace with many tasks costs."""
    rounds = world.size(5, 1)
    cases: list[Case] = []
    for count in (world.size(3_000, 20), world.size(10_000, 60), 0):
        namespace = await asyncio.to_thread(world.plane.namespace)
        server = await world.plane.connect()
        try:
            await _fill(world, server, namespace, count)
            found = [await _measure(server, namespace, world.plane.cpu_seconds) for _ in range(rounds)]
        finally:
            await server.aclose()
        cases.append(median_case(f"{count:,} active tasks", found))
    return Result(_MEASURES, tuple(cases))


async def _fill(world: World, server: ApiServer, namespace: str, count: int) -> None:
    """Put active tasks there; return when the API server lists all of them."""
    if not count:
        return
    name = await create(server, namespace, task_body(1, "octo/r1"))
    await stand(server, namespace, name, Phase.RUNNING)
    one = await server.request("GET", tasks_path(namespace, name))
    await asyncio.to_thread(restore, world.plane.etcd_url, namespace, _copies(one, count - 1))

    async def all_listed() -> bool:
        return len((await AgentTasks(server, namespace, "bench").list(_SELECTED, NOT_ENDED))[0]) == count

    # They are written past the API server, which refuses lists until its cache has followed etcd.
    await until_async(
        f"{count} tasks are listed", all_listed, timeout=120, interval=1.0, transient=(ApiError,)
    )


def _copies(one: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    metadata = {key: value for key, value in one["metadata"].items() if key != "resourceVersion"}
    for number in range(count):
        yield one | {"metadata": metadata | {"name": f"copy-{number}", "uid": new_uuid()}}


async def _measure(
    server: ApiServer, namespace: str, plane_seconds: Callable[[], float]
) -> Mapping[str, float]:
    path, query = tasks_path(namespace), [("labelSelector", _SELECTED), ("fieldSelector", NOT_ENDED)]
    began = time.perf_counter()
    whole = await server.request("GET", path, query=query)
    alone = time.perf_counter() - began
    size = len(json.dumps(whole, separators=(",", ":")).encode())
    del whole
    times: list[float] = []
    at = time.perf_counter()
    async for _ in server.pages(path, query, 500):
        times.append(time.perf_counter() - at)
        at = time.perf_counter()
    cpu, plane, began = time.process_time(), plane_seconds(), time.perf_counter()
    await AgentTasks(server, namespace, "bench").list(_SELECTED, NOT_ENDED)
    return {
        "requests": len(times),
        "mb": size / 1e6,
        "seconds": time.perf_counter() - began,
        "longest": max(times),
        "whole": alone,
        "cpu": time.process_time() - cpu,
        "plane": plane_seconds() - plane,
    }


BENCHMARK = Benchmark(
    name="relist",
    title="One list of all active tasks",
    needs=frozenset({Part.PLANE}),
    limit=300.0,
    run=run,
)
