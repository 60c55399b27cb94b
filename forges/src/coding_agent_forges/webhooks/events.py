"""The possible meanings of a webhook, and the rules that the parsers of all forges share. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.reporting import command_execution as execution
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.commands import IssueCommand
from coding_agent_core.task.model import (
    FRESH,
    LABEL_REMOVED,
    CommandName,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    Trust,
    Withdrawal,
    WithdrawalCause,
    answered_issue,
    parse_time,
)
from coding_agent_core.task.runners import RunnerName

from coding_agent_forges.webhooks.payload import FieldError, Fields, display_text
from coding_agent_forges.webhooks.proof import Verification


@dataclass(frozen=True)
class Delivery:
    """The facts in the headers of a delivery.

    Attributes:
        event: the forge's name of the event; empty if there is none.
        id: the id that a redelivery keeps; `None` if the forge sends no such id.
    """

    event: str
    id: str | None


@dataclass(frozen=True)
class Accepted:
    """The event that a label which asks for a task was applied."""

    request: TaskRequest


@dataclass(frozen=True)
class Withdrawn:
    """The event that the last of our labels was removed, or that the item was closed."""

    withdrawal: Withdrawal


@dataclass(frozen=True)
class Ignored:
    """An authentic event that has no effect here.

    Attributes:
        reason: why the event has no effect, as a sentence.
        unexpected: whether a person asked for a task or the configuration is wrong. Neither is true of most
            events, because forges send every change of an item.
    """

    reason: str
    unexpected: bool = False


@dataclass(frozen=True)
class Commanded:
    """The event that a comment is a command. The receiver cannot know whether its author may use it."""

    command: IssueCommand


@dataclass(frozen=True)
class Rescan:
    """The event that something happened to a change, so that it has to be scanned. It may not be ours.

    Attributes:
        items: the change, if the event names it, and the issue that the change's branch answers.
        why: what happened, as a clause for logs.
        author: the login of the author of a comment or review; empty for other events. Anybody can write many
            comments.
    """

    items: tuple[Item, ...]
    why: str
    author: str = ""


@dataclass(frozen=True)
class RescanReason:
    """The reason for a scan, and the facts about the change in the event.

    Attributes:
        why: what happened, as a clause for logs.
        author: the login of the author of a comment or review; empty for other events.
        number: the number of the change, if the event has it.
        branch: the change's branch in this repository; `None` if the event does not have it.
    """

    why: str
    number: int | None = None
    branch: str | None = None
    author: str = ""


Meaning = Accepted | Withdrawn | Commanded | Rescan | Ignored


class PlatformWebhooks(Protocol):
    """The functions and constants of a platform's module `webhook`.

    Attributes:
        EVENT_HEADER: the name of the header that names the event.
        PROOF: what messages call the proof that a request is authentic, for example `token`.
    """

    EVENT_HEADER: str
    PROOF: str

    def verification(self, headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
        """Return the check of a request with these headers; `None` if no body can pass the check."""
        ...

    def delivery(self, headers: Mapping[str, str]) -> Delivery:
        """Return the event's name and the delivery's id."""
        ...

    def action_of(self, payload: Mapping[str, Any]) -> str:
        """Return what happened to the item, in the forge's word, for the log; empty if nothing says so."""
        ...

    def interpret(
        self, delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
    ) -> Meaning:
        """Return what an event asks for. Pure; the payload is of the forge, but may lack any field.

        Raises:
            FieldError: the event could start or stop a task, but a field is missing or has the wrong type.
        """
        ...


def comment_command(body: str, settings: Settings) -> CommandName | Ignored:
    """Return the command in a new comment."""
    name = execution.comment_command(body, settings.webhook.commands.accepted)
    return Ignored("the comment is not a command") if name is None else name


def rescan(project: Item, reason: RescanReason, settings: Settings) -> Rescan | Ignored:
    """Return the scan that an event causes.

    The agent's changes are recognized by their branches, because these events have nothing else to tell.

    Args:
        project: any item of the repository.
    """
    prefix, branch = settings.consumer.branch_prefix, reason.branch
    if branch is not None and not branch.startswith(prefix):
        return Ignored("the branch is not one of the agent's")
    answered = answered_issue(branch, prefix) if branch is not None else None
    numbers = {ItemKind.CHANGE: reason.number, ItemKind.ISSUE: answered}
    items = [
        project.model_copy(update={"kind": kind, "number": number})
        for kind, number in numbers.items()
        if number
    ]
    if not items:
        return Ignored("the branch is not for an issue")
    return Rescan(tuple(items), reason.why, display_text(reason.author)[:255])


def cancels(removed: Collection[str], left: Collection[str], labels: Labels) -> str | None:
    """Return the label whose removal cancels the task; `None` if the event cancels nothing.

    Our own label changes add the next label before they remove the old one, so `left` contains the next one:
    the processing label after a label that asks for a task, and then the done or the failed label. A done
    label from an earlier run does not prevent the cancellation of a task that still waits.

    Args:
        removed: the labels that this event removed.
        left: the labels on the item now.
    """
    if labels.active & set(left):
        return None
    ended = {labels.done_label, labels.failed_label}
    if labels.processing_label in removed and not ended & set(left):
        return labels.processing_label
    return min(labels.triggers & set(removed), default=None)


def done_by_us(user: str, platform: Platform, settings: Settings) -> bool:
    """Whether our own account applied or removed the label.

    A label from our account starts nothing, because our account may repeat other people's text. It removes
    labels to show a task's state, so such a removal cancels nothing.
    """
    return not settings.own_label_counts and is_ours(user, platform, settings)


def is_ours(user: str, platform: Platform, settings: Settings) -> bool:
    """Whether an account is the agent's configured account."""
    account = settings.forge(platform).account
    return bool(account) and user.casefold() == account.casefold()


OWN_LABEL = "the agent's own account applied the label; only people start tasks"
OWN_ACT = "it was the agent's own account"
OWN_REMOVAL = "the agent's own account removed the label; only people cancel tasks"


def foreign_host(url: str, field: str, configured: str) -> str | None:
    """Return a URL's host if it is not the configured one; default ports and case do not matter.

    Raises:
        FieldError: the URL has no host.
    """
    try:
        host = host_of(url)
    except ValueError as error:
        raise FieldError(field, "is not an http(s) URL") from error
    return None if _plain(host) == _plain(configured) else host


def _plain(host: str) -> str:
    return host.lower().removesuffix(":443").removesuffix(":80")


def accept(
    item: Item,
    subject: Fields,
    *,
    user: str,
    url: str,
    runner: RunnerName | None,
    trust: Trust,
    delivered: Delivery,
    received_at: datetime,
) -> Accepted:
    """Return the task request of a label application; `subject` is the item's object in the payload."""
    labeled_at = parse_time(subject.optional_text("updated_at"))
    # Forges send an event within seconds. No header marks a redelivery, so we recognize it by its age. Two
    # clocks measure this age, so the origin is not certain.
    is_late = labeled_at is not None and received_at - labeled_at > FRESH
    trigger = Trigger(
        origin=Origin.REDELIVERY if is_late else Origin.WEBHOOK,
        delivery_id=delivered.id,
        labeled_at=labeled_at,
        received_at=received_at,
    )
    return Accepted(
        TaskRequest(
            item=item,
            user=display_text(user)[:255],
            title=display_text(subject.optional_text("title"))[:1024],
            url=url,
            trigger=trigger,
            runner=runner,
            trusted=trust.trusted,
            answers=trust.answers,
        )
    )


def withdrawal_of(
    item: Item,
    subject: Fields,
    what: str,
    delivered: Delivery,
    *,
    ended: bool,
    of_trigger: bool = True,
    user: str = "",
) -> Withdrawn:
    """Return the withdrawal of an item that was closed or lost its label.

    Args:
        what: what happened, as the predicate of a sentence.
        ended: whether the item was closed.
        of_trigger: whether a label that asks for a task was withdrawn.
        user: the login of the account that removed the label; empty if it is not known.
    """
    noun = "issue" if item.kind is ItemKind.ISSUE else FACTS[item.platform].change_noun
    return Withdrawn(
        Withdrawal(
            item=item,
            reason=f"the {noun} {what}",
            message=f"The {noun} {what}." if ended else LABEL_REMOVED,
            cause=WithdrawalCause.CLOSED if ended else WithdrawalCause.UNLABELED,
            delivery_id=delivered.id,
            at=parse_time(subject.optional_text("updated_at")),
            of_trigger=of_trigger,
            user=user,
        )
    )


def command(
    item: Item,
    name: CommandName,
    comment: Fields,
    *,
    user: str,
    subject: Fields,
    url: str,
    delivered: Delivery,
    received_at: datetime,
) -> Commanded:
    """Return the event that a comment on an item is a command.

    Args:
        comment: the comment's object in the payload.
        subject: the item's object in the payload.
        url: the item's page.

    Raises:
        FieldError: the comment has no id, or a field has another type.
    """
    return Commanded(
        IssueCommand(
            item=item,
            name=name,
            comment=str(comment.number("id")),
            user=user,
            at=parse_time(comment.optional_text("created_at")),
            delivery_id=delivered.id,
            received_at=received_at,
            title=display_text(subject.optional_text("title"))[:1024],
            url=url,
        )
    )
