"""The answers that the senders of webhooks get. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coding_agent_core.telemetry import safe

from coding_agent_receiver.request import BodyError

RETRY_AFTER = 30
"""Seconds after which a sender may try again if the task could not be stored."""


@dataclass(frozen=True)
class Answer:
    """The answer to a webhook.

    Attributes:
        result: its name in metrics.
    """

    status: int
    body: dict[str, Any]
    result: str
    headers: dict[str, str] = field(default_factory=dict)


def success(task: str) -> Answer:
    return Answer(200, {"status": "success", "task_queued": True, "task": task}, "success")


def duplicate(task: str) -> Answer:
    return Answer(200, {"status": "duplicate", "task": task}, "duplicate")


def cancelled(task: str) -> Answer:
    return Answer(200, {"status": "cancelled", "task": task}, "cancelled")


def command_stored(name: str, task: str) -> Answer:
    return Answer(200, {"status": "command", "command": name, "task": task}, "command")


def ignored(reason: str) -> Answer:
    return Answer(200, {"status": "ignored", "reason": safe(reason)}, "ignored")


def refused(status: int, reason: str, result: str, **headers: str) -> Answer:
    """Nothing was done, and sending the same request again would not help."""
    return Answer(status, {"status": "error", "reason": safe(reason)}, result, headers)


def unreadable(error: BodyError) -> Answer:
    return refused(error.status, str(error), "too_large" if error.status == 413 else "unreadable")


def unavailable(reason: str, result: str = "unavailable") -> Answer:
    """Nothing was stored; sending the same request again can help."""
    return refused(503, reason, result, **{"Retry-After": str(RETRY_AFTER)})


def overloaded() -> Answer:
    """As `unavailable`, because too much arrives at once."""
    return unavailable("too many webhooks at once", "overloaded")


def too_many(wait: int) -> Answer:
    """The sender exceeded its rate limit; `wait` is in seconds."""
    return refused(429, "too many requests", "rate_limited", **{"Retry-After": str(wait)})
