"""Executes commands: in the reporter, or in the consumer where there is no reporter.

Every step can be repeated: an executed command bears our reaction, and a run that it created bears its id.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from coding_agent_core.commands import CommandName, IssueCommand, reason_not_to_run
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.phases import Phase
from coding_agent_core.queues.protocol import Submission
from coding_agent_core.tasks import TaskRequest, Withdrawal

_logger = logging.getLogger("coding_agent.commands")


class ExecutionResult(StrEnum):
    DONE = "done"
    NOTHING = "nothing"
    """There was nothing to do."""
    REFUSED = "refused"
    """Its author may not give it."""
    FAILED = "failed"
    """The forge does not allow us to check or to act, and would not later."""


class TaskRequests(Protocol):
    """Where new runs are requested and tasks are cancelled: a `TaskSink`, or the item's labels."""

    async def submit(self, request: TaskRequest) -> Submission:
        """Request a run."""
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Cancel the item's task; its name, or `None`."""
        ...


@dataclass(frozen=True)
class Target:
    """What a command acts on.

    Attributes:
        phase: of the item's newest task, see `reason_not_to_run`.
    """

    forge: Forge
    tasks: TaskRequests
    phase: Callable[[], Awaitable[Phase | None]]


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
    """Check that the author may give the command, and do what it says.

    Raises:
        ForgeUnavailableError, QueueUnavailableError: not now; repeat the call later.
    """
    try:
        result, text = await _execute(command, target)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:
        result, text = ExecutionResult.FAILED, str(error)
    # People without the right get no answer on the item: only the log shows it.
    warn = result in (ExecutionResult.REFUSED, ExecutionResult.FAILED)
    _logger.log(
        logging.WARNING if warn else logging.INFO,
        "/%s by %s on %s: %s: %s",
        command.name,
        command.user,
        command.item.display,
        result,
        text,
    )
    if metrics is not None:
        metrics.count(command, result)
    return result


async def _execute(command: IssueCommand, target: Target) -> tuple[ExecutionResult, str]:
    forge = target.forge
    if command.user.casefold() == (await forge.whoami()).casefold():
        return ExecutionResult.REFUSED, "our own account gives no commands"
    if not await forge.can_write(command.item, command.user):
        return ExecutionResult.REFUSED, f"{command.user} has no write access to the repository"
    try:
        if await forge.has_reacted(command.item, command.comment):
            return ExecutionResult.NOTHING, "it was executed before"
    except ForgeNotFoundError:
        return ExecutionResult.NOTHING, "its comment is gone"
    result = await _act(command, target)
    try:
        await forge.react(command.item, command.comment)
    except ForgeUnavailableError:
        raise
    except ForgeError as error:  # the command was executed all the same
        _logger.warning("Could not react to the comment: %s", error)
    return result


async def _act(command: IssueCommand, target: Target) -> tuple[ExecutionResult, str]:
    if command.name is CommandName.CANCEL:
        task = await target.tasks.withdraw(command.withdrawal())
        if task is None:
            return ExecutionResult.NOTHING, "there is no task to cancel"
        return ExecutionResult.DONE, f"cancelled {task}"
    if not (await target.forge.read(command.item)).open:
        return ExecutionResult.NOTHING, "the item is closed"
    why = reason_not_to_run(command.name, await target.phase())
    if why is not None:
        return ExecutionResult.NOTHING, why
    submission = await target.tasks.submit(command.request())
    if submission.duplicate is not None:
        return ExecutionResult.NOTHING, submission.duplicate
    return ExecutionResult.DONE, f"requested {submission.task}"
