"""Serve the gateway, and limit what a client's connection may cost.

Every program in the workspace can connect. The application checks the credential later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from coding_agent_core.errors import SettingsError
from coding_agent_core.runtime.http_server import ClientLimits, listen, serve
from coding_agent_core.settings.llm import Price
from coding_agent_core.task.usage import Allowance, Usage

from coding_agent_consumer.gateway.forwarding import HEAD_LIMIT, Gateway, GatewayApp
from coding_agent_consumer.gateway.ledger import Ledger
from coding_agent_consumer.gateway.providers import open_providers
from coding_agent_consumer.gateway.upstream import Upstream

_logger = logging.getLogger("coding_agent.gateway")

LIMITS = ClientLimits(
    connections=64, connections_of_address=64, head_size=HEAD_LIMIT, body_size=None, body_time=None, grace=2
)
"""Limits of the server. All clients have one address, and `GatewayApp` limits bodies."""


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
    limits: ClientLimits = LIMITS,
) -> AsyncIterator[Gateway]:
    """Serve a gateway on a free port.

    Args:
        upstreams: the providers. Of those with one format, the first is asked first; the next ones follow if
            it answers 429 or 5xx, or cannot be reached.
        allowance: what may be spent; `None`: there is no limit.
        prices: the prices of models from the setting `llm.prices`.
        models: names that are allowed, with `*`; if empty, all are.
        provider_tools: whether to allow tools that the provider runs.
        timeout: seconds without a byte from the provider after which a request fails.
        host: IPv4 address to listen on, or a name of it; clients use the same.
        on_counted: called after each answer with the usage so far.

    Raises:
        SettingsError: this machine does not have the address.
    """
    try:
        listener = listen(host, 0)
    except SettingsError as error:
        raise SettingsError(f"gateway.host: {error}") from error
    with contextlib.closing(listener):
        ledger = Ledger(allowance)
        gateway = Gateway(f"http://{host}:{listener.getsockname()[1]}", ledger)
        _logger.info("The requests to the model belong to the trace %s", gateway.trace)
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
            stop = asyncio.Event()
            serving = asyncio.create_task(
                serve(app, listener, stop, limits, lifespan="off", log_level="critical")
            )
            try:
                yield gateway
            finally:
                stop.set()
                await serving
                if app.running:  # these requests were cancelled, and still count what they got
                    await asyncio.wait(app.running, timeout=limits.grace)
