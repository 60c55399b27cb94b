"""Measures what ended tasks cost the operator; not part of the tests. `pytest -s` with this file's path.

`ENDED` says how many (10,000 by default). Prints the seconds until the operator is ready and its memory,
without and with them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_core import agenttask
from kubernetes.aio import client, config

from tests.integration.operator.world import OperatorProcess, World, task_body

ENDED = int(os.environ.get("ENDED", "10000"))
STATUS = {
    "phase": "Succeeded",
    "reason": "Completed",
    "attempt": "1/3",
    "conditions": [
        {
            "type": "Succeeded",
            "status": "True",
            "reason": "Completed",
            "lastTransitionTime": "2100-01-01T00:00:00Z",
        }
    ],
    "attempts": [
        {
            "number": 1,
            "job": "j-1",
            "startTime": "2026-01-01T00:00:00Z",
            "outcome": "Succeeded",
            "reason": "Completed",
        }
    ],
}


async def create_ended(world: World, count: int) -> None:
    """Create tasks that ended, many at a time."""
    settings = client.Configuration()
    settings.client_session_kwargs = {"trust_env": False}
    await config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(world.plane.kubeconfig), client_configuration=settings, persist_config=False
    )
    place = (agenttask.GROUP, agenttask.VERSION, world.namespace, agenttask.PLURAL)
    numbers = iter(range(1, count + 1))
    async with client.ApiClient(configuration=settings) as api:
        custom = client.CustomObjectsApi(api)

        async def some() -> None:
            for number in numbers:
                body = task_body(number, repository=f"octo/r{number % 20}")
                del body["metadata"]["labels"][agenttask.LABEL_ACTIVE]
                name = body["metadata"]["name"]
                await custom.create_namespaced_custom_object(*place, body)
                await custom.patch_namespaced_custom_object_status(*place, name, {"status": STATUS})

        await asyncio.gather(*(some() for _ in range(32)))


def memory_mib(pid: int) -> float:
    """Resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def measure(world: World, operator: Callable[..., OperatorProcess]) -> tuple[float, float, float]:
    """Seconds until ready, MiB then, and MiB after a sweep and two resyncs."""
    begin = time.monotonic()
    process = operator(operator={"resync_interval": 5.0})
    world.until("ready", lambda: process.probe("/readyz")[0] == 200 or None, timeout=60)
    ready = time.monotonic() - begin
    early = memory_mib(process.pid)
    until = time.monotonic() + 15
    world.until("15 s", lambda: time.monotonic() > until or None, timeout=30)
    late = memory_mib(process.pid)
    process.stop()
    return ready, early, late


@pytest.mark.timeout(900)
async def test_ended_tasks_cost_nothing(world: World, operator: Callable[..., OperatorProcess]) -> None:
    without = await asyncio.to_thread(measure, world, operator)
    await create_ended(world, ENDED)
    with_them = await asyncio.to_thread(measure, world, operator)
    for label, (ready, early, late) in (("none", without), (f"{ENDED}", with_them)):
        print(
            f"ended tasks: {label:>6}  ready after {ready:.1f} s  {early:.0f} MiB  {late:.0f} MiB after 15 s"
        )
