"""What a program in the workspace can do to the gateway with bytes of its own choice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.gateway.gateway_server import LIMITS, open_gateway
from coding_agent_consumer.gateway.upstream import Upstream
from coding_agent_core.settings.llm import WireFormat
from coding_agent_testbed.until import until_async

from tests.integration.consumer_gateway.provider import Play, Provider, Received, answer, provider

BODY = b'{"model": "m", "messages": []}'
_DEADLINE = 60


@asynccontextmanager
async def _opened(play: Play, **limits: float) -> AsyncIterator[tuple[Gateway, Provider]]:
    async with (
        provider(play) as upstream,
        open_gateway(
            [Upstream(WireFormat.OPENAI, f"{upstream.base_url}/v1", "key")],
            limits=replace(LIMITS, **limits),  # type: ignore[arg-type]
        ) as gateway,
    ):
        yield gateway, upstream


async def _connected(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))


async def _said(gateway: Gateway, text: bytes) -> bytes:
    """What the gateway answers until it closes the connection."""
    reader, writer = await _connected(gateway)
    async with asyncio.timeout(_DEADLINE):
        writer.write(text.replace(b"@", gateway.credential.encode()))
        return await _rest(reader)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


_AUTH = b"Host: gateway\r\nAuthorization: Bearer @\r\nConnection: close\r\n"
_LENGTH = b"Content-Length: %d\r\n" % len(BODY)
_GET = b"GET /v1/models HTTP/1.1\r\n" + _AUTH
_POST = b"POST /v1/responses HTTP/1.1\r\n" + _AUTH
_VERSION = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
_LINES = (
    *("CONNECT evil.example.com:443", "OPTIONS *", "TRACE /v1/models", "GET //v1/models"),
    *("GET //evil.example.com/v1/models", "POST evil.example.com/v1/responses", "GET /v1/models/../files"),
    *("GET /v1/models/%2e%2e/files", "GET /v1/models/..%2f..%2ffiles", "GET /v1/models/a%0d%0aX:1"),
    "GET http://evil.example.com/",
)
REFUSED = {
    **{line: line.encode() + b" HTTP/1.1\r\n" + _AUTH + b"\r\n" for line in _LINES},
    "an upgrade": _GET.replace(b"models", b"responses").replace(b"close", b"Upgrade")
    + b"Upgrade: websocket\r\n"
    + _VERSION
    + b"\r\n\x81\x05hello",
    "two lengths": _POST + _LENGTH + b"Content-Length: 0\r\n\r\n" + BODY,
    "a length and chunks": _POST + _LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": _GET + b"X-A: 1\r\n Host: evil\r\n\r\n",
    "a space before the colon": _GET + b"X-A : 1\r\n\r\n",
    "a control character": _GET + b"X-A: a\x00b\r\n\r\n",
    "a header in another character set": _GET + b"X-A: \xfc\r\n\r\n",
    "a credential beyond latin-1": _GET.split(b"Host")[0] + b"X-Api-Key: \xe2\x82\xac\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
async def test_nothing_of_it_reaches_the_provider(text: bytes) -> None:
    async with _opened(answer(200, b"{}"), head_time=0.2, keep_alive=1) as (gateway, upstream):
        said = await _said(gateway, text)
        status = said.partition(b"\r\n")[0]
        assert status == b"" or status.startswith(b"HTTP/1.1 4"), status
        assert upstream.requests == []


async def test_the_host_of_an_absolute_url_says_nothing() -> None:
    async with _opened(answer(200, b"{}")) as (gateway, upstream):
        said = await _said(gateway, b"GET http://evil.example.com/v1/models HTTP/1.1\r\n" + _AUTH + b"\r\n")
        assert said.startswith(b"HTTP/1.1 200 ")
        [received] = upstream.requests
        assert received.line.startswith("GET /v1/models ")
        assert received.headers["host"] == upstream.base_url.removeprefix("http://")


async def test_a_request_in_the_body_of_another_is_only_a_body() -> None:
    inner = b"GET /v1/models HTTP/1.1\r\n" + _AUTH + b"X-Inner: 1\r\n\r\n"
    async with _opened(answer(200, b"{}")) as (gateway, upstream):
        inner = inner.replace(b"@", gateway.credential.encode())
        head = b"POST /v1/responses/input_tokens HTTP/1.1\r\n" + _AUTH
        said = await _said(gateway, head + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)
        assert said.count(b"HTTP/1.1 ") == 1
        assert upstream.requests == [], "the body is not JSON, and the inner request was not read"


async def test_a_head_that_does_not_end_is_cut_off() -> None:
    async with _opened(answer(200, b"{}")) as (gateway, _):
        reader, writer = await _connected(gateway)
        writer.write(b"GET /v1/models HTTP/1.1\r\n")

        async def write() -> None:
            while True:
                writer.write(b"X-A: 1\r\n" * 1_000)
                await writer.drain()

        async with asyncio.timeout(_DEADLINE):
            with pytest.raises(ConnectionError):
                await write()
            await _rest(reader)


SLOW = {
    "nothing": b"",
    "half a head": b"GET /v1/models HTTP/1.1\r\nX-Slow:",
    "half a second head": b"GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\nGET /v1",
    "a refused body": b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000\r\n\r\nno",
}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
async def test_a_client_that_says_nothing_more_is_cut_off(start: bytes) -> None:
    async with _opened(answer(200, b"{}"), head_time=0.2, keep_alive=1) as (gateway, _):
        reader, writer = await _connected(gateway)
        writer.write(start)
        async with asyncio.timeout(_DEADLINE):
            await _rest(reader)


async def test_idle_connections_do_not_keep_the_next_client_out() -> None:
    async with (
        _opened(answer(200, b"{}"), connections=3, connections_of_address=3) as (gateway, _),
        asyncio.timeout(_DEADLINE),
    ):
        held = [await _connected(gateway) for _ in range(9)]
        assert (await _said(gateway, b"GET /v1/models HTTP/1.1\r\n" + _AUTH + b"\r\n")).startswith(
            b"HTTP/1.1 200 "
        )
        for reader, _ in held[:6]:
            assert await _rest(reader) == b"", "only three connections are kept"
        for _, writer in held:
            writer.close()


async def test_requests_under_way_are_not_ended_for_the_next_client() -> None:
    waits, go = asyncio.Event(), asyncio.Event()

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        waits.set()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    request = b"GET /v1/models HTTP/1.1\r\n" + _AUTH + b"\r\n"
    async with (
        _opened(play, connections=1, connections_of_address=1) as (gateway, _),
        asyncio.timeout(_DEADLINE),
    ):
        first = asyncio.create_task(_said(gateway, request))
        await waits.wait()
        assert await _said(gateway, request) == b""
        go.set()
        assert (await first).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_does_not_read_is_counted_as_one_that_went_away() -> None:
    event = b'data: {"choices": [{"delta": {"content": "' + b"x" * 60_000 + b'"}}]}\n\n'
    last = b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 30}}\n\n'

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for part in (*[event] * 300, last):  # more than all buffers on the way take
            writer.write(part)
            await writer.drain()

    async with _opened(play, read_time=0.2) as (gateway, _):
        _, writer = await _connected(gateway)
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + _AUTH + _LENGTH + b"\r\n"
        writer.write(head.replace(b"@", gateway.credential.encode()) + BODY)
        await until_async("the request is counted", lambda: gateway.usage.requests)
        assert (gateway.usage.input_tokens, gateway.usage.output_tokens) == (5, 30)
        writer.close()


async def test_a_trailer_is_not_a_header() -> None:

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        writer.write(b"2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n")
        await writer.drain()

    async with _opened(play) as (gateway, upstream):
        start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n"
        body = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
        close = b"Connection: close\r\n\r\n"
        late = await _said(gateway, start + close + body + b"Authorization: Bearer @\r\n\r\n")
        assert late.startswith(b"HTTP/1.1 401 ")
        assert upstream.requests == []
        head = start + b"Authorization: Bearer @\r\nConnection: close\r\n\r\n"
        trailers = b"X-App: late\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\n\r\n"
        said = await _said(gateway, head + body + trailers)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"x-late" not in said.lower()
        assert "x-app" not in upstream.requests[0].headers


async def test_a_body_of_very_many_values_is_refused_before_it_costs_anything() -> None:
    async with _opened(answer(200, b"{}")) as (gateway, upstream), asyncio.timeout(_DEADLINE):
        body = b'{"model": "m", "messages": [' + b'{"a":1},' * (1024 * 1024) + b"0]}"
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + _AUTH + b"Content-Length: %d\r\n\r\n" % len(body)
        said = await _said(gateway, head + body)
        assert said.startswith(b"HTTP/1.1 413 ")
        assert upstream.requests == []
