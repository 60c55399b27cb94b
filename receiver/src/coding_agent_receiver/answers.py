"""The answers to webhooks (requirements S5, S6): status, body and what the metrics call them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coding_agent_core.logs import safe

from coding_agent_receiver.body import BodyError

RETRY_AFTER = 30
"""Seconds after which a sender may try again when we cannot store a task now."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        result: its name in metrics.
    """

    status: int
    body: dict[str, Any]
    result: str
    headers: dict[str, str] = field(default_factory=dict)


def success(task: str) -> Answer:
    """The task is stored."""
    return Answer(200, {"status": "success", "task_queued": True, "task": task}, "success")


def duplicate(task: str) -> Answer:
    """The label application has its task already."""
    return Answer(200, {"status": "duplicate", "task": task}, "duplicate")


def cancelled(task: str) -> Answer:
    """The item's task is asked to stop."""
    return Answer(200, {"status": "cancelled", "task": task}, "cancelled")


def commanded(name: str, task: str) -> Answer:
    """The command is stored; the program with the forge token executes it."""
    return Answer(200, {"status": "command", "command": name, "task": task}, "command")


def ignored(reason: str) -> Answer:
    """An authentic event that does not concern us."""
    return Answer(200, {"status": "ignored", "reason": safe(reason)}, "ignored")


def refused(status: int, reason: str, result: str, **headers: str) -> Answer:
    """Nothing was done, and sending the same again would not help."""
    return Answer(status, {"status": "error", "reason": safe(reason)}, result, headers)


def unreadable(error: BodyError) -> Answer:
    """The body cannot be read."""
    return refused(error.status, str(error), "too_large" if error.status == 413 else "unreadable")


def unavailable(reason: str, result: str = "unavailable") -> Answer:
    """Nothing was stored; sending the same again can help."""
    return refused(503, reason, result, **{"Retry-After": str(RETRY_AFTER)})
