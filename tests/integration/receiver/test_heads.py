"""Request heads are limited in size and time, and connections in number, but authentic webhooks pass."""

import asyncio
import socket
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

import pytest
from coding_agent_receiver.server import LIMITS

from tests.fixtures.deliveries import RecordingSink, encode, github_headers, github_issue, settings
from tests.fixtures.receiver import Receiver, receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = b"POST /webhook/github HTTP/1.1\r\nHost: x\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(receiver: Receiver, sent: bytes = b"") -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(sent)
    return reader, writer


async def rest(connection: Connection) -> bytes:
    """What the receiver still sends before it closes the connection."""
    reader, writer = connection
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_an_endless_head_is_refused(receiver: Receiver) -> None:
    connection = await connect(receiver, START + b"X-Endless: ")
    sent = 0
    try:
        while sent < 16 * 1024 * 1024:
            connection[1].write(b"a" * 16_384)
            await connection[1].drain()
            sent += 16_384
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    assert (await rest(connection))[:12] in (b"HTTP/1.1 431", b"")
    assert sent < 16 * 1024 * 1024


async def test_a_head_just_too_large_is_answered_431(receiver: Receiver) -> None:
    # One byte too much: with more, the last ones may arrive only when the connection is closed, and reset it.
    head = START + b"X-Large: "
    connection = await connect(receiver, head + b"a" * (LIMITS.head_size + 1 - len(head)))
    assert (await rest(connection)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("sent", [b"", START + b"X-Slow: "], ids=["nothing", "half a header"])
async def test_a_head_that_does_not_arrive_is_given_up(sink: RecordingSink, sent: bytes) -> None:
    async with receiving(settings(), sink, limits=replace(LIMITS, head_time=0.2)) as receiver:
        assert (await rest(await connect(receiver, sent))).startswith(b"HTTP/1.1 408 ")


async def test_a_second_head_on_a_connection_is_limited_too(sink: RecordingSink) -> None:
    async with receiving(settings(), sink, limits=replace(LIMITS, head_time=1)) as receiver:
        connection = await connect(receiver, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await connection[0].readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        connection[1].write(b"\r\n")
        assert (await rest(connection)).startswith(b"HTTP/1.1 408 ")


async def test_trailers_of_a_body_are_no_headers(receiver: Receiver, sink: RecordingSink) -> None:
    body = encode(github_issue(number=78))
    headers = github_headers(body, "issues", "d-78")
    event = headers.pop("X-GitHub-Event")
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = START + f"Connection: close\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode()
    end = b"\r\n0\r\nX-GitHub-Event: %s\r\n\r\n" % event.encode()
    connection = await connect(receiver, start + b"%x\r\n" % len(body) + body + end)
    assert (await rest(connection)).startswith(b"HTTP/1.1 400 ")
    assert sink.submitted == []


@pytest.mark.parametrize("limit", ["connections", "connections_of_address"])
async def test_connections_without_a_request_make_room_for_authentic_webhooks(
    sink: RecordingSink, limit: str
) -> None:
    # None of them is closed for being slow.
    limits = replace(LIMITS, head_time=600, **{limit: 8})
    async with receiving(settings(), sink, limits=limits) as receiver, AsyncExitStack() as stack:
        held = [await connect(receiver, START) for _ in range(20)]
        for _, writer in held:
            stack.callback(writer.close)
        assert await rest(held[0]) == b"", "the oldest one was not closed"
        answer = await receiver.github(github_issue(number=77))
        assert answer.status_code == 200
        assert not held[-1][0].at_eof()


@pytest.mark.parametrize("limit", ["connections", "connections_of_address"])
async def test_the_limit_holds_for_connections_that_are_accepted_in_one_step(
    sink: RecordingSink, limit: str
) -> None:
    limits = replace(LIMITS, head_time=600, **{limit: 8})
    async with receiving(settings(), sink, limits=limits) as receiver:
        await assert_the_oldest_are_closed(receiver)


async def assert_the_oldest_are_closed(receiver: Receiver) -> None:
    with ExitStack() as stack:
        # Nothing is awaited: the receiver, in the same loop, finds all of them at once.
        burst = [
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=60))
            for _ in range(20)
        ]
        for connection in burst[:10]:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(60):
                    assert await asyncio.get_running_loop().sock_recv(connection, 1) == b""
            except ConnectionResetError:
                pass
        for connection in burst[-8:]:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def exchanges(port: int, request: bytes, count: int) -> list[bytes]:
    """What the first look at each answer shows."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        seen = []
        for _ in range(count):
            connection.sendall(request)
            seen.append(connection.recv(65536))
            if not seen[-1].endswith(b"}"):
                break
        return seen


async def test_an_answer_arrives_whole(receiver: Receiver) -> None:
    body = encode({"zen": "Keep it simple."})
    headers = github_headers(body, event="ping") | {"Host": "x", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = b"POST /webhook/github HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body
    seen = await asyncio.to_thread(exchanges, receiver.port, request, 300)
    assert seen[-1].endswith(b"}"), f"answer {len(seen)} came in pieces"
