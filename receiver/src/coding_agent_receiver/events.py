"""What a webhook can mean, the rules that all forges share, and the answers that senders get. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from coding_agent_core.commands import CommandName, IssueCommand, command_in
from coding_agent_core.logs import safe
from coding_agent_core.reporting.render import MARKER
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import TaskRequest, Withdrawal, host_of

from coding_agent_receiver.payload import BodyError, FieldError
from coding_agent_receiver.verify import Verification


@dataclass(frozen=True)
class Delivery:
    """What the headers tell.

    Attributes:
        event: the forge's name of the event, empty if there was none.
        id: the same when the forge sends the event again; `None` where it gives no such id.
    """

    event: str
    id: str | None


@dataclass(frozen=True)
class Accepted:
    """The label was applied: a task is asked for."""

    request: TaskRequest


@dataclass(frozen=True)
class Withdrawn:
    """The flow's last label was taken off, or the item was closed."""

    withdrawal: Withdrawal


@dataclass(frozen=True)
class Ignored:
    """An authentic event that does not concern us, with a sentence why."""

    reason: str


@dataclass(frozen=True)
class Commanded:
    """A comment is a command; whether its author may give it is not for us to know."""

    command: IssueCommand


Meaning = Accepted | Withdrawn | Commanded | Ignored


class PlatformWebhooks(Protocol):
    """What the module of a platform provides.

    Attributes:
        EVENT_HEADER: name of the header that names the event.
        PROOF: what a request is verified by, for people.
    """

    EVENT_HEADER: str
    PROOF: str

    def verification(self, headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
        """The check of a request with these headers; `None` if no body can pass it."""
        ...

    def delivery(self, headers: Mapping[str, str]) -> Delivery: ...

    def action_of(self, payload: Mapping[str, Any]) -> str: ...

    def interpret(
        self, delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
    ) -> Meaning: ...


def comment_command(body: str, settings: Settings) -> CommandName | Ignored:
    """The command of a new comment, if it is one; our own comment, by its hidden part, never is."""
    name = command_in(body, settings.webhook.commands.allowed)
    if name is None or MARKER in body:
        return Ignored("the comment is no command")
    return name


def cancels(removed: Collection[str], left: Collection[str], labels: Labels) -> str | None:
    """Which label's removal is a person's cancel, `None` if none is.

    Our own swaps put the next label on before they take the old one off, so the next label is among those
    left: after the bot label comes the processing label, after that the done or the failed one. A done label
    that is left from an earlier run does not keep a task that is still waiting.

    Args:
        removed: labels that this event took off.
        left: labels on the item now.
    """
    running = {labels.bot_label, labels.processing_label}
    ended = {labels.done_label, labels.failed_label}
    if labels.processing_label in removed and not (running | ended) & set(left):
        return labels.processing_label
    if labels.bot_label in removed and not running & set(left):
        return labels.bot_label
    return None


def foreign_host(url: str, field: str, configured: str) -> str | None:
    """The URL's host if it is not the configured one, else `None`; default ports and case do not count.

    Raises:
        FieldError: the URL has no host.
    """
    try:
        host = host_of(url)
    except ValueError as error:
        raise FieldError(field, "is no http(s) URL") from error
    return None if _plain(host) == _plain(configured) else host


def _plain(host: str) -> str:
    return host.lower().removesuffix(":443").removesuffix(":80")


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
    """The command is kept; whoever has a forge token carries it out."""
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


def too_many(wait: int) -> Answer:
    """The sender's rate limit is exceeded; `wait` is in seconds."""
    return refused(429, "too many requests", "rate_limited", **{"Retry-After": str(wait)})
