"""Task keys, items and requests: the nouns that every program of the system shares.

The dictionaries that `TaskKey.to_dict` gives are those of the specification (chapter 4 and requirement S13)
and are the only form in which keys cross a queue.
"""

from __future__ import annotations

import hashlib
import re
import uuid as uuid_module
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_NAME_LENGTH = 52
"""Characters of a task name without its run: with `-r<run>` and `-<attempt>` it stays under 63 (RFC 1123)."""


class Platform(StrEnum):
    """A forge's product; which installation of it is told by the host."""

    GITHUB = "github"
    GITLAB = "gitlab"


class ItemKind(StrEnum):
    """What carries the label: an issue, or a change proposed for merging (pull request, merge request)."""

    ISSUE = "issue"
    CHANGE = "change"


class Origin(StrEnum):
    """How a label application came to our knowledge."""

    WEBHOOK = "webhook"
    POLL = "poll"
    REDELIVERY = "redelivery"
    MANUAL = "manual"


class Frozen(BaseModel):
    """Base of the immutable value types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Key(Frozen):
    def to_dict(self) -> dict[str, Any]:
        """The dictionary of the specification, with exactly its keys."""
        return self.model_dump()


class GitHubIssueKey(_Key):
    """An issue on GitHub."""

    type: Literal["github_issue"] = "github_issue"
    owner: str = Field(min_length=1)
    repo: str = Field(min_length=1)
    number: int = Field(gt=0)


class GitHubPullRequestKey(_Key):
    """A pull request on GitHub."""

    type: Literal["github_pull_request"] = "github_pull_request"
    owner: str = Field(min_length=1)
    repo: str = Field(min_length=1)
    number: int = Field(gt=0)


class GitLabIssueKey(_Key):
    """An issue on GitLab; `project_id` is the numeric id of the project."""

    type: Literal["gitlab_issue"] = "gitlab_issue"
    project_id: int = Field(gt=0)
    issue_iid: int = Field(gt=0)


class GitLabMergeRequestKey(_Key):
    """A merge request on GitLab; `project_id` is the numeric id of the target project."""

    type: Literal["gitlab_merge_request"] = "gitlab_merge_request"
    project_id: int = Field(gt=0)
    mr_iid: int = Field(gt=0)


TaskKey = Annotated[
    GitHubIssueKey | GitHubPullRequestKey | GitLabIssueKey | GitLabMergeRequestKey,
    Field(discriminator="type"),
]
_TASK_KEY: TypeAdapter[TaskKey] = TypeAdapter(TaskKey)


def parse_task_key(data: Mapping[str, Any]) -> TaskKey:
    """Read a key of the specification's four forms.

    Raises:
        ValueError: the dictionary is none of the four forms; the message names the field.
    """
    try:
        return _TASK_KEY.validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "type"
        raise ValueError(f"not a task key: {where}: {first['msg']}") from error


class Item(Frozen):
    """The issue, pull request or merge request that a task is about.

    Attributes:
        host: the forge's web host with port if any, e.g. `github.com`, `gitlab.example.com:8443`.
        repository: full path, e.g. `owner/repo` or `group/subgroup/project`; may be empty for a key
            that arrived alone on the queue, until the forge was asked.
        key: the specification's key.
    """

    host: str
    repository: str
    key: TaskKey

    @property
    def platform(self) -> Platform:
        """The forge's product."""
        return Platform.GITHUB if self.key.type.startswith("github") else Platform.GITLAB

    @property
    def kind(self) -> ItemKind:
        """Issue or change."""
        return ItemKind.ISSUE if self.key.type.endswith("_issue") else ItemKind.CHANGE

    @property
    def number(self) -> int:
        """The number that people see: `#7`, `!7`."""
        match self.key:
            case GitHubIssueKey() | GitHubPullRequestKey():
                return self.key.number
            case GitLabIssueKey():
                return self.key.issue_iid
            case GitLabMergeRequestKey():
                return self.key.mr_iid

    @property
    def identity(self) -> str:
        """One string per item, whatever the letter case or the project's present path.

        GitHub's owner and repository names are case-insensitive; a GitLab project keeps its id when renamed.
        """
        match self.key:
            case GitHubIssueKey() | GitHubPullRequestKey():
                place = f"{self.key.owner}/{self.key.repo}".lower()
            case GitLabIssueKey() | GitLabMergeRequestKey():
                place = str(self.key.project_id)
        return f"{self.platform}|{self.host.lower()}|{place}|{self.kind}|{self.number}"

    @property
    def display(self) -> str:
        """For people and logs: `owner/repo#7`, `group/project!7`."""
        mark = "!" if self.key.type == "gitlab_merge_request" else "#"
        return f"{self.repository or self.identity.split('|')[2]}{mark}{self.number}"


def task_name(item: Item, run: int = 1) -> str:
    """The task's name: readable slug, 8 hex of the identity's SHA-256, and `-r<n>` from the second run on.

    It is a valid RFC 1123 label with room for `-<attempt>` behind it.
    """
    kind = "issue" if item.kind is ItemKind.ISSUE else ("pr" if item.platform is Platform.GITHUB else "mr")
    # The identity, not the path: a renamed GitLab project must keep the names of its tasks.
    place = item.identity.split("|")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", place.rsplit("/", 1)[-1].lower()).strip("-")
    if item.platform is Platform.GITLAB:
        slug = f"gitlab-{slug}"
    digest = hashlib.sha256(item.identity.encode()).hexdigest()[:8]
    rest = f"-{kind}-{item.number}-{digest}"
    name = (slug[: _NAME_LENGTH - len(rest)].strip("-") or "item") + rest
    return name if run == 1 else f"{name}-r{run}"


class Trigger(Frozen):
    """What made a task.

    Attributes:
        delivery_id: the forge's id of the webhook delivery, the same when it is redelivered.
        labeled_at: when the label was put on, by the forge's clock, where the event tells it.
        received_at: when we learned of it, by our clock.
    """

    origin: Origin
    delivery_id: str | None = Field(default=None, max_length=128)
    labeled_at: datetime | None = None
    received_at: datetime


class TaskRequest(Frozen):
    """A label application that asks for a task; `admit` decides whether it becomes one.

    Attributes:
        user: login of the person whose per-user settings apply: who applied the label.
    """

    item: Item
    user: str = ""
    title: str = Field(default="", max_length=1024)
    url: str = Field(default="", max_length=2048)
    trigger: Trigger


LABEL_REMOVED = "The label was removed."


class Withdrawal(Frozen):
    """A person took the flow's last label off, closed the item, or commanded it: cancel its task.

    Attributes:
        reason: for logs.
        message: one plain sentence for people on the item.
        at: when, by the forge's clock; `None` where the event does not tell.
    """

    item: Item
    reason: str
    message: str = LABEL_REMOVED
    delivery_id: str | None = None
    at: datetime | None = None


def new_uuid() -> str:
    """A random (version 4) UUID in its usual text form."""
    return str(uuid_module.uuid4())


def host_of(url: str) -> str:
    """The host, with its port if any, of an http(s) URL, lower-case.

    Raises:
        ValueError: the URL has no host.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host; give a URL such as https://gitlab.example.com")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}"


def parse_time(value: object) -> datetime | None:
    """A forge's time stamp as an aware datetime, `None` where there is none or it cannot be read.

    Both forges write ISO 8601; GitLab's webhooks also `2024-01-15 10:30:45 UTC` (seen in its documentation).
    """
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.endswith(" UTC"):
        text = text[:-4] + "+00:00"
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):  # year 1 or 9999 shifted over the edge
        return None
