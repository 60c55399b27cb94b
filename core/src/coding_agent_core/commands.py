"""Commands that people write as comments: how an AgentTask stores them, and how they are executed.

The receiver has no forge token, so it cannot check who may give a command: it stores the command on the
item's newest AgentTask, and the reporter executes it. Without a reporter the consumer executes it. Every step
can be repeated: an executed command bears our reaction, and a run that it created bears its id. See
docs/decisions/0015.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter
from pydantic import Field, ValidationError

from coding_agent_core.admission import Cancel, Keep
from coding_agent_core.agenttask import GROUP, LABEL_REPORTED, Spec
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.protocol import Forge, Permission
from coding_agent_core.tasks import (
    Cause,
    ForgeTime,
    Frozen,
    Item,
    Origin,
    Phase,
    RunnerName,
    Submission,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
)

_logger = logging.getLogger("coding_agent.commands")

ANNOTATION_COMMANDS = f"{GROUP}/commands"
"""JSON list of the commands that wait on an AgentTask."""
LABEL_COMMANDS = f"{GROUP}/commands"
"""`pending` while a command waits: `kubectl get agenttasks -l coding-agent.dev/commands=pending`."""
PENDING = "pending"
LIMIT_PER_NAME = 16
"""Authors who can have a command of one name waiting on one item, one command for each author."""


class CommandName(StrEnum):
    CANCEL = "cancel"
    """Stop the item's task."""
    RETRY = "retry"
    """A new run, if the last one failed or was cancelled."""
    RUN = "run"
    """A new run, as if the label were applied."""


class StoredCommand(Frozen):
    """A command as an AgentTask stores it; item, title, URL and `trusted` are those of the AgentTask.

    Attributes:
        comment: the forge's own id of the comment: the same command is never executed twice.
        user: login of the comment's author, who may lack the right to give it.
        at: when it was written, by the forge's clock; `None` where the event does not say.
        delivery_id: the forge's id of the webhook delivery.
        received_at: when we learned of it, by our clock.
    """

    name: CommandName
    comment: str = Field(min_length=1, max_length=32, pattern=r"^[0-9A-Za-z]+$")
    user: str = Field(min_length=1, max_length=255)
    at: ForgeTime | None = None
    delivery_id: str | None = Field(default=None, max_length=128)
    received_at: datetime

    @property
    def time(self) -> datetime:
        """When it was written, as far as is known."""
        return self.at or self.received_at

    def on(self, spec: Spec) -> IssueCommand:
        """The command, about the item of this spec.

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
        """Takes the place of a delivery id on the task: the same for every delivery of the comment."""
        return f"comment-{self.comment}"

    def request(self, runner: RunnerName | None) -> TaskRequest:
        """A new run by this coding agent, requested at the time of the comment."""
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
        """A request to cancel the task, made at the time of the comment."""
        return Withdrawal(
            item=self.item,
            reason=f"{self.user} cancelled it with a comment",
            message=f"{self.user} cancelled it with a comment.",
            cause=WithdrawalCause.COMMAND,
            delivery_id=self.trigger_id,
            at=self.at,
        )


def command_in(text: str, allowed: Collection[CommandName]) -> CommandName | None:
    """The command of a comment: its first line is exactly `/` and the name; white space may follow it.

    The lines below are for the agent, which reads the item's comments.
    """
    first = text.split("\n", 1)[0].rstrip(" \t\r")
    return next((name for name in allowed if first == f"/{name}"), None)


def reason_not_to_run(name: CommandName, phase: Phase | None) -> str | None:
    """Why `/run` or `/retry` starts nothing on an open item; `None`: ask admission.

    `phase` is that of the item's newest task, `CANCELLED` also while it is being cancelled.
    """
    if name is not CommandName.RETRY or phase in (Phase.FAILED, Phase.CANCELLED):
        return None
    if phase is None:
        return "there is no task to retry; /run starts one"
    if phase is Phase.SUCCEEDED:
        return "the last task succeeded; /run starts another"
    return "the item's task has not ended"


@dataclass(frozen=True)
class CommandStored:
    """The command waits on this AgentTask or in this queue."""

    place: str


@dataclass(frozen=True)
class CommandIgnored:
    """The command was not stored, for this reason; sending it again would not help."""

    why: str


Body = Mapping[str, Any]


def stored_commands(body: Body) -> list[StoredCommand]:
    """The commands that wait on an AgentTask, in order of arrival. Unreadable entries are left out."""
    text = (body["metadata"].get("annotations") or {}).get(ANNOTATION_COMMANDS, "")
    try:
        entries = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        with suppress(ValidationError):
            found.append(StoredCommand.model_validate(entry))
    return found


def next_command(body: Body) -> StoredCommand | None:
    """The command to execute next: `/cancel` before all others."""
    stored = stored_commands(body)
    cancels = (entry for entry in stored if entry.name is CommandName.CANCEL)
    return next(cancels, stored[0] if stored else None)


def store(body: Body, command: IssueCommand) -> dict[str, Any] | CommandIgnored:
    """The merge patch that stores a command on exactly this version of an AgentTask.

    The newest command of an author replaces an older one of the same name. No command replaces that of
    another author, and `/cancel` does not compete for room with the others.
    """
    stored = stored_commands(body)
    same = [entry for entry in stored if entry.name is command.name]
    own = next((entry for entry in same if entry.user.casefold() == command.user.casefold()), None)
    entry = command.stored()
    if own is not None and (own.comment == entry.comment or own.time > entry.time):
        return CommandIgnored("it is already waiting, or a newer one by the same author is")
    if own is None and len(same) >= LIMIT_PER_NAME:
        return CommandIgnored(
            f"{len(same)} commands /{command.name} are already waiting; is the reporter running?"
        )
    patch = _patch(body, [*(other for other in stored if other is not own), entry])
    # The reporter watches the tasks whose end it has not shown yet.
    patch["metadata"]["labels"][LABEL_REPORTED] = None
    return patch


def executed(body: Body, command: StoredCommand, *, stopped: bool) -> dict[str, Any]:
    """The merge patch that removes a command from exactly this version of an AgentTask.

    With `stopped` it was a `/cancel` by someone who may give it: older requests for a run end with it, as if
    commands were executed in order.
    """
    left = [entry for entry in stored_commands(body) if entry.comment != command.comment]
    if stopped:
        left = [entry for entry in left if entry.name is CommandName.CANCEL or entry.time > command.time]
    return _patch(body, left)


def _patch(body: Body, stored: Iterable[StoredCommand]) -> dict[str, Any]:
    entries = [entry.model_dump(mode="json", exclude_none=True) for entry in stored]
    return {
        "metadata": {
            # A merge patch with a resourceVersion is refused with 409 if the object has another one by now.
            "resourceVersion": body["metadata"]["resourceVersion"],
            "labels": {LABEL_COMMANDS: PENDING if entries else None},
            "annotations": {
                ANNOTATION_COMMANDS: json.dumps(entries, ensure_ascii=False) if entries else None
            },
        }
    }


class ExecutionResult(StrEnum):
    DONE = "done"
    NOTHING = "nothing"
    """There was nothing to do."""
    REFUSED = "refused"
    """Its author may not give it."""
    FAILED = "failed"
    """The forge does not allow us to check or to act, now or later."""


class TaskRequests(Protocol):
    """Where new runs are requested and tasks are cancelled: a `TaskSink`, or the item's labels."""

    async def submit(self, request: TaskRequest) -> Submission: ...

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep: ...


@dataclass(frozen=True)
class LastTask:
    """An item's newest task; `phase` is as `reason_not_to_run` takes it.

    Attributes:
        runner: the coding agent that was chosen for it, which does a further run too.
    """

    phase: Phase | None = None
    runner: RunnerName | None = None


@dataclass(frozen=True)
class Target:
    """What a command acts on."""

    forge: Forge
    tasks: TaskRequests
    last: Callable[[], Awaitable[LastTask]]


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
    what = f"/{command.name} by {command.user} on {command.item.display}"
    _logger.log(logging.WARNING if warn else logging.INFO, "%s: %s: %s", what, result, text)
    if metrics is not None:
        metrics.count(command, result)
    return result


async def _execute(command: IssueCommand, target: Target) -> tuple[ExecutionResult, str]:
    forge = target.forge
    if command.user.casefold() == (await forge.whoami()).casefold():
        return ExecutionResult.REFUSED, "the bot's own account cannot give commands"
    if await forge.permission(command.item, command.user) < Permission.WRITE:
        return ExecutionResult.REFUSED, f"{command.user} has no write access to the repository"
    try:
        if await forge.has_reacted(command.item, command.comment):
            return ExecutionResult.NOTHING, "it has already been executed"
    except ForgeNotFoundError:
        return ExecutionResult.NOTHING, "its comment was deleted"
    result = await _act(command, target)
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
