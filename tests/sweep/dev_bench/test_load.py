"""The load sends every request once, and counts what is not answered as expected."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from coding_agent_bench import load, webhooks
from coding_agent_bench.errors import BenchError
from coding_agent_bench.load import Loads


@asynccontextmanager
async def answering(*statuses: int) -> AsyncIterator[tuple[int, Counter[bytes]]]:
    """A server that gives these answers in turn, the last one ever after; its port and what it got."""
    got: Counter[bytes] = Counter()
    rest = list(statuses)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                got[await reader.readexactly(length)] += 1
                status = rest.pop(0) if len(rest) > 1 else rest[0]
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


async def test_each_request_is_sent_once_and_has_its_latency(tmp_path: Path) -> None:
    async with answering(200) as (port, got):
        requests = [webhooks.labeled(number, port) for number in range(1, 41)]
        seen = await Loads(tmp_path).at_once(requests, 4)
    assert len(seen.latencies) == 40
    assert got == Counter(request.body for request in requests)
    assert 0 < max(seen.latencies) <= seen.seconds + 1e-5
    assert not list(tmp_path.iterdir())


async def test_a_steady_load_goes_on_beside_unexpected_answers(tmp_path: Path) -> None:
    async with answering(200, 503, 200) as (port, got):
        requests = [webhooks.labeled(number, port) for number in range(1, 11)]
        seen = await Loads(tmp_path).steadily(requests, 10)
    assert len(seen.latencies) == 9
    assert seen.others == 1
    assert len(got) == 10
    # A first request that is late shortens it: the others keep to the time of the start.
    assert seen.seconds > 9 / 10 / 2, "not at once; how much slower is the machine's affair"


async def test_another_answer_ends_the_measurement(tmp_path: Path) -> None:
    async with answering(200, 503, 200) as (port, _):
        requests = [webhooks.labeled(number, port) for number in range(1, 9)]
        with pytest.raises(BenchError, match="1 of 8 requests were not answered 200"):
            await Loads(tmp_path).at_once(requests, 2)


def test_the_seconds_of_a_load_count_over_midnight() -> None:
    hits = [
        {"timestamp": "2026-01-01T23:59:59.900000000Z", "latency": 50_000_000, "code": 200},
        {"timestamp": "2026-01-02T00:00:00.100000001Z", "latency": 50_000_000, "code": 200},
    ]
    assert load._load(hits, frozenset({200})).seconds == pytest.approx(0.25)
