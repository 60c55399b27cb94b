"""The replies to webhooks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coding_agent_core.platforms.text import safe

from coding_agent_receiver.webhook_request import BodyError

RETRY_AFTER = 30
"""Seconds after which a sender may try again if the task could not be stored."""

DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The task or command is stored, or the event does not concern this installation"},
    400: {"description": "The body is not JSON, or a header is missing"},
    401: {"description": "The signature or token is missing or wrong"},
    403: {"description": "The sender's address is not allowed"},
    408: {"description": "The body did not arrive in time"},
    413: {"description": "The body is too large"},
    415: {"description": "The body is not `application/json`"},
    422: {"description": "The payload does not have the expected form"},
    429: {"description": "The sender exceeded its rate limit; `Retry-After` says when it may send again"},
    503: {"description": "The event was not stored and should be sent again after `Retry-After` seconds"},
}
"""The statuses of the replies, for the OpenAPI description."""


@dataclass(frozen=True)
class WebhookReply:
    """The reply to a webhook.

    Attributes:
        result: the result's name in metrics.
    """

    status: int
    body: dict[str, Any]
    result: str
    headers: dict[str, str] = field(default_factory=dict)


def success(task: str) -> WebhookReply:
    return WebhookReply(200, {"status": "success", "task_queued": True, "task": task}, "success")


def duplicate(task: str) -> WebhookReply:
    return WebhookReply(200, {"status": "duplicate", "task": task}, "duplicate")


def cancelled(task: str) -> WebhookReply:
    return WebhookReply(200, {"status": "cancelled", "task": task}, "cancelled")


def command_stored(name: str, task: str) -> WebhookReply:
    return WebhookReply(200, {"status": "command", "command": name, "task": task}, "command")


def rescan_stored(task: str) -> WebhookReply:
    return WebhookReply(200, {"status": "rescan", "task": task}, "rescan")


def ignored(reason: str) -> WebhookReply:
    return WebhookReply(200, {"status": "ignored", "reason": safe(reason)}, "ignored")


def refused(status: int, reason: str, result: str, **headers: str) -> WebhookReply:
    """Return the reply to a request that had no effect and would have none if it were sent again."""
    return WebhookReply(status, {"status": "error", "reason": safe(reason)}, result, headers)


def unreadable(error: BodyError) -> WebhookReply:
    return refused(error.status, str(error), "too_large" if error.status == 413 else "unreadable")


def unavailable(reason: str, result: str = "unavailable") -> WebhookReply:
    """Return the reply to a request that was not stored and should be sent again."""
    return refused(503, reason, result, **{"Retry-After": str(RETRY_AFTER)})


def overloaded() -> WebhookReply:
    """Return the reply if too many webhooks arrive at once; the sender should send the request again."""
    return unavailable("too many webhooks at once", "overloaded")


def too_many(wait: int) -> WebhookReply:
    """Return the reply to a sender that exceeded its rate limit and must wait for some seconds."""
    return refused(429, "too many requests", "rate_limited", **{"Retry-After": str(wait)})
