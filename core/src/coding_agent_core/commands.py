"""Commands that people write as comments on an item: what they are, and what follows. Pure.

Off unless `webhook.commands.enabled`. Who may give one is asked on the forge by whoever carries it out
(`carry_out`), for the receiver has no forge token; what is kept until then is in `command_notes`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from coding_agent_core.admission import LatestTask
from coding_agent_core.phases import Phase
from coding_agent_core.tasks import Frozen, Item, Origin, TaskRequest, Trigger, Withdrawal


class CommandName(StrEnum):
    """What can be asked for: `/cancel`, `/retry`, `/run`, `/status`."""

    CANCEL = "cancel"
    """Stop the item's task."""
    RETRY = "retry"
    """A new run, if the last one failed or was cancelled."""
    RUN = "run"
    """A new run, as if the label were put on; also where there never was one."""
    STATUS = "status"
    """Bring the comment up to date."""


class IssueCommand(Frozen):
    """A command as somebody wrote it; nobody has looked yet whether they may.

    Attributes:
        comment: the forge's own id of the comment: the same command is never carried out twice.
        user: login of the comment's author.
        at: when it was written, by the forge's clock; `None` where the event does not tell.
        delivery_id: the forge's id of the webhook delivery.
        received_at: when we learned of it, by our clock.
        title, url: of the item, for a task that the command makes.
    """

    item: Item
    name: CommandName
    comment: str = Field(min_length=1, max_length=32, pattern=r"^[0-9A-Za-z]+$")
    user: str = Field(min_length=1, max_length=255)
    at: datetime | None = None
    delivery_id: str | None = Field(default=None, max_length=128)
    received_at: datetime
    title: str = Field(default="", max_length=1024)
    url: str = Field(default="", max_length=2048)

    @property
    def trigger_id(self) -> str:
        """Stands for the delivery's id on the task that it makes: the comment's, however often it is told."""
        return f"comment-{self.comment}"

    def request(self) -> TaskRequest:
        """A new run, asked for at the time of the comment."""
        return TaskRequest(
            item=self.item,
            user=self.user,
            title=self.title,
            url=self.url,
            trigger=Trigger(
                origin=Origin.MANUAL,
                delivery_id=self.trigger_id,
                labeled_at=self.at,
                received_at=self.received_at,
            ),
        )

    def withdrawal(self) -> Withdrawal:
        """The task is not wanted any more, since the time of the comment."""
        return Withdrawal(
            item=self.item,
            reason=f"{self.user} cancelled it by a comment",
            message=f"{self.user} cancelled it by a comment.",
            delivery_id=self.trigger_id,
            at=self.at,
        )


def command_in(text: str, allowed: Collection[CommandName]) -> CommandName | None:
    """The command of a comment: its first line is exactly `/` and the name; white space may follow it.

    What stands below that line is for the agent, which reads the item's comments.
    """
    first = text.split("\n", 1)[0].rstrip(" \t\r")
    return next((name for name in allowed if first == f"/{name}"), None)


@dataclass(frozen=True)
class Standing:
    """Where the item stands when a command is carried out.

    Attributes:
        open: whether it can still be worked on.
        latest: its newest task, as admission sees it; `None` if it has none (or nobody remembers one).
        phase: of that task, as far as known.
    """

    open: bool
    latest: LatestTask | None
    phase: Phase | None


@dataclass(frozen=True)
class Start:
    """Ask admission for a new run."""


@dataclass(frozen=True)
class Stop:
    """Ask admission to cancel the task."""


@dataclass(frozen=True)
class Show:
    """Bring the comment up to date."""


@dataclass(frozen=True)
class Nothing:
    """Nothing is to be done, for the reason given."""

    why: str


Step = Start | Stop | Show | Nothing


def next_step(name: CommandName, standing: Standing) -> Step:
    """What a command that its author may give comes to; whether a run starts, `admit` decides afterwards."""
    match name:
        case CommandName.CANCEL:
            return Stop()
        case CommandName.STATUS:
            return Show()
        case CommandName.RUN:
            return Start() if standing.open else Nothing("the item is closed")
        case CommandName.RETRY:
            return _retry(standing)


def _retry(standing: Standing) -> Step:
    if not standing.open:
        return Nothing("the item is closed")
    ending = standing.latest is not None and standing.latest.cancel_requested
    if ending or standing.phase in (Phase.FAILED, Phase.CANCELLED):
        return Start()
    if standing.latest is None and standing.phase is None:
        return Nothing("there is no task to try again; /run starts one")
    if standing.phase is Phase.SUCCEEDED:
        return Nothing("the last task was done; /run starts another")
    return Nothing("the item's task has not ended")
