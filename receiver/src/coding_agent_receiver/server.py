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
"""Seconds; longer than the idle time of usual load balancers (60), which would meet closed connections."""

_BACKLOG = 2048


def run(settings: Settings, sink: TaskSink) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight are finished and the sink is closed.

    Raises:
        SettingsError: webhooks are disabled, no secret is set, or the address cannot be listened on.
    """

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await serve(settings, sink, stop=stop)
        finally:
            await sink.aclose()

    # uvloop where it is installed; without its own logging, which would not be in our form.
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
    """Serve until `stop` is set, then finish the requests in flight; signals and the sink are the caller's.

    Args:
        started: called with the port once requests are taken (`webhook.server.port` may be 0).
        app: in place of `create_app(settings, sink)`.

    Raises:
        SettingsError: webhooks are disabled, no secret is set, or the address cannot be listened on.
    """
    if not settings.webhook.enabled:
        raise SettingsError(
            "webhooks are disabled: set webhook.enabled to true (WEBHOOK_ENABLED) to run the webhook server"
        )
    app = app or create_app(settings, sink)
    listener = _listen(settings.webhook.server)
    host, port = listener.getsockname()[:2]

    def tell_started() -> None:
        _logger.info("Webhook server listening on %s:%d", host, port)
        if started is not None:
            started(port)

    server = _Server(
        uvicorn.Config(
            app,
            http=WholeAnswers,
            log_config=None,
            access_log=False,
            # X-Forwarded-For is ours to judge (`webhook.trusted_proxies`).
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        ),
        tell_started,
    )
    stopping = asyncio.create_task(_stop(server, stop))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
        listener.close()
    _logger.info("Webhook server stopped")


class WholeAnswers(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one is chosen when it is imported
    """uvicorn's HTTP protocol, which writes head and body one after the other.

    A receiver that is killed between the two has told the proxy in front that an answer comes: the proxy has
    begun to pass it on, and cannot ask another replica any more.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the pieces together before they reach the transport."""
        super().connection_made(cast("asyncio.Transport", _Together(cast("asyncio.Transport", transport))))


class _Together:
    """A transport that writes what it is given in one step of the event loop at once."""

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
    """Leaves signals to the caller: uvicorn raises them again, which would skip closing the sink."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._tell_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    _logger.info("Stopping: finishing the requests in flight")
    server.should_exit = True


def _listen(where: WebhookServer) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only on sockets that name their protocol; it costs 40 ms a request.
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
