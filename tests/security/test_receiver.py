"""Wall: the receiver. A flood neither fills its memory nor delays authentic webhooks."""

import asyncio
import sys

import pytest

from tests.fixtures.flood import LARGE, MANY, SLOW, WRONG
from tests.fixtures.receiver_process import LARGE_EVERY, MEBI, ReceiverProcess, authentic, receiver_process

PROGRAM = """
from coding_agent_receiver.server import run
from tests.fixtures.deliveries import RecordingSink, settings
import logging, sys
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
run(settings(server={"host": "127.0.0.1", "port": 0}, rate_limit={"failed": "5/minute"}), RecordingSink())
"""
UNLIMITED = "import coding_agent_receiver.limits as limits; limits.LARGE_BODIES = 2**40" + PROGRAM


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


@pytest.mark.long
async def test_floods_neither_fill_the_memory_nor_delay_authentic_webhooks() -> None:
    async with receiver_process(PROGRAM) as receiver:
        idle = receiver.resident()
        async with authentic(receiver.port, rate=5) as sent:
            for kind, addresses in ((LARGE, 1), (SLOW, MANY), (WRONG, 1)):
                await flood(receiver, kind, addresses)
        peak = receiver.resident("VmHWM")
    assert len(sent) > LARGE_EVERY
    assert {answer.status for answer in sent} == {200}
    assert peak <= most(idle)


@pytest.mark.long
async def test_decoy_the_same_flood_fills_the_memory_of_a_receiver_without_the_limit() -> None:
    async with receiver_process(UNLIMITED) as receiver:
        idle = receiver.resident()
        await flood(receiver, LARGE)
        assert receiver.resident("VmHWM") > most(idle)
