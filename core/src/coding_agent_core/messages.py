"""What programs send to each other through a queue: the queued task, and the queue that holds it. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from pydantic import Field, ValidationError

from coding_agent_core.admission import Cancel, Keep
from coding_agent_core.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.registry import KEY_FIELDS, Platform
from coding_agent_core.tasks import (
    Frozen,
    Item,
    Origin,
    Submission,
    TaskRequest,
    Trigger,
    Withdrawal,
    new_uuid,
    task_name,
)
from coding_agent_core.text import first_problem


class QueuedTask(Frozen):
    """An admitted task in a queue.

    The message (`to_message`) is the item's key with `uuid` and `user`, as existing consumers of the queue
    expect it; everything else is in one more field, `task`.

    Attributes:
        attempt: number of the attempt that this message starts, from 1.
    """

    request: TaskRequest
    uuid: str
    run: int = Field(default=1, ge=1)
    attempt: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        return task_name(self.request.item, self.run)

    def to_message(self) -> dict[str, Any]:
        request = self.request
        return {
            **_key(request.item),
            "uuid": self.uuid,
            "user": request.user,
            "task": {
                "item": request.item.model_dump(mode="json", exclude_none=True),
                "title": request.title,
                "url": request.url,
                "trigger": request.trigger.model_dump(mode="json"),
                "run": self.run,
                "attempt": self.attempt,
                **({} if request.runner is None else {"runner": request.runner.value}),
            },
        }

    @staticmethod
    def from_message(
        data: Mapping[str, Any], *, now: datetime, hosts: Mapping[Platform, str] | None = None
    ) -> QueuedTask:
        """Read a message, ours or one of the existing producer (a key with `uuid` and `user`).

        Args:
            now: replaces a missing time of receipt; timezone-aware.
            hosts: the configured host of each platform, for messages without a host.

        Raises:
            ValueError: the message is not a task; the sentence names the field.
        """
        if not isinstance(data, Mapping):
            raise ValueError("not a task: the message is not a JSON object")  # noqa: TRY004 - one error for callers
        extra = data.get("task") or {}
        if not isinstance(extra, Mapping):
            raise ValueError("not a task: task: not a JSON object")  # noqa: TRY004
        trigger = extra.get("trigger") or {"origin": Origin.MANUAL, "received_at": now}
        try:
            request = TaskRequest(
                item=_item(data, extra, hosts or {}),
                user=data.get("user") or "",
                title=extra.get("title", ""),
                url=extra.get("url", ""),
                trigger=Trigger.model_validate(trigger),
                runner=extra.get("runner"),
            )
            return QueuedTask(
                request=request,
                uuid=str(data.get("uuid") or new_uuid()),
                run=extra.get("run", 1),
                attempt=extra.get("attempt", 1),
            )
        except ValidationError as error:
            raise ValueError(f"not a task: {first_problem(error)}") from error


def _key(item: Item) -> dict[str, str | int]:
    """The item's key; empty if a person wrote the task without the project id that keys need."""
    try:
        return item.key
    except ValueError:
        return {}


def _item(data: Mapping[str, Any], extra: Mapping[str, Any], hosts: Mapping[Platform, str]) -> Item:
    """The item, from `task.item` if the message has it, else from the key.

    Raises:
        ValueError: the message has neither, or they differ.
    """
    written = Item.model_validate(extra["item"]) if "item" in extra else None
    if written is not None and "type" not in data:
        return written
    fields = set(data) & KEY_FIELDS
    item = Item.from_key({name: data[name] for name in fields})
    if written is None:
        return item.model_copy(update={"host": hosts.get(item.platform, item.host)})
    if written.key != item.key:
        raise ValueError("not a task: task.item: not the item of the key")
    return written


Notice = QueuedTask | Withdrawal | IssueCommand
"""What a consumer handles in addition to tasks: one was queued or withdrawn, or a command was given."""


def item_of_notice(notice: Notice) -> Item:
    return notice.request.item if isinstance(notice, QueuedTask) else notice.item


class TaskSink(Protocol):
    """Takes label applications and commands.

    When a method returns, its task or command is stored as safely as it can be.
    """

    async def submit(self, request: TaskRequest) -> Submission:
        """Admit and store a task.

        Raises:
            QueueUnavailableError: nothing was stored; the sender should retry.
        """
        ...

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        """Cancel the item's task if admission says so.

        With RabbitMQ the consumer cancels it, and the name is that of the item's first run.

        Raises:
            QueueUnavailableError: nothing was done.
        """
        ...

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Store a command, as safely as a task; nobody has checked yet whether its author may give it.

        Raises:
            QueueUnavailableError: it is not stored; the sender should retry.
        """
        ...

    async def connected(self) -> bool:
        """Whether a task submitted now would be taken; answers within 2 seconds, never raises."""
        ...

    async def aclose(self) -> None: ...


class Claim(Protocol):
    """A consumer's claim of a task: no other consumer gets it until it is settled by `done`, `retry` or
    `dead_letter`. When this process dies before that, a durable queue delivers the task again.
    """

    @property
    def task(self) -> QueuedTask: ...

    @property
    def redelivered(self) -> bool:
        """It was claimed before and not settled: it may have started."""
        ...

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the task must stop because it was withdrawn (where the queue learns of that)."""
        ...

    @property
    def why_cancelled(self) -> str:
        """One plain sentence, once `cancelled` is set."""
        ...

    @property
    def withdrawn_before(self) -> datetime | None:
        """As in `LatestTask`, once `cancelled` is set."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when another consumer holds the item now: stop, and report nothing."""
        ...

    @property
    def interrupted(self) -> bool:
        """The item's lock was lost for a time: meanwhile another consumer may have had the task."""
        ...

    def item_lock(self) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock while the context lasts; `False` if another consumer holds it."""
        ...

    def ending(self) -> None:
        """The end is about to be reported on the item: a label applied from now on starts the next run.

        Call it before the final labels are written. Otherwise a label applied between them and `done` would
        count as a duplicate of this task.
        """
        ...

    def labeled(self, at: datetime) -> None:
        """The attempt works for the application of the label at this time of the forge's clock.

        Labels that were taken off before do not cancel it, whenever that becomes known.
        """
        ...

    def answered(self, until: datetime | None) -> None:
        """The task answers for applications of the label up to this time of the forge's clock, and no others.

        Call it before the task is settled.
        """
        ...

    async def done(self) -> None: ...

    async def retry(self, delay: float, attempt: int) -> float | None:
        """Deliver the task again, not before `delay` seconds have passed.

        Args:
            attempt: number of the attempt that the new message starts. The number in the claimed message
                does not say it: after a crash a message starts a later attempt than its own.

        Returns:
            the seconds after which it is delivered, rounded up as the queue needs it; `None` if the queue
            could not take it, and delivers the claimed message again.
        """
        ...

    async def dead_letter(self, reason: str) -> None:
        """Give up on the task; move it to the dead-letter queue if there is one."""
        ...


class TaskSource(Protocol):
    def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        """One claim at a time, as tasks come, until `stop` is set; reconnects by itself.

        Several iterators can run side by side (`consumer.concurrency`).
        """
        ...

    async def aclose(self) -> None: ...


class NoticeSource(Protocol):
    """Delivers notices where there is no reporter."""

    def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        """The notices about one forge's items, one at a time, until `stop` is set; reconnects by itself.

        Signs that a task waits (`QueuedTask`) come after all others; otherwise they come in the order of
        their arrival. Asking for the next one means that the last one was handled; closing the iterator does
        not. The forges' iterators run side by side, one for each.
        """
        ...

    def item_lock(self, item: Item) -> AbstractAsyncContextManager[bool]:
        """Hold the item's lock while the context lasts; `False` if a claim of the item holds it.

        Raises:
            QueueUnavailableError: the lock cannot be asked for now.
        """
        ...
