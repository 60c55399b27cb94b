"""The types of responses that all forges share: items, comments, events, reactions. Pure.

One type reads the responses of all forges; its fields list each forge's names as aliases.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from coding_agent_core.forge.values import Comment
from coding_agent_core.task.model import whole_second
from pydantic import AliasChoices, BeforeValidator, Field

from coding_agent_forges.rest.calls import ResponseModel, Text, User

GHOST = User.model_validate({"login": "ghost", "id": 10137})
"""The account that GitHub shows instead of a deleted one. The API returns null for such a user."""
Author = Annotated[User, BeforeValidator(lambda value: GHOST if value is None else value)]


class Label(ResponseModel):
    name: str


class ItemResponse(ResponseModel):
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


class CommentResponse(ResponseModel):
    """A comment, or a note that the forge itself wrote (`system`).

    Attributes:
        issue_url, pull_request_url, noteable_iid: which item the comment is on: GitHub and Gitea give an
            address that ends with the item's number, Gitea in one of two fields, and GitLab the number.
        internal, confidential: GitLab's internal note, which only some members can read; `confidential` was
            its name once (https://docs.gitlab.com/api/notes/).
    """

    id: int
    body: Text = ""
    author: Author = Field(default=GHOST, validation_alias=AliasChoices("author", "user"))
    created_at: datetime
    updated_at: datetime | None = None
    html_url: str = ""
    issue_url: Text = ""
    pull_request_url: Text = ""
    noteable_iid: int | None = None
    system: bool = False
    internal: bool | None = False
    confidential: bool | None = False

    @property
    def item_number(self) -> int | None:
        """The number of the item that the comment is on; `None` if the answer does not say so."""
        number = (self.issue_url or self.pull_request_url).rpartition("/")[2]
        return int(number) if number.isdecimal() else self.noteable_iid

    @property
    def is_public(self) -> bool:
        """Whether a person wrote the comment, and everybody who can read the item can read it.

        The model reads public comments only, because its output is public: commits, replies and our comment.
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
        """Return the comment with the time of its review's submission, from which on others can read it."""
        comment = self.comment()
        return replace(comment, created_at=max(comment.created_at, at))


class HistoryEvent(ResponseModel):
    """An event of an item's history: a label was applied or removed, or the item was closed or reopened.

    `user` and `label` are null if they were deleted after the event.
    """

    id: int
    action: str = Field(validation_alias=AliasChoices("event", "action", "state"))
    created_at: datetime
    user: User | None = Field(default=None, validation_alias=AliasChoices("actor", "user"))
    label: Label | None = None


class Reaction(ResponseModel):
    """Somebody's emoji on a comment; `content` is its name."""

    content: str = Field(validation_alias=AliasChoices("content", "name"))
    user: User | None = None
