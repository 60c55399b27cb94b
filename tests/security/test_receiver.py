"""Wall: the receiver. A flood neither fills its memory nor delays authentic webhooks."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.fixtures.deliveries import encode, github_headers, github_issue
from tests.integration.receiver.test_shutdown import until

PROGRAM = """
from coding_agent_receiver.server import run
from tests.fixtures.deliveries import RecordingSink, settings
import logging, sys
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
run(settings(server={"host": "127.0.0.1", "port": 0}, rate_limit={"failed": "5/minute"}), RecordingSink())
"""
MEBI = 1024 * 1024
SECONDS = 5.0
"""In which every authentic webhook must be answered although the flood comes from the same event loop, on a
machine that other tests share; alone it takes less than 2."""


class Flooded:
    """A receiver in a process of its own."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.port = pid, port

    def resident(self, key: str = "VmRSS") -> int:
        """Bytes in memory; `VmHWM` is their peak."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    async def forged(self, size: int) -> None:
        """Send a body with a wrong signature, as fast as it is taken."""
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.head(size))
            chunk = bytes(64 * 1024)
            for _ in range(size // len(chunk)):
                writer.write(chunk)
                await writer.drain()
            await reader.read(100)
            writer.close()

    async def forged_in_turn(self, count: int) -> None:
        for _ in range(count):
            await self.forged(0)

    async def slow(self, size: int, seconds: float) -> None:
        """Announce a body, and send a byte of it now and then."""
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.head(size))
            for _ in range(int(seconds)):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)  # the pace of a slow sender
            writer.close()

    @staticmethod
    def head(size: int) -> bytes:
        headers = github_headers(b"") | {"Host": "x", "Content-Length": str(size)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /webhook/github HTTP/1.1\r\n{lines}\r\n".encode()


@pytest.fixture
async def flooded() -> AsyncIterator[Flooded]:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, limit=MEBI
    )
    reading = None
    try:
        port = int((await until(program.stdout, "listening on")).rpartition(":")[2])
        assert program.stdout
        reading = asyncio.create_task(program.stdout.read())
        yield Flooded(program.pid, port)
    finally:
        program.kill()
        await program.wait()
        if reading:
            await reading


@asynccontextmanager
async def authentic(port: int) -> AsyncIterator[list[tuple[int, float]]]:
    """Send 5 authentic webhooks a second meanwhile; their status codes and durations in seconds."""
    answers: list[tuple[int, float]] = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:

        async def send(number: int) -> None:
            body = encode(github_issue(number=number, body="x" * 12_000))
            start = time.monotonic()
            response = await http.post(
                "/webhook/github", content=body, headers=github_headers(body, delivery=f"d-{number}")
            )
            answers.append((response.status_code, time.monotonic() - start))

        async def keep_sending() -> None:
            async with asyncio.TaskGroup() as group:
                number = 1
                while not done.is_set():
                    group.create_task(send(number))
                    number += 1
                    with suppress(TimeoutError):
                        await asyncio.wait_for(done.wait(), 0.2)

        done = asyncio.Event()
        sending = asyncio.create_task(keep_sending())
        try:
            yield answers
        finally:
            done.set()
            await sending


@pytest.mark.parametrize("flood", ["64 of 9 MB", "30 of 24 MB", "slow senders", "wrong signatures"])
async def test_a_flood_neither_fills_the_memory_nor_delays_authentic_webhooks(
    flooded: Flooded, flood: str
) -> None:
    senders: dict[str, Callable[[], list[Awaitable[None]]]] = {
        "64 of 9 MB": lambda: [flooded.forged(9 * MEBI) for _ in range(64)],
        "30 of 24 MB": lambda: [flooded.forged(24 * MEBI) for _ in range(30)],
        "slow senders": lambda: [flooded.slow(100_000, 4) for _ in range(500)],
        "wrong signatures": lambda: [flooded.forged_in_turn(50) for _ in range(40)],
    }
    idle = flooded.resident()
    async with authentic(flooded.port) as answers:
        await asyncio.gather(*senders[flood]())
    peak = flooded.resident("VmHWM")
    slowest = max(seconds for _, seconds in answers)
    print(
        f"{flood}: {idle / MEBI:.0f} to {peak / MEBI:.0f} MiB, {len(answers)} answers within {slowest:.2f} s"
    )
    assert {status for status, _ in answers} == {200}
    assert slowest < SECONDS
    assert peak <= 1.2 * idle + 64 * MEBI
