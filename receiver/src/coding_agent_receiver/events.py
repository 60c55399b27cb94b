"""What a webhook can mean to us, and the rules that both forges share. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from coding_agent_core.commands import CommandName, IssueCommand, command_in
from coding_agent_core.reporting.render import MARKER
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import TaskRequest, Withdrawal, host_of

from coding_agent_receiver.payload import FieldError


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
