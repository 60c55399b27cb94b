"""The HTTP application: thin routes over `Intake`, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from coding_agent_receiver import answers
from coding_agent_receiver.intake import Intake
from coding_agent_receiver.metrics import ReceiverMetrics, exposition, wants_text
from coding_agent_receiver.networks import Allowlist
from coding_agent_receiver.platforms import Webhooks, github_webhooks, gitlab_webhooks

_logger = logging.getLogger("webhook.server")
_HEALTH_TIMEOUT = 3.0


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
    """The receiver as an ASGI application.

    Args:
        clock: aware time of receipt.
        allowlist: in place of the one that the settings describe.
        registry: where the metrics go, for a program that shows more than the receiver's; own by default.

    Raises:
        SettingsError: no secret is configured for any forge, or a rate limit cannot be read.
    """
    _require_secrets(settings)
    allowlist = allowlist or Allowlist(settings)
    intake = Intake(settings, sink, ReceiverMetrics(registry or CollectorRegistry()), allowlist, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower = asyncio.create_task(allowlist.follow_github()) if allowlist.follows_github else None
        yield
        if follower is not None:
            follower.cancel()

    app = FastAPI(
        title="coding agent receiver",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_webhooks(app, intake)
    _add_operation(app, intake)
    _add_errors(app)
    return app


def _add_webhooks(app: FastAPI, intake: Intake) -> None:
    github, gitlab = github_webhooks(intake.settings), gitlab_webhooks(intake.settings)

    async def answer(request: Request, webhooks: Webhooks) -> Response:
        start = time.perf_counter()
        given = await intake.answer(request, webhooks)
        intake.metrics.answered(
            webhooks.platform,
            webhooks.delivery(request.headers).event,
            result=given.result,
            status=given.status,
            seconds=time.perf_counter() - start,
        )
        return JSONResponse(given.body, given.status, given.headers)

    # With a slash at the end too: a forge does not follow the redirect that would correct it.
    @app.post("/webhook/github")
    @app.post("/webhook/github/")
    async def github_webhook(request: Request) -> Response:
        return await answer(request, github)

    @app.post("/webhook/gitlab")
    @app.post("/webhook/gitlab/")
    async def gitlab_webhook(request: Request) -> Response:
        return await answer(request, gitlab)


def _add_operation(app: FastAPI, intake: Intake) -> None:
    async def connected() -> bool:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                return await intake.sink.connected()
        except Exception:
            _logger.exception("The queue cannot tell whether it is connected")
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
        given = answers.refused(error.status_code, str(error.detail), "refused")
        return JSONResponse(given.body, given.status, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette raises the error again behind this answer, and the server logs it with its trace.
        given = answers.unavailable("an internal error")
        return JSONResponse(given.body, given.status, given.headers)


def _require_secrets(settings: Settings) -> None:
    missing = [platform for platform in Platform if not settings.webhook.secret(platform).configured]
    keys = {
        platform: f"webhook.{platform}.{facts.webhook_setting} ({facts.webhook_variable})"
        for platform, facts in FACTS.items()
    }
    if len(missing) == len(Platform):
        raise SettingsError(f"no webhook could be verified: set {' or '.join(keys.values())}")
    for platform in missing:
        _logger.warning(
            "%s webhooks are all answered 401: %s is not set", FACTS[platform].title, keys[platform]
        )
