"""Wall: the receiver. A flood neither fills its memory nor delays authentic webhooks."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.fixtures.flood import KINDS, MANY
from tests.fixtures.receiver_process import LARGE_EVERY, MEBI, ReceiverProcess, authentic, receiver_process

PROGRAM = """
from coding_agent_receiver.server import run
from tests.fixtures.deliveries import RecordingSink, settings
import logging, sys
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
run(settings(server={"host": "127.0.0.1", "port": 0}, rate_limit={"failed": "5/minute"}), RecordingSink())
"""
UNLIMITED = "import coding_agent_receiver.limits as limits; limits.LARGE_BODIES = 2**40" + PROGRAM
SECONDS = 10.0
"""In which every authentic webhook must be answered: GitHub waits no longer."""


async def flood(receiver: ReceiverProcess, kind: str, addresses: int = 1) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fixtures.flood", str(receiver.port), kind, str(addresses))
    )
    try:
        assert await asyncio.wait_for(process.wait(), 120) == 0
    finally:
        if process.returncode is None:
            process.kill()


def most(idle: int) -> float:
    """Bytes that the receiver may take under a flood."""
    return 1.2 * idle + 64 * MEBI


@pytest.mark.parametrize("addresses", [1, pytest.param(MANY, marks=pytest.mark.long)], ids=["one", "many"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_neither_fills_the_memory_nor_delays_authentic_webhooks(
    kind: str, addresses: int
) -> None:
    async with receiver_process(PROGRAM) as receiver:
        idle = receiver.resident()
        async with authentic(receiver.port, rate=5) as sent:
            for _ in range(20):  # a fast machine may answer one flood before enough authentic ones were sent
                await flood(receiver, kind, addresses)
                if len(sent) > LARGE_EVERY:
                    break
        peak = receiver.resident("VmHWM")
    slowest = max(answer.seconds for answer in sent)
    memory = f"{idle / MEBI:.0f} to {peak / MEBI:.0f} MiB"
    print(f"{kind} from {addresses}: {memory}, {len(sent)} answers within {slowest:.2f} s")
    assert len(sent) > LARGE_EVERY
    assert {answer.status for answer in sent} == {200}
    assert slowest < SECONDS
    assert peak <= most(idle)


@pytest.mark.long
async def test_decoy_the_same_flood_fills_the_memory_of_a_receiver_without_the_limit() -> None:
    async with receiver_process(UNLIMITED) as receiver:
        idle = receiver.resident()
        await flood(receiver, "64 of 9 MB")
        assert receiver.resident("VmHWM") > most(idle)
