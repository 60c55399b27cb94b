"""Carries commands out: by whoever has a forge token, the reporter or the consumer.

It can be repeated: a command that was carried out bears our reaction, and a run that it made bears its id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from coding_agent_core.commands import (
    CommandName,
    IssueCommand,
    Nothing,
    Show,
    Standing,
    Start,
    Stop,
    next_step,
)
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.queues.protocol import Submission
from coding_agent_core.tasks import TaskRequest, Withdrawal

_logger = logging.getLogger("coding_agent.commands")


class Result(StrEnum):
    """What became of a command."""

    DONE = "done"
    NOTHING = "nothing"
    """There was nothing to do."""
    REFUSED = "refused"
    """Its author may not give it."""
    FAILED = "failed"
    """The forge refuses to let us look or act, and would again."""


@dataclass(frozen=True)
class CarriedOut:
    """What became of a command, with a sentence why for logs."""

    result: Result
    text: str


class Runs(Protocol):
    """Where new runs are asked for and tasks are cancelled; as in `TaskSink`."""

    async def submit(self, request: TaskRequest) -> Submission:
        """Ask for a run."""
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Cancel the item's task; its name, or `None`."""
        ...


@dataclass(frozen=True)
class Place:
    """What a command acts on.

    Attributes:
        look: where the item's newest task stands; `open` is overwritten by what the forge says.
        show: brings the comment up to date; `None` where it always is.
    """

    runs: Runs
    look: Callable[[], Awaitable[Standing]]
    show: Callable[[IssueCommand], Awaitable[None]] | None = None


class CommandMetrics:
    """Counts commands by what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._commands = Counter(
            "coding_agent_commands",
            "Commands in comments by what became of them",
            ["platform", "command", "result"],
            registry=registry,
        )

    def count(self, command: IssueCommand, result: Result) -> None:
        """Count one."""
        self._commands.labels(command.item.platform, command.name, result).inc()


async def carry_out(
    command: IssueCommand, forge: Forge, place: Place, metrics: CommandMetrics | None = None
) -> CarriedOut:
    """Look whether the author may give the command, and do what it says.

    Raises:
        ForgeUnavailableError, QueueUnavailableError: not now; repeat the call later.
    """
    try:
        done = await _carry_out(command, forge, place)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:
        done = CarriedOut(Result.FAILED, str(error))
    # A person without the right gets no answer on the item: the log is where the team can see it.
    level = logging.WARNING if done.result in (Result.REFUSED, Result.FAILED) else logging.INFO
    _logger.log(
        level,
        "/%s by %s on %s: %s: %s",
        command.name,
        command.user,
        command.item.display,
        done.result,
        done.text,
    )
    if metrics is not None:
        metrics.count(command, done.result)
    return done


async def _carry_out(command: IssueCommand, forge: Forge, place: Place) -> CarriedOut:
    if command.user.casefold() == (await forge.whoami()).casefold():
        return CarriedOut(Result.REFUSED, "we do not command ourselves")
    if not await forge.can_write(command.item, command.user):
        return CarriedOut(Result.REFUSED, f"{command.user} has no write access to the repository")
    try:
        if await forge.has_reacted(command.item, command.comment):
            return CarriedOut(Result.DONE, "it was carried out before")
    except ForgeNotFoundError:
        return CarriedOut(Result.NOTHING, "its comment is gone")
    done = await _act(command, forge, place)
    try:
        await forge.react(command.item, command.comment)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:  # it was carried out all the same
        _logger.warning("Could not show on the comment that it was seen: %s", error)
    return done


async def _act(command: IssueCommand, forge: Forge, place: Place) -> CarriedOut:
    standing = await place.look()
    if command.name in (CommandName.RUN, CommandName.RETRY):
        details = await forge.read(command.item)
        standing = Standing(open=details.open, latest=standing.latest, phase=standing.phase)
    match next_step(command.name, standing):
        case Start():
            submission = await place.runs.submit(command.request())
            if submission.duplicate is not None:
                return CarriedOut(Result.NOTHING, submission.duplicate)
            return CarriedOut(Result.DONE, f"asked for {submission.task}")
        case Stop():
            task = await place.runs.withdraw(command.withdrawal())
            if task is None:
                return CarriedOut(Result.NOTHING, "there is no task to cancel")
            return CarriedOut(Result.DONE, f"cancelled {task}")
        case Show():
            if place.show is not None:
                await place.show(command)
            return CarriedOut(Result.DONE, "the comment is up to date")
        case Nothing(why):
            return CarriedOut(Result.NOTHING, why)
