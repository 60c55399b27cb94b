"""A provider that answers with given bytes, as they are, and keeps what it was sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    """A request."""

    line: str
    headers: dict[str, str]
    body: bytes


Play = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Provider:
    """What it was sent, and where it is."""

    base_url: str = ""
    requests: list[Received] = field(default_factory=list)


@asynccontextmanager
async def provider(play: Play) -> AsyncIterator[Provider]:
    """Serve on loopback; each answer ends with its connection."""
    served = Provider()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            received = Received(head[0], headers, body)
            served.requests.append(received)
            await play(received, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        served.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield served


def answer(status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> Play:
    """Always the same."""

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n{extra}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return play


def stream(*parts: bytes, cut: bool = False) -> Play:
    """Chunked server-sent events; `cut`: the connection closes before the last chunk."""

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for part in parts:
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
        if not cut:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    return play
