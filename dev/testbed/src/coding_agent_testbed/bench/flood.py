"""What a flood of large bodies with a wrong signature takes of the receiver's memory and of its time."""

from __future__ import annotations

import asyncio
import itertools

from coding_agent_core.settings.model import Backend

from coding_agent_testbed.bench import webhooks
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.load import Loads
from coding_agent_testbed.bench.receiver import receiver
from coding_agent_testbed.bench.result import Case, Measure, Result
from coding_agent_testbed.bench.world import World

_FLOODS = {"no flood": (0, 0), "64 bodies of 9 MB": (64, 9), "30 bodies of 24 MB": (30, 24)}
"""Bodies at a time, and their MB."""
_RATE = 5
"""Authentic webhooks a second meanwhile."""
_SECONDS = 6
_MEASURES = (
    Measure("peak_mib", "peak memory (MiB)"),
    Measure("slowest_ms", f"slowest of {_RATE} authentic webhooks/s (ms)", 0),
    Measure("refused", "authentic webhooks refused", 0),
)


async def run(world: World) -> Result:
    """Measure; the base has no flood."""
    loads, cases = Loads(world.folder), []
    seconds = world.size(_SECONDS, 1)
    for name, (at_once, megabytes) in _FLOODS.items():
        with receiver(world, Backend.SQLITE, name=f"flooded-{at_once}") as program:
            await program.ready()
            numbers = itertools.count(1)
            authentic = [webhooks.labeled(next(numbers), program.port) for _ in range(_RATE * seconds)]
            work = [loads.steadily(authentic, _RATE)]
            if at_once:
                forged = webhooks.forged(program.port, megabytes * 1_000_000)
                work.append(loads.repeatedly(forged, at_once, seconds))
            seen = (await asyncio.gather(*work))[0]
            values = {
                "peak_mib": program.peak_mib(),
                "slowest_ms": 1000 * max(seen.latencies, default=float("inf")),
                "refused": float(seen.others),
            }
        cases.append(Case(name, values))
    return Result(_MEASURES, tuple(cases))


BENCHMARK = Benchmark(
    name="flood",
    title="The receiver under a flood of bodies with a wrong signature",
    needs=frozenset(),
    limit=120.0,
    run=run,
)
