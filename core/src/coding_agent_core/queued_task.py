"""An admitted task as it crosses a queue: the specification's message, with ours beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from coding_agent_core.tasks import (
    Frozen,
    GitHubIssueKey,
    GitHubPullRequestKey,
    Item,
    Origin,
    Platform,
    TaskRequest,
    Trigger,
    new_uuid,
    parse_task_key,
    task_name,
)

_KEY_FIELDS = ("type", "owner", "repo", "number", "project_id", "issue_iid", "mr_iid")


class QueuedTask(Frozen):
    """An admitted task as it crosses a queue.

    On the wire (`to_message`) it is the key of the specification with `uuid` and `user` beside it; what the
    specification does not know stands under the one further name `task`, so that older consumers read it too.

    Attributes:
        attempt: number of the attempt that this message starts, from 1.
    """

    request: TaskRequest
    uuid: str
    run: int = Field(default=1, ge=1)
    attempt: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        """The task's name, as in logs, metrics and comments."""
        return task_name(self.request.item, self.run)

    def to_message(self) -> dict[str, Any]:
        """The queue's message, JSON types only."""
        request = self.request
        return {
            **request.item.key.to_dict(),
            "uuid": self.uuid,
            "user": request.user,
            "task": {
                "host": request.item.host,
                "repository": request.item.repository,
                "title": request.title,
                "url": request.url,
                "trigger": request.trigger.model_dump(mode="json"),
                "run": self.run,
                "attempt": self.attempt,
            },
        }

    @staticmethod
    def from_message(
        data: Mapping[str, Any], *, now: datetime, hosts: Mapping[Platform, str] | None = None
    ) -> QueuedTask:
        """Read a message, ours or one of the existing producer (a key with `uuid` and `user`).

        Args:
            data: the decoded JSON object.
            now: stands in for the time of receipt where the message has none; timezone-aware.
            hosts: the configured host of each platform, for messages that do not name theirs.

        Raises:
            ValueError: the message is not a task; the sentence names the field.
        """
        if not isinstance(data, Mapping):
            raise ValueError("not a task: the message is not a JSON object")  # noqa: TRY004 - one error for callers
        key = parse_task_key({name: data[name] for name in _KEY_FIELDS if name in data})
        extra = data.get("task") or {}
        if not isinstance(extra, Mapping):
            raise ValueError("not a task: task: not a JSON object")  # noqa: TRY004
        platform = Platform.GITHUB if key.type.startswith("github") else Platform.GITLAB
        repository = extra.get("repository", "")
        if not repository and isinstance(key, GitHubIssueKey | GitHubPullRequestKey):
            repository = f"{key.owner}/{key.repo}"
        trigger = extra.get("trigger") or {"origin": Origin.MANUAL, "received_at": now}
        try:
            request = TaskRequest(
                item=Item(
                    host=extra.get("host") or (hosts or {}).get(platform) or f"{platform}.com",
                    repository=repository,
                    key=key,
                ),
                user=data.get("user") or "",
                title=extra.get("title", ""),
                url=extra.get("url", ""),
                trigger=Trigger.model_validate(trigger),
            )
            return QueuedTask(
                request=request,
                uuid=str(data.get("uuid") or new_uuid()),
                run=extra.get("run", 1),
                attempt=extra.get("attempt", 1),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"not a task: {where}: {first['msg']}") from error
