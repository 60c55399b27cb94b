"""What a long queue costs a task that may start: from its creation to its Job, alone and among many.

Those who wait are of a repository whose limit is 0, so that each measured task starts at once. Its Job and
its pod come from the real controllers; in the kubelet's place the pod is said to have succeeded.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coding_agent_core.kubernetes.transport import MERGE_PATCH, ApiServer
from coding_agent_core.task import agenttask
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

from coding_agent_testbed.bench.agent_tasks import create, stored, task_body
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.etcd import restore
from coding_agent_testbed.bench.job_watch import JobWatch
from coding_agent_testbed.bench.plane import at_once, items_of, tasks_path
from coding_agent_testbed.bench.program import Program, free_port, main_py
from coding_agent_testbed.bench.result import Measure, Result, median_case, percentile
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.until import until_async

_WAITING = "octo/waiting"
_WAITING_LABEL = task_body(1, _WAITING)["metadata"]["labels"][agenttask.LABEL_REPOSITORY]
_WAITING_SELECTOR = ("labelSelector", f"{agenttask.LABEL_REPOSITORY}={_WAITING_LABEL}")
_END_SECONDS = 120.0
_MEASURES = (
    Measure("create_ms", "AgentTask created p50 (ms)"),
    Measure("p50_ms", "Job after p50 (ms)"),
    Measure("p99_ms", "p99 (ms)"),
    Measure("jobs_per_second", "Jobs/s in a burst"),
    Measure("api_requests", "API requests each"),
    Measure("cpu_ms", "operator CPU each (ms)"),
    Measure("plane_ms", "API server + etcd CPU each (ms)"),
    Measure("cpu_share", "operator CPU / API server + etcd CPU", 2),
)


@dataclass(frozen=True)
class _Rig:
    namespace: str
    server: ApiServer
    operator: Program
    jobs: JobWatch
    numbers: Iterator[int]


async def run(world: World) -> Result:
    """Measure; the base is a queue in which nobody waits. The two take turns."""
    waiting, rounds = world.size(1000, 20), world.size(2, 1)
    one_by_one, burst = world.size(20, 3), world.size(40, 3)
    namespace = await asyncio.to_thread(world.plane.namespace)
    found: list[list[Mapping[str, float]]] = [[], []]
    server = await world.plane.connect()
    try:
        with _operator(world, namespace) as operator:
            await operator.acts()
            async with JobWatch(world.plane, namespace) as jobs:
                rig = _Rig(namespace, server, operator, jobs, itertools.count(1))
                for _ in range(rounds):
                    found[0].append(await _measure(rig, one_by_one, burst, world.plane.cpu_seconds))
                    await _fill(rig, waiting, world.plane.etcd_url)
                    found[1].append(await _measure(rig, one_by_one, burst, world.plane.cpu_seconds))
                    await _empty(rig)
    finally:
        await server.aclose()
    names = ("nobody waits", f"{waiting:,} tasks wait")
    return Result(_MEASURES, tuple(median_case(*name) for name in zip(names, found, strict=True)))


def _operator(world: World, namespace: str) -> Program:
    port = free_port()
    kubeconfig = world.plane.account(namespace, "operator/deploy/role.yaml", world.folder)
    return main_py(
        "operator",
        folder=world.folder,
        port=port,
        settings={
            "operator": {"namespace": namespace},
            "development": {"http_host": "127.0.0.1", "http_port": port},
            "limits": {"global": 10_000, "per_repository": 10_000, "overrides": {_WAITING: 0}},
        },
        environment={"KUBECONFIG": str(kubeconfig)},
        name="operator-of-queue",
    )


async def _measure(
    rig: _Rig, one_by_one: int, burst: int, plane_seconds: Callable[[], float]
) -> Mapping[str, float]:
    requests, cpu, plane = await rig.operator.api_requests(), rig.operator.cpu_seconds(), plane_seconds()
    alone = [await _start(rig) for _ in range(one_by_one)]
    began = time.perf_counter()

    async def one(_: int) -> None:
        await _start(rig)

    await at_once(range(burst), one, most=burst)
    seconds = time.perf_counter() - began
    await _end_attempts(rig)
    count = one_by_one + burst
    cpu, plane = rig.operator.cpu_seconds() - cpu, plane_seconds() - plane
    return {
        "create_ms": 1000 * percentile([created for created, _ in alone], 50),
        "p50_ms": 1000 * percentile([started for _, started in alone], 50),
        "p99_ms": 1000 * percentile([started for _, started in alone], 99),
        "jobs_per_second": burst / seconds,
        "api_requests": (await rig.operator.api_requests() - requests) / count,
        "cpu_ms": 1000 * cpu / count,
        "plane_ms": 1000 * plane / count,
        "cpu_share": cpu / plane,
    }


async def _start(rig: _Rig) -> tuple[float, float]:
    """Create a task that may start at once; seconds until it is stored, and until its Job is there."""
    number = next(rig.numbers)
    body = task_body(number, f"octo/r{number % 20}")
    began = time.perf_counter()
    name = await create(rig.server, rig.namespace, body)
    created = time.perf_counter() - began
    return created, await rig.jobs.appeared(f"{name}-1") - began


async def _fill(rig: _Rig, count: int, etcd_url: str) -> None:
    """Tasks that may not start; returns when each is told its place."""
    bodies = (stored(rig.namespace, task_body(next(rig.numbers), _WAITING)) for _ in range(count))
    await asyncio.to_thread(restore, etcd_url, rig.namespace, bodies)

    async def all_wait() -> bool:
        query = [("fieldSelector", "status.phase=Queued"), _WAITING_SELECTOR, ("limit", str(count))]
        return len(items_of(await rig.server.request("GET", tasks_path(rig.namespace), query=query))) == count

    await until_async(f"{count} tasks wait", all_wait, timeout=_END_SECONDS, interval=2.0)


async def _empty(rig: _Rig) -> None:
    """Those who wait are gone."""
    await rig.server.request("DELETE", tasks_path(rig.namespace), query=[_WAITING_SELECTOR])


async def _end_attempts(rig: _Rig) -> None:
    """Every attempt succeeds; returns when the operator has recorded it and lets go of the tasks."""
    pods = f"/api/v1/namespaces/{rig.namespace}/pods"
    selector = f"{agenttask.LABEL_REPOSITORY}!={_WAITING_LABEL}"
    jobs = f"/apis/batch/v1/namespaces/{rig.namespace}/jobs"

    async def succeed(pod: dict[str, Any]) -> None:
        path = f"{pods}/{pod['metadata']['name']}/status"
        await rig.server.request("PATCH", path, body={"status": _succeeded()}, kind=MERGE_PATCH)

    async def ended() -> bool:
        pending = await rig.server.request("GET", pods, query=[("fieldSelector", "status.phase=Pending")])
        await at_once(items_of(pending), succeed)
        query = [("labelSelector", selector), ("fieldSelector", agenttask.NOT_ENDED), ("limit", "1")]
        if items_of(await rig.server.request("GET", tasks_path(rig.namespace), query=query)):
            return False
        query = [("labelSelector", f"{agenttask.LABEL_ACTIVE}=true"), ("limit", "1")]
        return not items_of(await rig.server.request("GET", jobs, query=query))

    await until_async("all attempts have ended", ended, timeout=_END_SECONDS, interval=0.5)


def _succeeded() -> dict[str, Any]:
    outcome = Outcome(reason=Reason.COMPLETED, message="done")
    state = {"exitCode": outcome.exit_code.value, "message": outcome.to_termination_message()}
    container = {"name": "agent", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "phase": "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": {**state, "reason": "Completed"}}}],
    }


BENCHMARK = Benchmark(
    name="operator",
    title="From an AgentTask to its Job",
    needs=frozenset({Part.PLANE}),
    limit=300.0,
    run=run,
)
