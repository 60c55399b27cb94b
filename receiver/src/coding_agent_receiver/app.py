"""The HTTP application: the webhook endpoint, health and metrics.

`WebhookEndpoint` is a plain ASGI application in front of FastAPI. It refuses what cannot be authentic before
it reads the body, and nothing is parsed before it is verified.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import networks
from coding_agent_core.telemetry import bound, safe
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from coding_agent_receiver import events, github, gitlab
from coding_agent_receiver.events import Answer, Delivery, PlatformWebhooks, Webhooks
from coding_agent_receiver.intake import Intake
from coding_agent_receiver.limits import (
    SMALL_BODY,
    AddressCheck,
    Allowlist,
    BodyRoom,
    NoRoomError,
    RateLimits,
)
from coding_agent_receiver.metrics import ReceiverMetrics, exposition, wants_text
from coding_agent_receiver.request import (
    Address,
    BodyError,
    Verification,
    client_address,
    client_group,
    decode_payload,
    require_json,
)

_logger = logging.getLogger("webhook.server")
_HEALTH_TIMEOUT = 3.0

BODY_GRACE = 5.0
"""Seconds in which the first bytes of a body must arrive."""
BODY_RATE = 256 * 1024
"""Bytes a second that a larger body must keep up after that."""
BODY_TIMEOUT = 30.0
"""Seconds in which any body must arrive completely."""

Headers = Mapping[str, str]


WEBHOOKS: Mapping[Platform, PlatformWebhooks] = {Platform.GITHUB: github, Platform.GITLAB: gitlab}


class _DisconnectedError(Exception):
    """The sender closed the connection before its request was complete."""


class WebhookEndpoint:
    """Answers `POST /webhook/github` and `/webhook/gitlab`."""

    def __init__(self, settings: Settings, intake: Intake, allowlist: Allowlist) -> None:
        self._intake, self._allowlist = intake, allowlist
        self._metrics = intake.metrics
        self._limits = RateLimits(settings.webhook.rate_limit)
        self._largest = settings.webhook.max_body_bytes
        self._room = BodyRoom(self._largest)
        self._trusted = networks(settings.webhook.trusted_proxies)
        self._paths = {
            f"/webhook/{platform}": Webhooks(platform, module, Secrets(settings.webhook.secret(platform)))
            for platform, module in WEBHOOKS.items()
        }

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request for a webhook's path; `False` for any other."""
        # A forge does not follow the redirect that would remove a slash at the end.
        webhooks = self._paths.get(scope["path"].removesuffix("/")) if scope["type"] == "http" else None
        if webhooks is None:
            return False
        if scope["method"] != "POST":
            await _send(send, events.refused(405, "Method Not Allowed", "refused", Allow="POST"))
            return True
        start = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        delivery = webhooks.module.delivery(headers)
        with bound(delivery=delivery.id):
            answer = await self._answer(webhooks, delivery, headers, scope, receive)
        self._metrics.answered(
            webhooks.platform,
            delivery.event,
            result=answer.result,
            status=answer.status,
            seconds=time.perf_counter() - start,
        )
        await _send(send, answer)
        return True

    async def _answer(
        self, webhooks: Webhooks, delivery: Delivery, headers: Headers, scope: Scope, receive: Receive
    ) -> Answer:
        try:
            client = self._client(scope)
            checked = await self._verified_payload(webhooks, delivery, headers, client, receive)
            if isinstance(checked, Answer):
                return checked
            return await self._intake.answer(webhooks, delivery, checked)
        except _DisconnectedError:
            _logger.warning("The sender closed the connection before its request was complete")
            return events.refused(400, "the body was cut short", "disconnected")
        except Exception:
            # 503, not 500: an event that a defect of ours lost can be sent again, e.g. by a redelivery.
            _logger.exception("Unexpected error while answering a %s webhook", webhooks.title)
            return events.unavailable("an internal error; the event was not processed", "internal_error")

    async def _verified_payload(
        self,
        webhooks: Webhooks,
        delivery: Delivery,
        headers: Headers,
        client: Address | None,
        receive: Receive,
    ) -> dict[str, Any] | Answer:
        """The payload of an authentic request, or the refusal."""
        refusal = self._refused_network(client)
        if refusal is not None:
            return refusal
        verification = webhooks.module.verification(headers, webhooks.secrets.current())
        if verification is None:
            return self._not_verified(webhooks, delivery, client)
        if self._intake.limit.overloaded:
            return events.overloaded()
        try:
            body = await self._read(receive, verification, headers, client_group(client))
        except BodyError as error:
            _logger.error("Refused a %s webhook: %s", webhooks.title, error)  # noqa: TRY400 - not our error
            return events.unreadable(error)
        except NoRoomError:
            _logger.warning("Refused a %s webhook: too many bodies at once", webhooks.title)
            return events.unavailable("too many bodies at once", "overloaded")
        if not verification.valid():
            return self._not_verified(webhooks, delivery, client)
        wait = self._limits.verified(client_group(client))
        if wait is not None:
            _logger.error("Too many webhooks from %s; this event is lost", client)
            return events.too_many(wait)
        try:
            require_json(headers.get("content-type"))
            return decode_payload(body)
        except BodyError as error:
            _logger.error("Cannot read the %s payload: %s", webhooks.title, error)  # noqa: TRY400
            return events.unreadable(error)

    def _client(self, scope: Scope) -> Address | None:
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
            if self._trusted
            else []
        )
        return client_address(peer, forwarded, self._trusted)

    def _refused_network(self, client: Address | None) -> Answer | None:
        match self._allowlist.check(client):
            case AddressCheck.ALLOWED:
                return None
            case AddressCheck.UNKNOWN:
                _logger.error("GitHub's hook addresses are not known yet; refused %s", client)
                return events.unavailable("the addresses of GitHub's webhooks are not known yet")
            case AddressCheck.REFUSED:
                _logger.error("Refused %s: not in webhook.allowed_networks", client)
                return events.refused(403, "your address is not allowed to send webhooks", "forbidden")

    def _not_verified(self, webhooks: Webhooks, delivery: Delivery, client: Address | None) -> Answer:
        self._metrics.signature_failed(webhooks.platform)
        wait = self._limits.failed(client_group(client))
        if wait is not None:
            _logger.debug("Too many requests without a valid %s", webhooks.module.PROOF)
            return events.too_many(wait)
        _logger.error(
            "%s validation failed for a %s webhook: event=%s, client=%s",
            webhooks.module.PROOF.capitalize(),
            webhooks.title,
            safe(delivery.event, 60),
            client,
        )
        return events.refused(401, f"the {webhooks.module.PROOF} is missing or wrong", "unauthorized")

    async def _read(
        self, receive: Receive, verification: Verification, headers: Headers, client: str
    ) -> bytes | bytearray:
        """The raw body, verified as it arrives.

        Raises:
            BodyError: 413 beyond the limit, announced or not; 408 if it arrives too slowly.
            NoRoomError: too many bytes of other bodies are in memory.
            _DisconnectedError: the sender closed the connection.
        """
        too_large = BodyError(413, f"the body is larger than {self._largest} bytes")
        length = headers.get("content-length", "")
        size = int(length[:20]) if length.isdecimal() else self._largest
        if size > self._largest:
            raise too_large
        async with self._room.reserve(client, size) as room:
            start = asyncio.get_running_loop().time()
            # A large one is not enlarged with each part: to move it would take more memory than is reserved.
            body, end = bytearray(size if size > SMALL_BODY else 0), 0
            try:
                async with asyncio.timeout(BODY_GRACE) as deadline:
                    room.on_eviction = lambda: deadline.reschedule(0)
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise _DisconnectedError
                        chunk: bytes = message.get("body", b"")
                        more = message.get("more_body", False)
                        if end + len(chunk) > self._largest:
                            raise too_large
                        verification.update(chunk)
                        if not more and not end:
                            return chunk
                        room.arrived(len(chunk))
                        body[end : end + len(chunk)] = chunk
                        end += len(chunk)
                        if not more:
                            del body[end:]
                            return body
                        seconds = BODY_GRACE + end / BODY_RATE
                        deadline.reschedule(start + min(BODY_TIMEOUT, seconds))
            except TimeoutError as error:
                if room.evicted:
                    raise NoRoomError from error
                raise BodyError(408, "the body did not arrive in time") from error


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


async def _send(send: Send, answer: Answer) -> None:
    body = _encode(answer.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
    """The receiver as an ASGI application.

    Args:
        clock: aware time of receipt.
        allowlist: replaces the one that the settings describe.
        registry: for a program that exposes more metrics than the receiver's; the app's own by default.

    Raises:
        SettingsError: no secret is configured for any forge, or a rate limit is invalid.
    """
    _require_secrets(settings)
    allowlist = allowlist or Allowlist(settings)
    intake = Intake(settings, sink, ReceiverMetrics(registry or CollectorRegistry()), clock)

    @asynccontextmanager
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
        answer = events.refused(error.status_code, str(error.detail), "refused")
        return JSONResponse(answer.body, answer.status, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, and the server logs it with its trace.
        answer = events.unavailable("an internal error")
        return JSONResponse(answer.body, answer.status, answer.headers)


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
