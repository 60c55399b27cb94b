"""Runs the receiver (`main.py --mode webhook`): one HTTP server for webhooks, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.queues.interfaces import TaskSink
from coding_agent_core.runtime import http_server
from coding_agent_core.runtime.background import succeed
from coding_agent_core.runtime.http_server import ClientLimits, listen, stop_on_signals
from coding_agent_core.runtime.metrics import exposition
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from coding_agent_receiver import replies
from coding_agent_receiver.app import Intake, WebhookEndpoint
from coding_agent_receiver.limits import Allowlist
from coding_agent_receiver.receiver_metrics import ReceiverMetrics, wants_text

_logger = logging.getLogger("webhook.server")

LIMITS = ClientLimits(body_size=None, body_time=None)
"""Limits of the server. `WebhookEndpoint` limits bodies."""

_HEALTH_TIMEOUT = 3.0
_JSON_OBJECT = {"application/json": {"schema": {"type": "object"}}}


def run(settings: Settings, sink: TaskSink) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way and close the sink.

    Raises:
        SettingsError: webhooks are disabled, no secret is set, or the address is not available.
    """

    async def main() -> None:
        try:
            await serve(settings, sink, stop=stop_on_signals())
        finally:
            await sink.aclose()

    http_server.run(main())


async def serve(
    settings: Settings,
    sink: TaskSink,
    *,
    stop: asyncio.Event,
    started: Callable[[int], None] | None = None,
    app: FastAPI | None = None,
    limits: ClientLimits = LIMITS,
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
    where = settings.webhook.server
    try:
        listener = listen(where.host, where.port)
    except SettingsError as error:
        raise SettingsError(f"webhook.server: {error}") from error
    host, port = listener.getsockname()[:2]
    _logger.info("Webhook server listening on %s:%d", host, port)
    if started is not None:
        started(port)
    await http_server.serve(app, listener, stop, limits)
    _logger.info("Webhook server stopped")


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
        follower = (
            asyncio.create_task(succeed("hook addresses", allowlist.follow_github))
            if allowlist.follows_github
            else None
        )
        yield
        if follower is not None:
            follower.cancel()

    app = FastAPI(
        title="coding agent receiver",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_webhooks(app, WebhookEndpoint(settings, intake, allowlist))
    _add_operation(app, intake)
    _add_errors(app)
    return app


def _add_webhooks(app: FastAPI, endpoint: WebhookEndpoint) -> None:
    async def described() -> None:
        """Verify the request and store its task. The reply is 200 only after that."""

    for webhooks in endpoint.webhooks:
        # Forges do not follow redirects, so a slash at the end has a route of its own.
        for path in (webhooks.path, f"{webhooks.path}/"):
            route = APIRoute(
                path,
                described,
                methods=["POST"],
                name=webhooks.platform,
                summary=f"Receive a webhook from {webhooks.title}",
                responses=replies.DESCRIBED,
                openapi_extra={"requestBody": {"required": True, "content": _JSON_OBJECT}},
                include_in_schema=path == webhooks.path,
            )
            # FastAPI's own handler would cost more than twice as much (decision 6, point 14).
            route.app = functools.partial(endpoint.handle, webhooks)
            app.router.routes.append(route)


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
        answer = replies.refused(error.status_code, str(error.detail), "refused")
        return JSONResponse(answer.body, answer.status, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, and the server logs it with its traceback.
        answer = replies.unavailable("an internal error")
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
