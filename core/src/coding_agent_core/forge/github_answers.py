"""What we read of GitHub's answers; field names are GitHub's."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, field_validator

from coding_agent_core.forge.calls import Answered


class User(Answered):
    """An account."""

    login: str
    id: int


GHOST = User(login="ghost", id=10137)
"""Whom GitHub shows in the place of a deleted account."""


class Label(Answered):
    """A label on an item."""

    name: str


def has(labels: list[Label], name: str) -> bool:
    """Whether the label is among them; GitHub's label names ignore case."""
    return any(label.name.casefold() == name.casefold() for label in labels)


class Authored(Answered):
    """Whatever somebody wrote; the author of a deleted account is null."""

    user: User = GHOST
    body: str = ""

    @field_validator("user", mode="before")
    @classmethod
    def _ghost(cls, value: object) -> object:
        return GHOST if value is None else value

    @field_validator("body", mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return "" if value is None else value


class Issue(Authored):
    """An issue, or a pull request as the issue that it also is."""

    number: int
    title: str
    html_url: str
    state: str
    labels: list[Label]
    pull_request: dict[str, object] | None = None
    repository_url: str = ""


class Found(Answered):
    """A page of search results."""

    total_count: int
    incomplete_results: bool = False
    items: list[Issue]


class Repository(Answered):
    """A repository."""

    id: int
    full_name: str
    default_branch: str = "main"


class Tip(Answered):
    """One side of a pull request; `repo` is null when the fork was deleted."""

    ref: str
    sha: str
    repo: Repository | None = None


class PullRequest(Authored):
    """A pull request."""

    number: int
    title: str
    html_url: str
    state: str
    labels: list[Label]
    head: Tip
    base: Tip


class Comment(Authored):
    """A comment of an issue or pull request."""

    id: int
    created_at: datetime
    html_url: str = ""


class Event(Answered):
    """A line of an item's history."""

    event: str
    created_at: datetime
    actor: User | None = None
    label: Label | None = None


class Permission(Answered):
    """What somebody may do; `maintain` is told as `write`, `triage` as `read`."""

    permission: Literal["admin", "write", "read", "none"] | str = Field(default="none")


class Reaction(Answered):
    """A reaction to a comment; the user of a deleted account is null."""

    user: User | None = None
    content: str


class HookConfig(Answered):
    """Where a webhook sends to."""

    url: str = ""


class Hook(Answered):
    """A webhook of a repository or an organisation."""

    id: int
    active: bool
    config: HookConfig


class HookDelivery(Answered):
    """One delivery of an event to a webhook. The same event, sent again, has the same `guid`."""

    id: int
    guid: str
    delivered_at: datetime
    status_code: int
    event: str


class HookRequest(Answered):
    """What was sent."""

    payload: dict[str, Any] | None = None


class HookDeliveryDetail(Answered):
    """A delivery with what was sent."""

    request: HookRequest
