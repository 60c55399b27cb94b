"""The load sends every request once, and takes no other answer than a task queued for a measured one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from coding_agent_bench import load, webhooks
from coding_agent_bench.errors import BenchError

QUEUED = b'{"status":"success","task_queued":true,"task":"r1-issue-1"}'


@asynccontextmanager
async def answering(*answers: tuple[int, bytes]) -> AsyncIterator[tuple[int, Counter[bytes]]]:
    """A server that gives these answers in turn, the last one ever after; its port and what it got."""
    got: Counter[bytes] = Counter()
    rest = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                got[await reader.readexactly(length)] += 1
                status, body = rest.pop(0) if len(rest) > 1 else rest[0]
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


async def test_each_request_is_sent_once_and_has_its_latency() -> None:
    async with answering((200, QUEUED)) as (port, got):
        requests = [webhooks.labeled(number, port) for number in range(1, 41)]
        seen = await load.send(port, requests, connections=4)
    assert len(seen.latencies) == 40
    assert set(got.values()) == {1}
    assert len(got) == 40
    assert 0 < max(seen.latencies) <= seen.seconds


async def test_when_its_time_is_over_no_further_request_is_sent() -> None:
    async with answering((200, QUEUED)) as (port, got):
        requests = [webhooks.labeled(number, port) for number in range(1, 4)]
        seen = await load.send(port, requests, connections=1, seconds=0)
    assert seen.latencies == []
    assert not got


@pytest.mark.parametrize(
    "answer",
    [
        (503, b'{"status":"error","reason":"the queue cannot be reached"}'),
        (200, b'{"status":"duplicate","task":"r1-issue-1"}'),
        (200, b'{"status":"ignored","reason":"another label"}'),
    ],
)
async def test_another_answer_ends_the_measurement(answer: tuple[int, bytes]) -> None:
    async with answering((200, QUEUED), answer) as (port, _):
        requests = [webhooks.labeled(number, port) for number in range(1, 9)]
        with pytest.raises(BenchError, match=str(answer[0])):
            await load.send(port, requests, connections=2)


async def test_nobody_listening_is_said() -> None:
    async with answering((200, QUEUED)) as (port, _):
        pass
    with pytest.raises(BenchError, match="not answered"):
        await load.send(port, [b"x"], connections=1)
