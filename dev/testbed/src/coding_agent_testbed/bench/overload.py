"""How a receiver answers more new items than two busy cores can store, and withdrawals among them."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from coding_agent_core.settings.model import Backend

from coding_agent_testbed.bench import webhooks
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.load import Load, Loads
from coding_agent_testbed.bench.receiver import receiver
from coding_agent_testbed.bench.result import Measure, Result, median_case, percentile
from coding_agent_testbed.bench.world import Part, World

_RATE, _SECONDS = 200, 6
"""New items a second, and for how long."""
_CLOSED, _CLOSED_RATE = 200, 25
"""How many of them are closed, while the others still arrive, and how many a second."""
_CASES = {"the receiver alone": 0, "two busy processes": 2}
_MEASURES = (
    Measure("p50_ms", f"p50 at {_RATE}/s (ms)"),
    Measure("p99_ms", f"p99 at {_RATE}/s (ms)"),
    Measure("refused_percent", "labels refused (%)"),
    Measure("closed_p99_ms", "p99 of the closes (ms)"),
    Measure("closed_refused", f"of {_CLOSED} closes refused", 0),
)


async def run(world: World) -> Result:
    """Measure; the base has the machine for itself."""
    loads, numbers = Loads(world.folder), itertools.count(1)
    rate, closed_rate = world.size(_RATE, 20), world.size(_CLOSED_RATE, 5)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _CASES}
    with receiver(world, Backend.KUBERNETES, name="overloaded") as program:
        await program.ready()
        warm = [webhooks.labeled(next(numbers), program.port) for _ in range(world.size(200, 2))]
        await loads.at_once(warm, 16)
        for _ in range(world.size(3, 1)):
            for name, busy in _CASES.items():
                new = [next(numbers) for _ in range(rate * world.size(_SECONDS, 1))]
                labels = [webhooks.labeled(number, program.port) for number in new]
                closes = [webhooks.closed(number, program.port) for number in new[: world.size(_CLOSED, 5)]]
                async with _busy(busy):
                    labeled, closed = await asyncio.gather(
                        loads.steadily(labels, rate), _later(loads.steadily(closes, closed_rate))
                    )
                found[name].append(
                    {
                        "p50_ms": 1000 * percentile(labeled.latencies or [float("inf")], 50),
                        "p99_ms": 1000 * percentile(labeled.latencies or [float("inf")], 99),
                        "refused_percent": 100 * labeled.others / len(labels),
                        "closed_p99_ms": 1000 * percentile(closed.latencies or [float("inf")], 99),
                        "closed_refused": float(closed.others),
                    }
                )
    return Result(_MEASURES, tuple(median_case(name, values) for name, values in found.items()))


async def _later(load: Awaitable[Load]) -> Load:
    """Send a load after the first labels. Some of these may still wait, as in a burst of a forge."""
    await asyncio.sleep(1.0)
    return await load


@asynccontextmanager
async def _busy(processes: int) -> AsyncIterator[None]:
    """Have so many processes that only use processor time."""
    running = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            await process.wait()


BENCHMARK = Benchmark(
    name="overload",
    title="More new items than two busy cores can store, and withdrawals among them",
    needs=frozenset({Part.PLANE}),
    limit=240.0,
    run=run,
)
