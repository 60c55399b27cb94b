"""What each queue costs an accepted webhook: signed, verified, durable, answered.

Memory is the base: nothing but the receiver itself. The receivers take turns; one that has nothing to do
costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from coding_agent_core.settings.model import Backend

from coding_agent_bench import load, webhooks
from coding_agent_bench.benchmark import Benchmark
from coding_agent_bench.program import Program, free_port, main_py
from coding_agent_bench.result import Measure, Result, median_case, percentile
from coding_agent_bench.world import Part, World

_CONNECTIONS = 16
_ROUND_SECONDS = 8.0
_MEASURES = (
    Measure("per_second", "webhooks/s", 0),
    Measure("p50_ms", "p50 (ms)"),
    Measure("p99_ms", "p99 (ms)"),
    Measure("cpu_ms", "CPU each (ms)", 2),
)


async def run(world: World) -> Result:
    """Measure; the base is the in-memory queue."""
    count, warm, rounds = world.size(1000, 10), world.size(100, 2), world.size(3, 1)
    connections = world.size(_CONNECTIONS, 2)
    numbers = itertools.count(1)
    found: dict[Backend, list[Mapping[str, float]]] = {backend: [] for backend in Backend}

    async def load_of(receiver: Program, most: int) -> Mapping[str, float]:
        requests = [webhooks.labeled(next(numbers), receiver.port) for _ in range(most)]
        cpu = receiver.cpu_seconds()
        seen = await load.send(receiver.port, requests, connections, seconds=_ROUND_SECONDS)
        answered = len(seen.latencies)
        return {
            "per_second": answered / seen.seconds,
            "p50_ms": 1000 * percentile(seen.latencies, 50),
            "p99_ms": 1000 * percentile(seen.latencies, 99),
            "cpu_ms": 1000 * (receiver.cpu_seconds() - cpu) / answered,
        }

    with ExitStack() as stack:
        receivers = {backend: stack.enter_context(_receiver(world, backend)) for backend in Backend}
        await asyncio.gather(*(entry.ready() for entry in receivers.values()))
        for entry in receivers.values():
            await load_of(entry, warm)
        for _ in range(rounds):
            for backend, entry in receivers.items():
                found[backend].append(await load_of(entry, count))
    return Result(_MEASURES, tuple(median_case(backend.value, found[backend]) for backend in Backend))


def _receiver(world: World, backend: Backend) -> Program:
    port = free_port()
    name = f"receiver-{backend.value}"
    settings: dict[str, Any] = {
        "queue": {"backend": backend.value},
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            "github": {"secret": webhooks.SECRET},
        },
    }
    if backend is Backend.MEMORY:
        command = ["-m", "coding_agent_bench.memory_receiver", "{config}"]
        return Program(name, command, folder=world.folder, port=port, settings=settings, environment={})
    environment: dict[str, str] = {}
    if backend is Backend.RABBITMQ:
        broker = world.broker
        settings["rabbitmq"] = {"host": broker.host, "port": broker.port}
    else:
        namespace = world.plane.namespace()
        kubeconfig = world.plane.account(namespace, "receiver/deploy/role.yaml", world.folder)
        environment = {"KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": namespace}
    return main_py(
        "webhook", folder=world.folder, port=port, settings=settings, environment=environment, name=name
    )


BENCHMARK = Benchmark(
    name="receiver",
    title=f"Signed webhooks to the receiver, {_CONNECTIONS} at a time, by queue.backend",
    needs=frozenset({Part.PLANE, Part.BROKER}),
    limit=150.0,
    run=run,
)
