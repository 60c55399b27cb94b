"""An admitted task as queues and AgentTasks carry it, and the form of its message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from coding_agent_core.platforms.registry import KEY_FIELDS, Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.task.model import Frozen, Item, Origin, TaskRequest, Trigger, new_uuid, task_name


class QueuedTask(Frozen):
    """An admitted task in a queue.

    The message (`to_message`) is the item's key with `uuid` and `user`, as existing consumers of the queue
    expect it. All other facts are in one further field, `task`.

    Attributes:
        attempt: the number of the attempt that this message starts, from 1.
    """

    request: TaskRequest
    uuid: str
    run: int = Field(default=1, ge=1)
    attempt: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        return task_name(self.request.item, self.run, round_part=self.request.trigger.name_part)

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
        """Read a message, either ours or one from the existing producer (a key with `uuid` and `user`).

        Args:
            now: replaces a missing time of receipt; timezone-aware.
            hosts: the configured host of each platform, for messages without a host.

        Raises:
            ValueError: the message is not a task; the error's message names the field.
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
    """Return the item's key; empty if a person wrote the task without the project id that keys need."""
    try:
        return item.key
    except ValueError:
        return {}


def _item(data: Mapping[str, Any], extra: Mapping[str, Any], hosts: Mapping[Platform, str]) -> Item:
    """Read the item from `task.item` if the message has it, and otherwise from the key.

    Raises:
        ValueError: the message has neither, or the two differ.
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
