"""Commands that people write as comments, and how an AgentTask stores them.

The receiver has no forge token and cannot check who may use a command. So it stores the command in the
item's newest AgentTask, and the reporter checks the author and executes the command.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from coding_agent_core.task.agenttask import GROUP, LABEL_REPORTED, RESCAN, AgentTask, Spec
from coding_agent_core.task.model import (
    Cause,
    CommandName,
    ForgeTime,
    Frozen,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
)
from coding_agent_core.task.runners import RunnerName

ANNOTATION_COMMANDS = f"{GROUP}/commands"
"""The annotation with the JSON list of the commands that wait in an AgentTask."""
LABEL_COMMANDS = f"{GROUP}/commands"
"""The label that is `pending` while a command waits (`kubectl get agenttasks -l` selects by it)."""
PENDING = "pending"
LIMIT_PER_NAME = 16
"""This many authors can each have one waiting command of the same name on an item."""


class StoredCommand(Frozen):
    """A command as an AgentTask stores it; item, title, URL and `trusted` are those of the AgentTask.

    Attributes:
        comment: the forge's id of the comment, so that the same command is never executed twice.
        user: the login of the comment's author, who may lack the right to use the command.
        at: when the comment was written, by the forge's clock; `None` if the event does not say so.
        delivery_id: the forge's id of the webhook delivery.
        received_at: when we received the command, by our clock.
    """

    name: CommandName
    comment: str = Field(min_length=1, max_length=32, pattern=r"^[0-9A-Za-z]+$")
    user: str = Field(min_length=1, max_length=255)
    at: ForgeTime | None = None
    delivery_id: str | None = Field(default=None, max_length=128)
    received_at: AwareDatetime

    @property
    def time(self) -> datetime:
        """The time at which the comment was written, or at which we received it if that is not known."""
        return self.at or self.received_at

    def on(self, spec: Spec) -> IssueCommand:
        """Return the command for the item of a spec.

        Raises:
            ValueError: the spec was edited by hand and is not valid.
        """
        return IssueCommand(
            **self.model_dump(), item=spec.item, title=spec.title, url=spec.url, trusted=spec.trusted
        )


class IssueCommand(StoredCommand):
    """A command with its item; title, URL and `trusted` are for the task that it may create."""

    item: Item
    title: str = Field(default="", max_length=1024)
    url: str = Field(default="", max_length=2048)
    trusted: bool = False

    def stored(self) -> StoredCommand:
        return StoredCommand(**self.model_dump(include=set(StoredCommand.model_fields)))

    @property
    def trigger_id(self) -> str:
        """The delivery id of the task that the command creates, equal for every delivery of the comment."""
        return f"comment-{self.comment}"

    def request(self, runner: RunnerName | None) -> TaskRequest:
        """Return the request for a new run with this runner, made at the time of the comment."""
        return TaskRequest(
            item=self.item,
            user=self.user,
            title=self.title,
            url=self.url,
            trusted=self.trusted,
            trigger=Trigger(
                origin=Origin.MANUAL,
                cause=Cause.COMMAND,
                delivery_id=self.trigger_id,
                labeled_at=self.at,
                received_at=self.received_at,
            ),
            runner=runner,
        )

    def withdrawal(self) -> Withdrawal:
        """Return the request to cancel the task, made at the time of the comment."""
        return Withdrawal(
            item=self.item,
            reason=f"{self.user} cancelled it with a comment",
            message=f"{self.user} cancelled it with a comment.",
            cause=WithdrawalCause.COMMAND,
            delivery_id=self.trigger_id,
            at=self.at,
            received_at=self.received_at,
        )


def command_in(text: str, allowed: Collection[CommandName]) -> CommandName | None:
    """Return the command of a comment: its first line is `/` and the name, perhaps followed by white space.

    The other lines are for the agent, which reads the item's comments.
    """
    first = text.split("\n", 1)[0].rstrip(" \t\r")
    return next((name for name in allowed if first == f"/{name}"), None)


@dataclass(frozen=True)
class CommandStored:
    """The result for a command that waits in the AgentTask or the queue that `place` names."""

    place: str


@dataclass(frozen=True)
class CommandIgnored:
    """The result for a command that was not stored, for the reason `why`; sending it again would not help."""

    why: str


def stored_commands(task: AgentTask) -> list[StoredCommand]:
    """Return the commands that wait in an AgentTask, in order of arrival, without unreadable entries."""
    text = task.metadata.annotations.get(ANNOTATION_COMMANDS)
    if not text:
        return []
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        with suppress(ValidationError):
            found.append(StoredCommand.model_validate(entry))
    return found


def cancel_asked(task: AgentTask) -> datetime | None:
    """Return when we received the oldest `/cancel` that waits in a task.

    Whether its author may use the command is not checked yet.
    """
    cancels = [entry for entry in stored_commands(task) if entry.name is CommandName.CANCEL]
    return min((entry.received_at for entry in cancels), default=None)


def next_command(task: AgentTask) -> StoredCommand | None:
    """Return the command to execute next; a `/cancel` comes before all others."""
    stored = stored_commands(task)
    cancels = (entry for entry in stored if entry.name is CommandName.CANCEL)
    return next(cancels, stored[0] if stored else None)


def store(task: AgentTask, command: IssueCommand) -> dict[str, Any] | CommandIgnored:
    """Return the merge patch that stores a command in exactly this version of an AgentTask.

    The newest command of an author replaces the author's older command of the same name. It never replaces a
    command of another author. Each name has its own limit, so other commands cannot block a `/cancel`.
    """
    stored = stored_commands(task)
    same = [entry for entry in stored if entry.name is command.name]
    own = next((entry for entry in same if entry.user.casefold() == command.user.casefold()), None)
    entry = command.stored()
    if own is not None and (own.comment == entry.comment or own.time > entry.time):
        return CommandIgnored("it is already waiting, or a newer one by the same author is")
    # Anyone can write a comment, so the number is limited. A new command is ignored rather than answered with
    # an error: otherwise strangers could make the forge disable the webhook.
    if own is None and len(same) >= LIMIT_PER_NAME:
        return CommandIgnored(
            f"{len(same)} commands /{command.name} are already waiting; is the reporter running?"
        )
    # The reporter does not watch tasks that are reported; a changed label makes it watch this one again.
    reported = {LABEL_REPORTED: RESCAN} if LABEL_REPORTED in task.metadata.labels else {}
    return _patch([*(other for other in stored if other is not own), entry], reported)


def executed(task: AgentTask, command: StoredCommand, *, stopped: bool) -> dict[str, Any]:
    """Return the merge patch that removes a command from exactly this version of an AgentTask.

    Args:
        stopped: whether the command was a `/cancel` that took effect. Then older requests for a run are
            removed too, as if commands were executed in their order.
    """
    left = [entry for entry in stored_commands(task) if entry.comment != command.comment]
    if stopped:
        left = [entry for entry in left if entry.name is CommandName.CANCEL or entry.time > command.time]
    return _patch(left, {})


def _patch(stored: Iterable[StoredCommand], labels: Mapping[str, str | None]) -> dict[str, Any]:
    entries = [entry.model_dump(mode="json", exclude_none=True) for entry in stored]
    annotation = json.dumps(entries, ensure_ascii=False) if entries else None
    return {
        "metadata": {
            "labels": {**labels, LABEL_COMMANDS: PENDING if entries else None},
            "annotations": {ANNOTATION_COMMANDS: annotation},
        }
    }
