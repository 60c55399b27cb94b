"""Sends prepared HTTP requests over connections that stay open, each as soon as the one before was answered.

As thin as can be: it shares the machine's cores with the server that it measures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from coding_agent_bench.errors import BenchError

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """What a load has shown.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds from each request to its answer.
    """

    seconds: float
    latencies: list[float]


async def send(port: int, requests: Sequence[bytes], connections: int, *, seconds: float = math.inf) -> Load:
    """Send all of them, so many at a time; after `seconds` no further ones.

    Raises:
        BenchError: one is answered otherwise than with a task queued, or not in time.
    """
    rest = iter(requests)
    latencies: list[float] = []

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for request in itertools.takewhile(lambda _: time.perf_counter() < end, rest):
                began = time.perf_counter()
                writer.write(request)
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await _answer(reader)
                latencies.append(time.perf_counter() - began)
        finally:
            writer.close()

    began = time.perf_counter()
    end = began + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(one_connection())
    except* (OSError, asyncio.IncompleteReadError) as errors:
        raise BenchError(f"a webhook was not answered: {errors.exceptions[0]!r}") from errors
    except* BenchError as errors:
        raise errors.exceptions[0] from None
    return Load(time.perf_counter() - began, latencies)


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    body = await reader.readexactly(int(length))
    status = head.split(b" ", 2)[1]
    if status != b"200" or json.loads(body).get("status") != "success":
        raise BenchError(f"a webhook was answered {status.decode()} {body[:300].decode(errors='replace')}")
