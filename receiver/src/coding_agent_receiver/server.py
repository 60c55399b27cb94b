"""Runs the receiver (`main.py --mode webhook`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
from coding_agent_core.errors import SettingsError
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import WebhookServer
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from coding_agent_receiver.app import create_app

_logger = logging.getLogger("webhook.server")

GRACE = 25
"""Seconds for requests in flight after SIGTERM; Kubernetes kills after 30."""
KEEP_ALIVE = 75
"""Seconds; longer than the idle timeout of usual load balancers (60 s)."""

_BACKLOG = 2048


def run(settings: Settings, sink: TaskSink) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight and close the sink.

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

    # uvloop if it is installed; uvicorn must not configure logging.
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
    """Serve until `stop` is set, then finish the requests in flight. The caller handles signals and the sink.

    Args:
        started: called with the port when the server listens (`webhook.server.port` may be 0).
        app: replaces `create_app(settings, sink)`.

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

    def on_started() -> None:
        _logger.info("Webhook server listening on %s:%d", host, port)
        if started is not None:
            started(port)

    server = _Server(
        uvicorn.Config(
            app,
            http=WholeAnswers,
            log_config=None,
            access_log=False,
            # The app itself interprets X-Forwarded-For (`webhook.trusted_proxies`).
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        ),
        on_started,
    )
    stopping = asyncio.create_task(_stop(server, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        listener.close()
    _logger.info("Webhook server stopped")


class WholeAnswers(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one is chosen when it is imported
    """uvicorn's HTTP protocol, but head and body of an answer leave in one write.

    If a receiver is killed between two writes, the proxy in front has already passed the head on and cannot
    retry with another replica.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast("asyncio.Transport", _JoinedWrites(cast("asyncio.Transport", transport)))
        )


class _JoinedWrites:
    """A transport that joins all writes of one step of the event loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
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
    """Leaves signals to the caller; uvicorn would raise them again, and the sink would not be closed."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    _logger.info("Stopping: finishing the requests in flight")
    server.should_exit = True


def _listen(where: WebhookServer) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # asyncio disables Nagle's algorithm (40 ms a request) only on sockets that name their protocol.
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
