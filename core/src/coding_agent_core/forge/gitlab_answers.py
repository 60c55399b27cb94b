"""What we read of GitLab's answers; field names are GitLab's."""

from __future__ import annotations

from datetime import datetime

from pydantic import field_validator

from coding_agent_core.forge.calls import Answered

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
