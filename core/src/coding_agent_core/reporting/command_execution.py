"""Executes the commands in comments, for the reporter, or for the consumer if there is no reporter.

Whoever has the receiver's token can store a command in anybody's name. So the comment itself decides: who
wrote it, when, on which item, and what it says.

Every step can be repeated: the comment of an executed command has our reaction, and a run that the command
created has the command's id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.item_forge import ItemForge
from coding_agent_core.forge.values import MARKER, Comment, Permission
from coding_agent_core.runtime.metrics import CollectorRegistry, Counter
from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.commands import IssueCommand, command_in
from coding_agent_core.task.model import (
    CommandName,
    Phase,
    Submission,
    TaskRequest,
    Withdrawal,
    whole_second,
)
from coding_agent_core.task.runners import RunnerName

_logger = logging.getLogger("coding_agent.commands")


def comment_command(body: str, accepted: Collection[CommandName]) -> CommandName | None:
    """Return the command of a comment. Our own comment, which has a hidden part, is never a command."""
    return None if MARKER in body else command_in(body, accepted)


def reason_not_to_believe(
    command: IssueCommand, comment: Comment, accepted: Collection[CommandName]
) -> str | None:
    """Return why a comment does not give a command that is said to be in it; `None` if it gives it.

    An edited comment gives none, as in webhooks: on some forges, people who may edit it need not be allowed
    to give commands.
    """
    if comment.author.casefold() != command.user.casefold():
        return f"{comment.author} wrote the comment"
    if comment.edited:
        return "the comment was edited; only new comments count"
    if comment_command(comment.body, accepted) is not command.name:
        return "the comment does not say so"
    return None


def reason_not_to_run(name: CommandName, phase: Phase | None) -> str | None:
    """Return why `/run` or `/retry` starts nothing on an open item; `None` if admission has to decide.

    Args:
        phase: the phase of the item's newest task; `CANCELLED` also while that task is being cancelled.
    """
    if name is not CommandName.RETRY or phase in (Phase.FAILED, Phase.CANCELLED):
        return None
    if phase is None:
        return "there is no task to retry; /run starts one"
    if phase is Phase.SUCCEEDED:
        return "the last task succeeded; /run starts another"
    return "the item's task has not ended"


class ExecutionResult(StrEnum):
    DONE = "done"
    NOTHING = "nothing"
    """There was nothing to do."""
    REFUSED = "refused"
    """The author may not use the command."""
    FAILED = "failed"
    """The forge does not allow us to check or to act, now or later."""


class TaskRequests(Protocol):
    """Accepts requests for new runs and withdrawals of tasks: a `TaskSink`, or the item's labels."""

    async def submit(self, request: TaskRequest) -> Submission: ...

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep: ...


@dataclass(frozen=True)
class LastTask:
    """An item's newest task.

    Attributes:
        phase: the phase as `reason_not_to_run` expects it.
        runner: the runner that was chosen for the task, which a further run uses too.
    """

    phase: Phase | None = None
    runner: RunnerName | None = None


@dataclass(frozen=True)
class Target:
    """The forge, the tasks and the item's newest task, on which a command acts.

    Attributes:
        tasks: submits and withdraws tasks.
        last: reads the item's newest task.
        accepted: the commands that count (`webhook.commands`).
    """

    forge: ItemForge
    tasks: TaskRequests
    last: Callable[[], Awaitable[LastTask]]
    accepted: Collection[CommandName]


class CommandMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._commands = Counter(
            "coding_agent_commands",
            "Commands in comments by result",
            ["platform", "command", "result"],
            registry=registry,
        )

    def count(self, command: IssueCommand, result: ExecutionResult) -> None:
        self._commands.labels(command.item.platform, command.name, result).inc()


async def execute(
    command: IssueCommand, target: Target, metrics: CommandMetrics | None = None
) -> ExecutionResult:
    """Check that the author gave the command and may use it, and execute it.

    Raises:
        ForgeUnavailableError: the forge is not available; repeat the call later.
        QueueUnavailableError: the queue is not available; repeat the call later.
    """
    try:
        result, text = await _execute(command, target)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:
        result, text = ExecutionResult.FAILED, str(error)
    # A refusal is only logged. If it were answered on the item, anybody could make the bot write.
    warn = result in (ExecutionResult.REFUSED, ExecutionResult.FAILED)
    what = f"/{command.name} by {command.user} on {command.item.display}"
    _logger.log(logging.WARNING if warn else logging.INFO, "%s: %s: %s", what, result, text)
    if metrics is not None:
        metrics.count(command, result)
    return result


async def _execute(command: IssueCommand, target: Target) -> tuple[ExecutionResult, str]:
    forge = target.forge
    if command.name not in target.accepted:
        return ExecutionResult.REFUSED, "webhook.commands does not accept it"
    if command.user.casefold() == (await forge.whoami()).casefold():
        # A comment that quotes a command would otherwise command the bot in a loop.
        return ExecutionResult.REFUSED, "the bot's own account cannot give commands"
    if await forge.permission(command.item, command.user) < Permission.WRITE:
        return ExecutionResult.REFUSED, f"{command.user} has no write access to the repository"
    try:
        comment = await forge.read_comment(command.item, command.comment)
        why = reason_not_to_believe(command, comment, target.accepted)
        if why is not None:
            return ExecutionResult.REFUSED, why
        # The reaction is the record of the execution: it survives the process and a second delivery.
        if await forge.has_reacted(command.item, command.comment):
            return ExecutionResult.NOTHING, "it has already been executed"
    except ForgeNotFoundError:
        return ExecutionResult.NOTHING, "its comment was deleted, or is not on this item"
    # The time is what the command approves, so it comes from the forge too.
    result = await _act(command.model_copy(update={"at": whole_second(comment.created_at)}), target)
    try:
        await forge.react(command.item, command.comment)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:  # the command was executed anyway
        _logger.warning("Could not react to the comment: %s", error)
    return result


async def _act(command: IssueCommand, target: Target) -> tuple[ExecutionResult, str]:
    if command.name is CommandName.CANCEL:
        decision = await target.tasks.withdraw(command.withdrawal())
        if isinstance(decision, Keep):
            return ExecutionResult.NOTHING, decision.why
        return ExecutionResult.DONE, f"cancelled {decision.task}"
    if not (await target.forge.read(command.item)).open:
        return ExecutionResult.NOTHING, "the item is closed"
    last = await target.last()
    why = reason_not_to_run(command.name, last.phase)
    if why is not None:
        return ExecutionResult.NOTHING, why
    submission = await target.tasks.submit(command.request(last.runner))
    if submission.duplicate is not None:
        return ExecutionResult.NOTHING, submission.duplicate
    return ExecutionResult.DONE, f"requested {submission.task}"
