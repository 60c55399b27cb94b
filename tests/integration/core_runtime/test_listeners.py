"""Clients that send too much, too slowly or too often to any of our servers: each stays within its limits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.gateway import gateway_server
from coding_agent_consumer.gateway.gateway_server import open_gateway
from coding_agent_consumer.gateway.upstream import Upstream
from coding_agent_core.runtime.http_server import PAGE_LIMITS, ClientLimits, listen, metrics_served, serve
from coding_agent_core.runtime.metrics import metrics_page
from coding_agent_core.settings.llm import WireFormat
from coding_agent_forges.github.app_settings import App
from coding_agent_forges.github.settings import GitHub
from coding_agent_operator.cluster.watching import probes_served
from coding_agent_receiver import server as receiver_server
from coding_agent_tokens import __main__ as tokens_program
from coding_agent_user_config.__main__ import LIMITS as USER_CONFIG_LIMITS
from coding_agent_user_config.__main__ import ApiKey, user_config_app
from prometheus_client import CollectorRegistry

from tests.fixtures.deliveries import RecordingSink, settings
from tests.fixtures.github_app import key_pair
from tests.fixtures.receiver import receiving
from tests.fixtures.token_service import service_for

DEADLINE = 120
MEBI = 1024 * 1024
SENT = 16 * MEBI
"""Bytes that a client tries to send, far more than any limit and all buffers on the way."""
Listener = Callable[..., contextlib.AbstractAsyncContextManager[int]]


@asynccontextmanager
async def app_served(app: Any, limits: ClientLimits) -> AsyncIterator[int]:
    listener, stop = listen("127.0.0.1", 0), asyncio.Event()
    port = listener.getsockname()[1]
    serving = asyncio.create_task(serve(app, listener, stop, limits))
    try:
        yield port
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def open_listener(name: str, folder: Path, log: Any, **changed: Any) -> AsyncIterator[int]:
    """Open a server with its own limits, but for those that the test changes. Give its port."""
    async with AsyncExitStack() as stack:
        match name:
            case "receiver":
                limits = replace(receiver_server.LIMITS, **changed)
                running = await stack.enter_async_context(
                    receiving(settings(), RecordingSink(), limits=limits)
                )
                yield running.port
            case "gateway":
                upstream = Upstream(WireFormat.OPENAI, "http://127.0.0.1:9/v1", "key")
                limits = replace(gateway_server.LIMITS, **changed)
                gateway = await stack.enter_async_context(open_gateway([upstream], limits=limits))
                yield int(gateway.url.rpartition(":")[2])
            case "tokens":
                key = folder / "key.pem"
                key.write_text(key_pair()[0])
                app = service_for(GitHub(app=App(app_id=1, private_key_file=key)))
                limits = replace(tokens_program.LIMITS, **changed)
                yield await stack.enter_async_context(app_served(app, limits))
            case "user-config":
                limits = replace(USER_CONFIG_LIMITS, **changed)
                app = user_config_app(folder, ApiKey("key"))
                yield await stack.enter_async_context(app_served(app, limits))
            case "metrics" | "probes":
                log.set_level("INFO")
                limits = replace(PAGE_LIMITS, **changed)
                page = metrics_page(CollectorRegistry())
                await stack.enter_async_context(
                    metrics_served("127.0.0.1", 0, page, limits)
                    if name == "metrics"
                    else probes_served("127.0.0.1", 0, alive=lambda: None, ready=lambda: None, limits=limits)
                )
                [line] = [message for message in log.messages if message.endswith(tuple("0123456789"))]
                yield int(line.rpartition(" ")[2])


@pytest.fixture(params=["receiver", "gateway", "tokens", "user-config", "metrics", "probes"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Listener:
    return lambda **changed: open_listener(request.param, tmp_path, caplog, **changed)


async def until_closed(port: int, start: bytes, part: bytes = b"") -> int:
    """Send a start, then the part over and over, until the server closes. Return how many bytes it took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = len(start)
    closed = asyncio.create_task(reader.read())
    try:
        async with asyncio.timeout(DEADLINE):
            writer.write(start)
            while part and sent < SENT and not closed.done():
                writer.write(part)
                await writer.drain()
                sent += len(part)
            if not part:
                await closed
    except ConnectionError:
        pass
    finally:
        closed.cancel()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await closed
        writer.close()
    return sent


async def assert_answers(port: int) -> None:
    """Whatever other clients do, a client that asks properly is answered."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()


POST = b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=00\r\n"
ENDLESS = {
    "a header": (b"GET /livez HTTP/1.1\r\nX-Endless: ", b"a" * 16_384),
    "headers": (b"GET /livez HTTP/1.1\r\n", b"a:\r\n" * 4_096),
    "a path": (b"GET /", b"a" * 16_384),
    "empty lines": (b"", b"\r\n" * 8_192),
    "a trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Endless: ", b"a" * 16_384),
    "an extension of a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a" * 16_384),
}


@pytest.mark.parametrize(("start", "part"), ENDLESS.values(), ids=ENDLESS)
async def test_what_does_not_end_is_cut_off(listener: Listener, start: bytes, part: bytes) -> None:
    async with listener(head_time=600) as port:
        assert await until_closed(port, start, part) < SENT
        await assert_answers(port)


async def test_many_short_header_fields_are_refused(listener: Listener) -> None:
    async with listener(head_time=600) as port, asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 200 + b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()


SLOW = {
    "nothing": b"",
    "half a head": b"GET /livez HTTP/1.1\r\nX-Slow: ",
    "half a body": POST + b"Content-Length: 1000\r\n\r\n{",
    "half a second head": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /",
}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
async def test_300_slow_clients_are_closed(
    listener: Listener, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coding_agent_receiver.app.BODY_GRACE", 0.5)  # meant to expire
    async with listener(head_time=0.5, keep_alive=1) as port:
        await asyncio.gather(*(until_closed(port, start) for _ in range(300)))
        await assert_answers(port)


async def test_connections_have_a_limit_and_the_next_client_is_answered(listener: Listener) -> None:
    limits = {"connections": 20, "connections_of_address": 20, "head_time": 600}
    async with listener(**limits) as port, asyncio.timeout(DEADLINE):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        for _, writer in held:
            writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        await assert_answers(port)
        for reader, _ in held[:280]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        for _, writer in held:
            writer.close()
