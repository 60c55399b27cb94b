"""What we read of GitLab's REST API: answers (field names are GitLab's), paths, lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import field_validator

from coding_agent_core.errors import ForgeNotFoundError
from coding_agent_core.forge.client import Answered, Call, ForgeClient, path
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings.forges import GitLab
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

_LIST_PAGES = 50
"""Pages of labeled items in one poll."""
_EVENT_PAGES = 100
DEVELOPER = 30
"""The lowest access level that may push (documentation, *Members API*)."""


class User(Answered):
    """An account."""

    id: int
    username: str


class Project(Answered):
    """A project; an empty one has no default branch."""

    id: int
    path_with_namespace: str
    default_branch: str | None = None


class References(Answered):
    """How an item is written, from outside its project: `group/project#7`."""

    full: str


class Labeled(Answered):
    """An issue or a merge request, as far as they are alike."""

    iid: int
    project_id: int
    title: str
    description: str = ""
    web_url: str
    state: str
    labels: list[str]
    author: User
    references: References | None = None

    @field_validator("description", mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return "" if value is None else value


class Issue(Labeled):
    """An issue."""


class MergeRequest(Labeled):
    """A merge request; `sha` is null while GitLab has not yet looked at its branch."""

    source_branch: str
    target_branch: str
    source_project_id: int | None = None
    sha: str | None = None


class Note(Answered):
    """A comment, or what GitLab writes itself (`system`)."""

    id: int
    body: str
    author: User
    created_at: datetime
    system: bool = False


class EventLabel(Answered):
    """The label of an event."""

    name: str


class LabelEvent(Answered):
    """A label put on (`add`) or taken off (`remove`); null parts were deleted since."""

    action: str
    created_at: datetime
    user: User | None = None
    label: EventLabel | None = None


class Member(Answered):
    """A member of a project, by itself or through a group."""

    access_level: int
    state: str = "active"


class Reaction(Answered):
    """A reaction ("award emoji") to a note."""

    name: str
    user: User


def list_path(kind: ItemKind, settings: GitLab) -> str:
    """The list of the configured project, else of the group with its subgroups, else of the instance."""
    name = "issues" if kind is ItemKind.ISSUE else "merge_requests"
    if settings.project_id:
        return path("projects", settings.project_id, name)
    if settings.group_id:
        return path("groups", settings.group_id, name)
    return path(name)


def list_params(label: str, settings: GitLab) -> dict[str, str | int]:
    """Its parameters. `scope=all`, since the instance-wide lists otherwise show what we wrote ourselves."""
    params: dict[str, str | int] = {
        "labels": label,
        "state": "opened",
        "scope": "all",
        "order_by": "updated_at",
        "sort": "desc",
    }
    if settings.assignee:
        params["assignee_username"] = settings.assignee
    if settings.query.strip():
        params["search"] = settings.query.strip()
    return params


def repository_of(reference: str) -> str:
    """`group/project` from a full reference such as `group/project#7` or `group/project!7`."""
    for mark in ("#", "!"):
        place, found, number = reference.rpartition(mark)
        if found and number.isdigit():
            return place
    return ""


def project_of(item: Item) -> int | str:
    """The project of an item, as a path of the API takes it: its id where we know it, else its full path."""
    return item.repository if item.project_id is None else item.project_id


def item_path(item: Item, *rest: str | int) -> str:
    """An issue or merge request, or what is below it."""
    kind = "issues" if item.kind is ItemKind.ISSUE else "merge_requests"
    return path("projects", project_of(item), kind, item.number, *rest)


@dataclass(frozen=True)
class LabelSearch:
    """The search of one poll."""

    settings: GitLab
    client: ForgeClient

    async def find(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then merge requests, of the configured project, group or instance."""
        for kind in ItemKind:
            call = Call(
                "GET",
                list_path(kind, self.settings),
                f"looking for items labeled {label!r}",
                list_params(label, self.settings),
            )
            async for page, _ in self.client.pages(list[Labeled], call, limit=_LIST_PAGES):
                for found in page:
                    if found.state == "opened" and label in found.labels:
                        request = await self._request(found, kind, label)
                        if request is not None:
                            yield request

    async def _request(self, found: Labeled, kind: ItemKind, label: str) -> TaskRequest | None:
        item = Item(
            platform=Platform.GITLAB,
            host=self.settings.host,
            repository=repository_of(found.references.full) if found.references else "",
            kind=kind,
            number=found.iid,
            project_id=found.project_id,
        )
        try:
            event = await self.labeled(item, label)
        except ForgeNotFoundError:  # gone since it was listed
            return None
        return TaskRequest(
            item=item,
            user=event.user.username if event and event.user else found.author.username,
            title=found.title[:1024],
            url=found.web_url[:2048],
            trigger=Trigger(
                origin=Origin.POLL,
                labeled_at=event.created_at if event else None,
                received_at=self.client.clock.now(),
            ),
        )

    async def labeled(self, item: Item, label: str) -> LabelEvent | None:
        """The newest event that put the label on."""
        call = Call(
            "GET", item_path(item, "resource_label_events"), f"reading the label events of {item.display}"
        )
        async for page in self.client.newest_first(list[LabelEvent], call, limit=_EVENT_PAGES):
            for event in reversed(page):
                if event.action == "add" and event.label and event.label.name == label:
                    return event
        return None
