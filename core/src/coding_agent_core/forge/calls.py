"""Requests to a forge, and the types of answers that all forges share. Pure.

One type reads the same answer of all forges; its fields list each forge's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from coding_agent_core.forge.pacing import Kind
from coding_agent_core.forge.values import Comment
from coding_agent_core.tasks import whole_second

PAGE_SIZE = 100
"""The number of entries in a page, which is the most that the forges allow."""
_READS = ("GET", "HEAD", "OPTIONS")
_REPOSITORY = re.compile(r"/repos/([^/]+/[^/]+)")
"""Matches the paths of GitHub's and Gitea's REST API that name a repository."""
_ITEM = re.compile(r"/repos/[^/]+/[^/]+/(?:issues|pulls)/")


class ResponseModel(BaseModel):
    """A model of an answer with the fields that we use; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class User(ResponseModel):
    """An account. Forges show `commit_email` only to the account itself, if at all."""

    id: int
    login: str = Field(validation_alias=AliasChoices("login", "username"))
    name: Text = Field(default="", validation_alias=AliasChoices("name", "full_name"))
    commit_email: Text = ""


GHOST = User.model_validate({"login": "ghost", "id": 10137})
"""The account that GitHub shows instead of a deleted one. The API returns null for such a user."""
Author = Annotated[User, BeforeValidator(lambda value: GHOST if value is None else value)]


class Label(ResponseModel):
    name: str


class ItemAnswer(ResponseModel):
    """An issue, pull request or merge request."""

    number: int = Field(validation_alias=AliasChoices("number", "iid"))
    title: str
    body: Text = Field(default="", validation_alias=AliasChoices("body", "description"))
    url: str = Field(validation_alias=AliasChoices("html_url", "web_url"))
    state: str
    labels: list[Label | str]
    # `author` comes first, because an answer with `author` can have a `user` that says what we may do.
    author: Author = Field(default=GHOST, validation_alias=AliasChoices("author", "user"))
    updated_at: datetime | None = None

    @property
    def by_member(self) -> bool:
        """Whether the forge says that the author belongs to the repository."""
        return False

    @property
    def open(self) -> bool:
        return self.state in ("open", "opened")

    @property
    def updated_second(self) -> datetime | None:
        return None if self.updated_at is None else whole_second(self.updated_at)

    @property
    def label_names(self) -> list[str]:
        return [label if isinstance(label, str) else label.name for label in self.labels]


class CommentAnswer(ResponseModel):
    """A comment, or a note that the forge itself wrote (`system`).

    Attributes:
        internal, confidential: GitLab's internal note, which only some members can read; `confidential` was
            its name once (https://docs.gitlab.com/api/notes/).
    """

    id: int
    body: Text = ""
    author: Author = Field(default=GHOST, validation_alias=AliasChoices("author", "user"))
    created_at: datetime
    updated_at: datetime | None = None
    html_url: str = ""
    system: bool = False
    internal: bool | None = False
    confidential: bool | None = False

    @property
    def is_public(self) -> bool:
        """Whether everybody who can read the item can read this, and a person wrote it.

        What the model reads ends in public: in commits, replies and our comment.
        """
        return not (self.system or self.internal or self.confidential)

    def comment(self) -> Comment:
        return Comment(
            id=str(self.id),
            author=self.author.login,
            body=self.body,
            created_at=self.created_at,
            url=self.html_url,
            updated_at=self.updated_at,
        )

    def published(self, at: datetime) -> Comment:
        """Return the comment of a review that was submitted, and so could first be read, at a time."""
        comment = self.comment()
        return replace(comment, created_at=max(comment.created_at, at))


class HistoryEvent(ResponseModel):
    """An event of an item's history. User or label is null if it was deleted later."""

    action: str = Field(validation_alias=AliasChoices("event", "action"))
    created_at: datetime
    user: User | None = Field(default=None, validation_alias=AliasChoices("actor", "user"))
    label: Label | None = None


class Reaction(ResponseModel):
    """Somebody's emoji on a comment; `content` is its name."""

    content: str = Field(validation_alias=AliasChoices("content", "name"))
    user: User | None = None


class Repeat(Enum):
    """When a request may be sent again."""

    SAFE = "safe"
    """After any failure, because effect and answer are the same however often the request is sent."""
    UNLESS_PROCESSED = "unless processed"
    """Only after a failure in which the forge certainly did nothing: no connection, or a rate limit."""


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        path: the path relative to the API's base URL, with quoted segments, or an absolute URL of that host.
        what: a description for error sentences, e.g. `reading owner/repo#7`.
        repository: the path of the repository that the request is about, if `path` does not name it.
        creates: whether the request creates a comment or change, which forges limit more than other writes.
    """

    method: str
    path: str
    what: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    repeat: Repeat = Repeat.SAFE
    creates: bool = False
    repository: str = ""

    @property
    def kind(self) -> Kind:
        if self.method in _READS:
            return Kind.READ
        return Kind.CREATE if self.creates else Kind.WRITE

    @property
    def about(self) -> str:
        """The repository that the request is about, e.g. `owner/name`; empty if it is about none."""
        found = _REPOSITORY.match(self.path)
        return unquote(found[1]) if found and not self.repository else self.repository

    @property
    def names_item(self) -> bool:
        """Whether the path names an issue, a pull request or a comment, which can be moved by itself."""
        return _ITEM.match(self.path) is not None


def path(*values: str | int) -> str:
    """Return a path of quoted segments: slashes, spaces, and the dots of `.` and `..` are encoded."""
    texts = [quote(str(value), safe="") for value in values]
    return "/" + "/".join(text.replace(".", "%2E") if text in (".", "..") else text for text in texts)
