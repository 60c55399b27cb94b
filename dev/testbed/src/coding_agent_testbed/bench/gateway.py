"""What the model gateway costs a request: the first byte and the CPU, against asking the provider itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
from coding_agent_consumer.gateway.gateway_server import open_gateway
from coding_agent_consumer.gateway.upstream import Upstream
from coding_agent_core.settings.llm import WireFormat

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.result import Case, Measure, Result, percentile
from coding_agent_testbed.bench.world import World

_EVENTS = 400
"""Of one answer: about as many as a model writes in a step."""
_EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "some words "}}]}\n\n'
_LAST = (
    b'data: {"choices": [], "usage": {"prompt_tokens": 20000, "completion_tokens": 1200}}\n\ndata: [DONE]\n\n'
)
_CONTEXT = 200_000
"""Characters of the conversation that each request sends."""
_COUNT_SECONDS = 60
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_MEASURES = (
    Measure("p50_ms", "first byte p50 (ms)", 2),
    Measure("p99_ms", "first byte p99 (ms)", 2),
    Measure("first_cpu_ms", "CPU to the first byte (ms)", 2),
    Measure("cpu_ms", "CPU for each request (ms)", 2),
)


async def run(world: World) -> Result:
    """Measure; the base is the provider itself. The two take turns, request by request.

    Client, gateway and provider share a process, so the CPU of the base is that of client and provider.
    """
    count = world.size(100, 5)
    body = json.dumps(
        {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "x" * 1_000} for _ in range(_CONTEXT // 1_000)],
        }
    ).encode()
    async with (
        _provider() as url,
        open_gateway([Upstream(WireFormat.OPENAI, url, "key")]) as gateway,
        httpx2.AsyncClient(timeout=60, trust_env=False) as client,
    ):
        headers = {"authorization": f"Bearer {gateway.credential}"}
        places = {"asking the provider": url, "through the gateway": f"{gateway.url}/v1"}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in places}
        for number in range(count + 1):
            for name, base in places.items():
                one = await _asked(client, f"{base}/chat/completions", headers, body)
                if number:  # the first opens the connections
                    found[name].append(one)
        async with asyncio.timeout(_COUNT_SECONDS):
            while gateway.usage.requests <= count:  # the last answer is counted after its last byte
                await asyncio.sleep(0)
    return Result(_MEASURES, tuple(_case(name, measured) for name, measured in found.items()))


async def _asked(
    client: httpx2.AsyncClient, url: str, headers: Mapping[str, str], body: bytes
) -> tuple[float, float, float]:
    """Seconds to the first byte, and seconds of CPU until the first and the last."""
    cpu, began, first, used = time.process_time(), time.perf_counter(), 0.0, 0.0
    async with client.stream("POST", url, headers=headers, content=body) as response:
        if response.status_code != 200:
            raise BenchError(f"{url} answered {response.status_code}")
        async for _ in response.aiter_raw():
            if not first:
                first, used = time.perf_counter(), time.process_time()
    return first - began, used - cpu, time.process_time() - cpu


@asynccontextmanager
async def _provider() -> AsyncIterator[str]:
    """The cheapest that streams: whatever is asked, the same answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                await reader.readexactly(length)
                writer.write(_HEAD)
                for part in (*[_EVENT] * _EVENTS, _LAST, b""):
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await writer.drain()
                    await asyncio.sleep(0)  # one by one, as a model writes them
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # also at the end of the program, where Python 3.11 would print a traceback
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2 * _CONTEXT)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _case(name: str, measured: list[tuple[float, float, float]]) -> Case:
    firsts, to_first, to_last = zip(*measured, strict=True)
    values = {f"p{p}_ms": 1000 * percentile(firsts, p) for p in (50, 99)}
    values["first_cpu_ms"] = 1000 * percentile(to_first, 50)
    values["cpu_ms"] = 1000 * percentile(to_last, 50)
    return Case(name, values)


BENCHMARK = Benchmark(
    name="gateway",
    title="One request to a model, 200 kB, and its answer as a stream of 400 events",
    needs=frozenset(),
    limit=180.0,
    run=run,
)
