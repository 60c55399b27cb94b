"""A small HTTP/1.1 client for one server with kept connections and only the features that we need.

With a general client, an accepted webhook takes about 1.2 times (aiohttp) or 1.8 times (httpx2) the CPU time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

_IDEMPOTENT = frozenset({"GET", "DELETE"})
_LONGEST_IDLE = 15.0
"""Seconds. A proxy or firewall on the way may drop a connection that is idle for longer."""


@dataclass(frozen=True)
class Response:
    """A complete response.

    Attributes:
        headers: the headers, by their names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """The connection pool for one server and one event loop. The first request opens the first connection.

    Args:
        server: the server's URL. If it has a path, all requests are below this path.
        most: the maximum number of connections at a time; further requests wait for one.
        context: the TLS context for https.
        name: the name in the server's certificate, if it is not the host.
    """

    def __init__(
        self, server: str, most: int, *, context: ssl.SSLContext | None, name: str | None = None
    ) -> None:
        url = urlsplit(server)
        self._secure = url.scheme == "https"
        self._host, self._port = url.hostname or "", url.port or (443 if self._secure else 80)
        self._path = url.path.rstrip("/")
        self._tls: dict[str, Any] = (
            {"ssl": context, "server_hostname": name or self._host} if self._secure else {}
        )
        self._common = f"Host: {url.netloc.rpartition('@')[2]}\r\nAccept: application/json\r\n"
        self._turns = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Response:
        """Send a request and wait for its answer.

        If the server closes a kept connection just as it is used again, an idempotent request is repeated.

        Args:
            seconds: the limit for everything, including the wait for a connection.

        Raises:
            TimeoutError: there was no answer in time.
            OSError: there is no connection, or it was lost before the answer was complete.
            ValueError: the path or a header is not a line of printable characters.
        """
        request = self._encoded(method, path, headers, body)
        end = asyncio.get_running_loop().time() + seconds
        if self._turns.locked():
            async with asyncio.timeout_at(end):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        try:
            while self._idle:
                kept = self._idle.pop()
                if not kept.usable:
                    kept.abort()
                    continue
                try:
                    return await self._answer(kept, request, end)
                except _StaleError:
                    if method not in _IDEMPOTENT:
                        raise
            return await self._answer(await self._connect(end), request, end)
        finally:
            self._turns.release()

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().abort()

    def _encoded(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = [f"{method} {self._path}{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None or method not in _IDEMPOTENT:
            lines.append(f"Content-Length: {len(body or b'')}")
        # Foreign text in a line must not begin another line.
        if " " in path or not all(line.isprintable() for line in lines):
            raise ValueError(f"not a request that can be sent: {method} {path!r}")
        head = "\r\n".join(lines) + "\r\n" + self._common + "\r\n"
        return head.encode("latin-1") + (body or b"")

    async def _connect(self, end: float) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(end):
            connected = await loop.create_connection(_Connection, self._host, self._port, **self._tls)
        return connected[1]

    async def _answer(self, connection: _Connection, request: bytes, end: float) -> Response:
        answer = await connection.answer(request, end)
        if connection.usable:
            self._idle.append(connection)
        return answer


class _StaleError(ConnectionError):
    """The error if a kept connection was closed before any part of the response arrived."""


class _Connection(asyncio.Protocol):
    """One connection, which serves one request at a time."""

    _transport: asyncio.Transport
    """Set by `connection_made`, which the event loop calls before it hands out the connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._open, self._begun = True, False
        self._answered_at: float | None = None

    @property
    def usable(self) -> bool:
        """Whether the connection can take a request."""
        fresh = self._answered_at is None or self._loop.time() - self._answered_at < _LONGEST_IDLE
        return self._open and fresh

    async def answer(self, request: bytes, end: float) -> Response:
        """Send a request and return the response. If the response is incomplete, close the connection."""
        self._begun = False
        waiting: asyncio.Future[Response] = self._loop.create_future()
        self._waiting = waiting
        deadline = self._loop.call_at(end, self._fail, TimeoutError("no answer in time"))
        self._transport.write(request)
        try:
            return await waiting
        except BaseException:  # also if the caller was cancelled, because nobody would take the answer
            self.abort()
            raise
        finally:
            deadline.cancel()
            self._waiting = None

    def abort(self) -> None:
        self._open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # the server sends data without a request
            self.abort()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"the answer is not HTTP: {error}"))
            self.abort()

    def eof_received(self) -> None:
        self._open = False  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        stale = self._answered_at is not None and not self._begun
        lost = _StaleError if stale else ConnectionError
        self._fail(lost(f"the connection was closed before the answer{f': {error}' if error else ''}"))

    def on_message_begin(self) -> None:
        if self._waiting is None or self._waiting.done():
            self.abort()  # the next request must not get this second answer
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # the answer is still to come
        self._answered_at = self._loop.time()
        if not self._parser.should_keep_alive():
            self._open = False
            self._transport.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Response(status, self._headers, b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
