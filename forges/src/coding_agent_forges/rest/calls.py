"""The requests to a forge, the base class of its responses, and lists that may be incomplete. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote, unquote

from coding_agent_core.errors import RequestKind
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

PAGE_SIZE = 100
"""The number of entries in a page, which is the most that the forges allow."""
SCAN_PAGES = 100
"""Maximum number of pages of comments, reactions or events that are read."""
_T = TypeVar("_T")
_READS = ("GET", "HEAD", "OPTIONS")
_REPOSITORY = re.compile(r"/repos/([^/]+/[^/]+)")
"""Matches the paths of GitHub's and Gitea's REST API that name a repository."""
_ITEM = re.compile(r"/repos/[^/]+/[^/]+/(?:issues|pulls)/")


class ResponseModel(BaseModel):
    """The base of response models. A model has the fields that we use; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class User(ResponseModel):
    """An account. Forges show `commit_email` only to the account itself, if at all."""

    id: int
    login: str = Field(validation_alias=AliasChoices("login", "username"))
    name: Text = Field(default="", validation_alias=AliasChoices("name", "full_name"))
    commit_email: Text = ""


@dataclass(frozen=True)
class Read(Generic[_T]):
    """The values that were read of a forge's list.

    A forge gives a list in pages, and each reader stops at some page. So a value that is not found may be in
    the part that was not read, and a rule must not conclude that the value does not exist.

    Attributes:
        left_out: what was not read, as phrases such as `older comments`; empty if everything was read.
    """

    values: tuple[_T, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.left_out


class Repeat(Enum):
    """The condition under which a request may be sent again."""

    SAFE = "safe"
    """After any failure, because effect and answer are the same however often the request is sent."""
    UNLESS_PROCESSED = "unless processed"
    """Only after a failure in which the forge certainly did nothing: no connection, or a rate limit."""


@dataclass(frozen=True)
class Call:
    """A request to a forge's API.

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
    def kind(self) -> RequestKind:
        if self.method in _READS:
            return RequestKind.READ
        return RequestKind.CREATE if self.creates else RequestKind.WRITE

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
