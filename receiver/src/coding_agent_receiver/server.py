"""Runs the receiver (`main.py --mode webhook`): one HTTP server for webhooks, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import uvicorn
from coding_agent_core.errors import SettingsError
from coding_agent_core.queue_messages import TaskSink
from coding_agent_core.registry import FACTS, Platform
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.receiver import WebhookServer
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coding_agent_receiver import answers
from coding_agent_receiver.app import Intake, WebhookEndpoint
from coding_agent_receiver.limits import Allowlist
from coding_agent_receiver.receiver_metrics import ReceiverMetrics, exposition, wants_text
from coding_agent_receiver.webhook_request import client_group, parse_address

_logger = logging.getLogger("webhook.server")

GRACE = 25
"""Seconds for requests under way after SIGTERM. Kubernetes kills after 30."""
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the usual timeout of load balancers (60 s)."""
HEAD_SIZE = 64 * 1024
"""Maximum number of bytes of a request's line and headers. Forges send a few thousand."""
HEAD_TIME = 10.0
"""Seconds within which a request's head must arrive, counted from the connection or from its first bytes."""
CONNECTIONS = 900
"""Maximum number of connections at a time, below the usual limit of 1,024 open files."""
CONNECTIONS_OF_ADDRESS = 450
"""Maximum number of connections of one address at a time. An Ingress controller has only one address."""

_HEALTH_TIMEOUT = 3.0
_BACKLOG = 2048


def run(settings: Settings, sink: TaskSink) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way and close the sink.

    Raises:
        SettingsError: webhooks are disabled, no secret is set, or the address is not available.
    """

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await serve(settings, sink, stop=stop)
        finally:
            await sink.aclose()

    # This is uvloop if it is installed. uvicorn must not configure logging.
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def serve(
    settings: Settings,
    sink: TaskSink,
    *,
    stop: asyncio.Event,
    started: Callable[[int], None] | None = None,
    app: FastAPI | None = None,
) -> None:
    """Serve until `stop` is set, then finish the requests under way. The caller handles signals and the sink.

    Args:
        started: called with the port when the server listens (`webhook.server.port` may be 0).
        app: replaces the application that `create_app` makes from settings and sink.

    Raises:
        SettingsError: webhooks are disabled, no secret is set, or the address is not available.
    """
    if not settings.webhook.enabled:
        raise SettingsError(
            "webhooks are disabled: set webhook.enabled to true (WEBHOOK_ENABLED) to run the webhook server"
        )
    app = app or create_app(settings, sink)
    listener = _listen(settings.webhook.server)
    host, port = listener.getsockname()[:2]
    server = _Server(
        uvicorn.Config(
            app,
            http=LimitedHttp,
            ws="none",
            log_config=None,
            access_log=False,
            # The app itself interprets X-Forwarded-For (`webhook.trusted_proxies`).
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
    )
    _logger.info("Webhook server listening on %s:%d", host, port)
    if started is not None:
        started(port)
    stopping = asyncio.create_task(_stop(server, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        listener.close()
    _logger.info("Webhook server stopped")


class _App(FastAPI):
    """FastAPI with the webhook endpoint in front of its middleware."""

    endpoint: WebhookEndpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self.endpoint.handle(scope, receive, send):
            await super().__call__(scope, receive, send)


def _now() -> datetime:
    return datetime.now(UTC)


def create_app(
    settings: Settings,
    sink: TaskSink,
    *,
    clock: Callable[[], datetime] = _now,
    allowlist: Allowlist | None = None,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """Return the receiver as an ASGI application.

    Args:
        clock: returns the aware time at which a webhook is received.
        allowlist: replaces the allowlist that the settings describe.
        registry: the registry of a program that exposes more metrics; by default a new one.

    Raises:
        SettingsError: no secret is configured for any forge, or a rate limit is invalid.
    """
    _require_secrets(settings)
    allowlist = allowlist or Allowlist(settings)
    intake = Intake(settings, sink, ReceiverMetrics(registry or CollectorRegistry()), clock)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower = asyncio.create_task(allowlist.follow_github()) if allowlist.follows_github else None
        yield
        if follower is not None:
            follower.cancel()

    app = _App(
        title="coding agent receiver",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.endpoint = WebhookEndpoint(settings, intake, allowlist)
    _add_operation(app, intake)
    _add_errors(app)
    return app


def _add_operation(app: FastAPI, intake: Intake) -> None:
    async def connected() -> bool:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                return await intake.sink.connected()
        except Exception:
            _logger.exception("The check of the queue's connection failed")
            return False

    @app.get("/health")
    async def health() -> Response:
        queue_connected = await connected()
        body: dict[str, Any] = {
            "status": "healthy" if queue_connected else "unhealthy",
            "timestamp": intake.clock().astimezone(UTC).isoformat(),
            "queue_connected": queue_connected,
        }
        return JSONResponse(body, 200 if queue_connected else 503)

    @app.get("/livez")
    async def livez() -> Response:
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = await connected()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        accept = ",".join(request.headers.getlist("accept"))
        if wants_text(accept):
            content, content_type = exposition(intake.metrics.registry, accept)
            return Response(content, headers={"Content-Type": content_type})
        return JSONResponse(intake.metrics.summary())


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        answer = answers.refused(error.status_code, str(error.detail), "refused")
        return JSONResponse(answer.body, answer.status, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, and the server logs it with its traceback.
        answer = answers.unavailable("an internal error")
        return JSONResponse(answer.body, answer.status, answer.headers)


def _require_secrets(settings: Settings) -> None:
    missing = [platform for platform in Platform if not settings.webhook.secret(platform).configured]
    keys = {
        platform: credential_place(settings, f"webhook.{platform}.{facts.webhook_setting}")
        for platform, facts in FACTS.items()
    }
    if len(missing) == len(Platform):
        raise SettingsError(f"no webhook could be verified: set {' or '.join(keys.values())}")
    for platform in missing:
        # Most installations have one forge.
        _logger.info(
            "%s webhooks are all answered 401; to accept them, set %s", FACTS[platform].title, keys[platform]
        )


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on request heads and connections.

    If there are too many connections, the oldest one whose request is not complete is closed. Head and body
    of an answer are sent in one write. With two writes, a receiver could be killed between them; the proxy in
    front would already have passed on the head and could not retry with another replica.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast("asyncio.Transport", _JoinedWrites(cast("asyncio.Transport", transport)))
        )
        self._group = client_group(parse_address(self.client[0] if self.client else ""))
        self._start_deadline()
        connections = cast("set[LimitedHttp]", self.connections)
        crowd = [other for other in connections if other._group == self._group]
        if len(crowd) > CONNECTIONS_OF_ADDRESS:
            self._close_oldest(crowd)
        elif len(connections) > CONNECTIONS:
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
        super().data_received(data)
        # A head that arrives in one piece, as nearly all do, needs no deadline.
        without_request = self._in_head or not self.cycle or self.cycle.response_complete
        if without_request and self._deadline is None:
            self._start_deadline()
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > HEAD_SIZE:
                self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._in_head, self._head_size = True, 0
        self._since = self.loop.time()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn would add the trailers of a chunked body to the headers after the headers were checked.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._end_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._since = self.loop.time()
        self._deadline = self.loop.call_later(HEAD_TIME, self._refuse, "408 Request Timeout")

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: str) -> None:
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
    """A server that leaves signals to the caller. uvicorn would raise them before the sink is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    _logger.info("Stopping: finishing the requests in flight")
    server.should_exit = True


def _listen(where: WebhookServer) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms per request) only on sockets with an explicit protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, where.host != "::")
        listener.bind((where.host, where.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"webhook.server: cannot listen on {where.host}:{where.port}: {error.strerror or error}"
        ) from error
    return listener
