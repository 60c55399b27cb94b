"""The HTTP server of all programs: uvicorn, with limits on the memory and connections of clients.

uvicorn itself limits neither the size nor the time of a request's head or body, nor the total of all clients:
one connection can fill the memory, and a few thousand incomplete heads stay open for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.addresses import client_group, parse_address

_logger = logging.getLogger("coding_agent.http_server")


@dataclass(frozen=True)
class ClientLimits:
    """The limits for clients. Sizes are in bytes, times in seconds.

    Attributes:
        connections: the connections at a time; below the usual limit of 1,024 open files.
        connections_of_address: the connections of one address at a time; an Ingress controller has only one.
        head_size: the size of a request's line and header fields, and of the trailers of a chunked body.
            Forges send a few thousand bytes.
        head_fields: the number of header fields, each of which takes some hundred bytes, however short it is.
        head_time: the time in which a head must arrive, from the connection or from its first bytes on.
        body_size: the size of a request's body; `None` if the application limits it.
        body_time: the time in which a body must arrive; `None` if the application limits it.
        read_time: the time after which a client that reads nothing of a response counts as gone.
        keep_alive: the time for which a connection without a request stays open: longer than the usual
            timeout of load balancers (60 s), so that the server does not close it just as the next request
            arrives.
        grace: the time for requests under way after a stop was requested. Kubernetes kills after 30 s.
    """

    connections: int = 900
    connections_of_address: int = 450
    head_size: int = 64 * 1024
    head_fields: int = 128
    head_time: float = 10.0
    body_size: int | None = 64 * 1024
    body_time: float | None = 10.0
    read_time: float = 60.0
    keep_alive: int = 75
    grace: int = 25


PAGE_LIMITS = ClientLimits(connections=128, connections_of_address=64, body_size=0, grace=1)
"""Limits of a server whose answers are ready at once: probes and metrics."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a server program, on uvloop if it is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(main)


def stop_on_signals() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address of this machine, or its name; empty for all.
        port: 0 chooses a free port.

    Raises:
        SettingsError: the address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per request) only on sockets with an explicit protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        listener.bind((host, port))
        # A burst waits in the kernel for its turn, and is not refused while we are busy for a moment.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


async def serve(
    app: Callable[..., Any],
    listener: socket.socket,
    stop: asyncio.Event,
    limits: ClientLimits,
    *,
    lifespan: Literal["auto", "off"] = "auto",
    log_level: Literal["error", "critical"] | None = None,
) -> None:
    """Serve an ASGI application until `stop` is set, then finish the requests under way.

    The caller handles signals.

    Args:
        log_level: the level of uvicorn's logs in this process. `error` hides its lines about starting and
            stopping, and `critical` also those about requests that were cancelled at the end.
    """
    server = _Server(_Config(app, limits, lifespan, log_level))
    stopping = asyncio.create_task(_stop(server, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        listener.close()


Page = Callable[[Mapping[bytes, bytes]], tuple[int, str, bytes]]
"""Takes a request's headers, in lower case, and returns status, content type and body."""


@contextlib.asynccontextmanager
async def pages_served(
    listener: socket.socket, pages: Mapping[str, Page], limits: ClientLimits = PAGE_LIMITS
) -> AsyncIterator[None]:
    """Serve a page for each path during the `with` block."""

    async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        page = pages.get(scope["path"])
        if scope["method"] not in ("GET", "HEAD"):
            status, content_type, body = 405, "text/plain", b"Method Not Allowed"
        elif page is None:
            status, content_type, body = 404, "text/plain", b"Not Found"
        else:
            status, content_type, body = page(dict(scope["headers"]))
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    stop = asyncio.Event()
    serving = asyncio.create_task(serve(app, listener, stop, limits, lifespan="off", log_level="error"))
    try:
        yield
    finally:
        stop.set()
        await serving


@contextlib.asynccontextmanager
async def metrics_served(
    host: str, port: int, page: Page, limits: ClientLimits = PAGE_LIMITS
) -> AsyncIterator[None]:
    """Serve a program's metrics during the `with` block.

    If the address is not available, a warning is logged and the program runs without them.
    """
    try:
        listener = listen(host, port)
    except SettingsError as error:
        _logger.warning("Metrics are not served: %s", error)
        yield
        return
    _logger.info("Metrics are at %s, port %d", host, listener.getsockname()[1])
    async with pages_served(listener, {"/metrics": page}, limits):
        yield


class _Config(uvicorn.Config):
    """The configuration of uvicorn with our limits, which its protocol reads too."""

    def __init__(
        self,
        app: Callable[..., Any],
        limits: ClientLimits,
        lifespan: Literal["auto", "off"],
        log_level: str | None,
    ) -> None:
        super().__init__(
            app,
            http=LimitedHttp,
            ws="none",
            lifespan=lifespan,
            log_config=None,
            log_level=log_level,
            access_log=False,
            # An application that has trusted proxies interprets X-Forwarded-For itself.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=limits.keep_alive,
            timeout_graceful_shutdown=limits.grace,
        )
        self.limits = limits


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on connections, heads, bodies, and clients that do not read.

    If there are too many connections, the oldest one whose request is not complete is closed, so that the
    next client is always served. Head and body of a response are sent in one write. With two writes, a
    receiver could be killed between them; the proxy in front would already have passed on the head and could
    not retry with another replica.
    """

    _deadline: asyncio.TimerHandle | None = None
    """When the head or the body that is awaited must have arrived."""
    _read_deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _pending = 0
    """Bytes since the last head or part of a body was complete: of a head, or of a body's trailers."""
    _body = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast("asyncio.Transport", _JoinedWrites(cast("asyncio.Transport", transport)))
        )
        self.limits = cast("_Config", self.config).limits
        self._group = client_group(parse_address(self.client[0] if self.client else ""))
        self._await_head()
        connections = cast("set[LimitedHttp]", self.connections)
        crowd = [other for other in connections if other._group == self._group]
        if len(crowd) > self.limits.connections_of_address:
            self._close_oldest(crowd)
        elif len(connections) > self.limits.connections:
            self._close_oldest(connections)

    def _close_oldest(self, crowd: Iterable[LimitedHttp]) -> None:
        incomplete = [
            one for one in crowd if not one.cycle or one.cycle.more_body or one.cycle.response_complete
        ]
        oldest = min(incomplete, key=lambda one: one._since)
        oldest.transport.abort()
        # uvicorn removes it in the loop's next step, which is too late for connections accepted in this step.
        self.connections.discard(oldest)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # a refused client still sends
            return
        self._pending += len(data)
        super().data_received(data)
        # A head that arrives in one piece, as nearly all do, needs no deadline.
        without_request = self._in_head or not self.cycle or self.cycle.response_complete
        if without_request and self._deadline is None:
            self._await_head()
        if self._pending > self.limits.head_size:
            self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._in_head = True
        self._since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn would add the trailers of a chunked body to the headers after the headers were checked.
        if not self._in_head:
            return
        if len(self.headers) < self.limits.head_fields:
            super().on_header(name, value)
        else:
            self._refuse("431 Request Header Fields Too Large")

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():  # it has too many header fields
            return
        self._in_head, self._pending, self._body = False, 0, 0
        self._end_deadline()
        super().on_headers_complete()
        if self.limits.body_time is not None:
            self._await(self.limits.body_time)

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        self._body += len(body)
        if self.limits.body_size is not None and self._body > self.limits.body_size:
            self._refuse("413 Content Too Large")
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._end_deadline()
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.call_later(self.limits.read_time, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_read_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self._end_read_deadline()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._since = self.loop.time()
        self._await(self.limits.head_time)

    def _await(self, seconds: float) -> None:
        # uvicorn itself limits neither the time nor the size of a head.
        self._deadline = self.loop.call_later(seconds, self._refuse, "408 Request Timeout")

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _refuse(self, status: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # a second head would look like a part of the answer
            return
        head = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode())
        self.transport.close()


class _JoinedWrites:
    """A transport that joins all writes in one step of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))


class _Server(uvicorn.Server):
    """A server that leaves signals to the caller. uvicorn would raise them before the caller cleans up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
