"""A write that may not be sent any more is not sent, even if this shows only once it is connected."""

import asyncio

import pytest
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock, RetryPolicy
from coding_agent_forges.rest.calls import Call
from coding_agent_forges.rest.client import ForgeClient, Token
from coding_agent_forges.rest.pacing import Paced, RequestRate

from tests.fixtures.token_service import secrets_of


class LeaseLostError(CodingAgentError):
    """Another replica has the Lease."""


async def test_a_lease_that_is_lost_while_a_request_connects_keeps_writes_back() -> None:
    received = []

    async def forge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readline())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    asked = 0

    def fence() -> None:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:  # the first time is before the connection
            raise LeaseLostError("lost")

    clock = Clock()
    pace = Paced("h", RequestRate(per_second=100, burst=10), clock)
    pace.fence = fence
    server = await asyncio.start_server(forge, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    token = Token(Platform.GITHUB, secrets_of("token"), "a test")
    client = ForgeClient("h", url, token, {}, RetryPolicy(tries=1), clock, pace)
    try:
        async with asyncio.timeout(60):
            for method in ("POST", "PATCH", "DELETE"):
                with pytest.raises(LeaseLostError):
                    await client.send(Call(method, "/labels", "writing"))
            await client.send(Call("GET", "/labels", "reading"))
    finally:
        server.close()
        await client.aclose()
    assert [line for line in received if line] == [b"GET /labels HTTP/1.1\r\n"]
