"""Serve the gateway, and limit what a client's connection may cost.

Every program in the workspace can connect. The application checks the credential later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import uvicorn
from coding_agent_core.errors import SettingsError
from coding_agent_core.usage import Allowance, Price, Usage
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coding_agent_consumer.gateway.forwarding import HEAD_LIMIT, Gateway, GatewayApp
from coding_agent_consumer.gateway.ledger import Ledger
from coding_agent_consumer.gateway.providers import open_providers
from coding_agent_consumer.gateway.upstream import Upstream

_CONCURRENCY = 64
"""The most requests at a time."""
_STOP_SECONDS = 2
"""Requests in flight have this long to end when the gateway closes."""
CONNECTIONS = 128
"""The most connections at a time, including idle ones."""
HEAD_SECONDS = 20.0
"""A request's head must be complete this long after the connection's start or its last answer."""
_KEEP_ALIVE = 30
"""Seconds. `HEAD_SECONDS` ends an idle connection sooner. With uvicorn's default of 5, which many clients
share, the server could close a connection just as the client sends its next request."""
READ_SECONDS = 60.0
"""A client that takes nothing for this long counts as gone; its answer is still read to the end."""


@contextlib.asynccontextmanager
async def open_gateway(
    upstreams: Sequence[Upstream],
    allowance: Allowance | None = None,
    *,
    prices: Mapping[str, Price] | None = None,
    models: Sequence[str] = (),
    provider_tools: bool = False,
    timeout: float = 300.0,
    host: str = "127.0.0.1",
    on_counted: Callable[[Usage], None] = lambda _: None,
) -> AsyncIterator[Gateway]:
    """Serve a gateway on a free port.

    Args:
        upstreams: the providers. Of those with one format, the first is asked first; the next ones follow if
            it answers 429 or 5xx, or cannot be reached.
        allowance: what may be spent; `None`: there is no limit.
        prices: prices of models, as in `llm.prices`.
        models: names that are allowed, with `*`; if empty, all are.
        provider_tools: whether to allow tools that the provider runs.
        timeout: seconds without a byte from the provider after which a request fails.
        host: IPv4 address to listen on, or a name of it; clients use the same.
        on_counted: called after each answer with the usage so far.

    Raises:
        SettingsError: this machine does not have the address.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.closing(listener):
        try:
            listener.bind((host, 0))
        except OSError as error:
            raise SettingsError(f"gateway.host: cannot listen on {host}: {error.strerror}") from error
        listener.listen()
        ledger = Ledger(allowance)
        gateway = Gateway(f"http://{host}:{listener.getsockname()[1]}", ledger)
        async with open_providers(upstreams, timeout) as providers:
            app = GatewayApp(
                gateway=gateway,
                ledger=ledger,
                providers=providers,
                upstreams=upstreams,
                prices=dict(prices or {}),
                allowed=models,
                provider_tools=provider_tools,
                on_counted=on_counted,
            )
            server = _GatewayServer(
                uvicorn.Config(
                    app,
                    http=_ClientConnection,
                    ws="none",
                    lifespan="off",
                    log_config=None,
                    log_level="critical",
                    access_log=False,
                    proxy_headers=False,
                    server_header=False,
                    limit_concurrency=_CONCURRENCY,
                    timeout_keep_alive=_KEEP_ALIVE,
                    timeout_graceful_shutdown=_STOP_SECONDS,
                )
            )
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield gateway
            finally:
                server.should_exit = True
                await serving
                if app.running:  # these requests were cancelled, and still count what they got
                    await asyncio.wait(app.running, timeout=_STOP_SECONDS)


class _GatewayServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ClientConnection(HttpToolsProtocol):
    """uvicorn's protocol with limits that uvicorn does not have."""

    _head_deadline: asyncio.TimerHandle | None = None
    _read_deadline: asyncio.TimerHandle | None = None
    _head = 0
    """Bytes of the head that is arriving."""
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head_deadline, self._read_deadline)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > HEAD_LIMIT:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is not a header: RFC 9110, section 6.5.1
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        _cancel(self._head_deadline)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise the next request is there already
            _cancel(self._head_deadline)
            # The deadline also counts if the rest of a refused body still arrives.
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._read_deadline)


def _cancel(*deadlines: asyncio.TimerHandle | None) -> None:
    for deadline in deadlines:
        if deadline is not None:
            deadline.cancel()
