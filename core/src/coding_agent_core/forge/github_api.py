"""What we read of GitHub's REST API: answers (field names are GitHub's), paths, search."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator

from coding_agent_core.errors import ForgeNotFoundError
from coding_agent_core.forge.client import Answered, Call, ForgeClient, path
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings.forges import GitHub
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

_logger = logging.getLogger("coding_agent.forge")
_SEARCH_PAGES = 10
"""GitHub's search gives the first 1,000 results at most."""
_EVENT_PAGES = 100


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


def repo_path(item: Item, *rest: str | int) -> str:
    """The item's repository, or what is below it."""
    return path("repos", *item.repository.split("/", 1), *rest)


def issue_path(item: Item, *rest: str | int) -> str:
    """The issue, or the issue that a pull request also is, or what is below it."""
    return repo_path(item, "issues", item.number, *rest)


@dataclass(frozen=True)
class LabelSearch:
    """The search of one poll."""

    settings: GitHub
    client: ForgeClient

    async def find(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then pull requests, that carry the label now; the search index may lag behind."""
        for kind in ItemKind:
            call = Call(
                "GET",
                "/search/issues",
                f"searching for items labeled {label!r}",
                {"q": search_query(label, kind, self.settings)},
            )
            async for page, _ in self.client.pages(Found, call, limit=_SEARCH_PAGES):
                if page.incomplete_results:
                    _logger.warning(
                        "%s ran out of time and gave incomplete search results", self.settings.host
                    )
                for found in page.items:
                    if found.state == "open" and has(found.labels, label):
                        request = await self._request(found, label)
                        if request is not None:
                            yield request

    async def _request(self, found: Issue, label: str) -> TaskRequest | None:
        repository = repository_of(found.repository_url)
        if not repository:
            _logger.warning(
                "%s: a search result without its repository: %s", self.settings.host, found.html_url
            )
            return None
        item = Item(
            platform=Platform.GITHUB,
            host=self.settings.host,
            repository=repository,
            kind=ItemKind.CHANGE if found.pull_request is not None else ItemKind.ISSUE,
            number=found.number,
        )
        try:
            event = await self.labeled(item, label)
        except ForgeNotFoundError:  # gone since the search
            return None
        return TaskRequest(
            item=item,
            user=event.actor.login if event and event.actor else found.user.login,
            title=found.title[:1024],
            url=found.html_url[:2048],
            trigger=Trigger(
                origin=Origin.POLL,
                labeled_at=event.created_at if event else None,
                received_at=self.client.clock.now(),
            ),
        )

    async def labeled(self, item: Item, label: str) -> Event | None:
        """The newest event that put the label on."""
        call = Call(
            "GET",
            issue_path(item, "events"),
            f"reading the events of {item.display}",
        )
        async for page in self.client.newest_first(list[Event], call, limit=_EVENT_PAGES):
            for event in reversed(page):
                if event.event == "labeled" and event.label and has([event.label], label):
                    return event
        return None


def search_query(label: str, kind: ItemKind, settings: GitHub) -> str:
    """The `q` of the issue search.

    GitHub wants `is:issue` or `is:pull-request` in each search, so issues and pull requests are searched one
    after the other. `user:` names organisations as well.
    """
    parts = [f"label:{quoted(label)}", "is:issue" if kind is ItemKind.ISSUE else "is:pull-request"]
    if settings.owner:
        parts.append(f"user:{settings.owner}")
    if settings.assignee:
        parts.append(f"assignee:{settings.assignee}")
    if settings.query.strip():
        parts.append(settings.query.strip())
    if "is:open" not in settings.query and "state:open" not in settings.query:
        parts.append("state:open")
    return " ".join(parts)


def quoted(text: str) -> str:
    r"""A value of a qualifier in quotes; quotes and backslashes in it are escaped with a backslash."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def repository_of(repository_url: str) -> str:
    """`owner/repo` from a search result's `repository_url`, empty where it is no such URL."""
    parts = repository_url.rstrip("/").split("/")
    return "/".join(parts[-2:]) if len(parts) > 3 and parts[-3] == "repos" and all(parts[-2:]) else ""
