"""What a `Forge` reads: items, their history, what people say about them, and changes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum, StrEnum

from coding_agent_core.tasks import Item

MARKER = "<!-- coding-agent:status "
"""Starts the hidden part of our comment on an item, and identifies our comment."""


class Permission(IntEnum):
    """What somebody may do in a repository; a greater one includes the others."""

    NONE = 0
    """At most read and comment."""
    TRIAGE = 1
    """Apply labels: GitHub's role *Triage*, GitLab's *Planner* or *Reporter*."""
    WRITE = 2
    """Push: GitHub's role *Write*, GitLab's *Developer*, or more."""


@dataclass(frozen=True)
class ItemDetails:
    """An issue, pull request or merge request as the forge shows it now.

    Attributes:
        body: Markdown, empty if none.
        open: not closed, not merged.
        base_branch: the branch that a change is merged into; for an issue the repository's default branch.
        head_branch: the branch of a change; `None` for issues, as the other two.
        head_sha: the commit at the tip of a change's branch.
        head_repository: full path of the repository that holds a change's branch.
        updated_at: as in `ItemState`.
    """

    item: Item
    title: str
    body: str
    author: str
    url: str
    labels: frozenset[str]
    open: bool
    base_branch: str
    head_branch: str | None = None
    head_sha: str | None = None
    head_repository: str | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class ItemState:
    """What one request shows of an item.

    Attributes:
        open: as in `ItemDetails`.
        updated_at: of the newest change that is shown, in whole seconds of the forge's clock. A label that is
            shown was applied at that time or before, one that is not shown is applied at that time or later.
    """

    labels: frozenset[str]
    open: bool
    updated_at: datetime | None = None


@dataclass(frozen=True)
class LabelEvent:
    """A label was put on an item, or taken off.

    Attributes:
        at: in whole seconds of the forge's clock.
        user: empty if it is not known.
    """

    at: datetime
    user: str
    label: str
    added: bool


class Revised(StrEnum):
    """What somebody changed on an item."""

    TITLE = "title"
    TEXT = "text"
    BRANCH = "branch"
    """Somebody pushed to the change's branch."""


@dataclass(frozen=True)
class Revision:
    """Somebody changed what a task works on.

    Attributes:
        user: the login; empty if it is not known.
        at: in whole seconds of the forge's clock; `None` if it is not known.
    """

    what: Revised
    user: str
    at: datetime | None


@dataclass(frozen=True)
class Change:
    """A pull request or merge request; `created`: this call opened it."""

    number: int
    url: str
    created: bool


@dataclass(frozen=True)
class CloneSource:
    """An http(s) URL without credentials, and the user name and password for basic authentication."""

    url: str
    username: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class BranchFacts:
    """What a forge says about a branch and its repository.

    Attributes:
        default: the repository's default branch; `None` while it is empty.
        protected: a rule of the repository protects the branch. A branch that does not exist yet counts as
            not protected, because the forges do not say which rules would cover it.
        fork_of: full paths of the repositories that this one is a fork of, in lower case.
    """

    default: str | None
    protected: bool
    fork_of: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CommitIdentity:
    """Name and e-mail address in a commit, by which the forge finds the account."""

    name: str
    email: str


CHECKS_LIMIT = 10
"""Failed checks whose logs are read."""


@dataclass(frozen=True)
class Comment:
    """A comment on an item.

    Attributes:
        id: the forge's id as text.
        created_at: when others could read it first, by the forge's clock.
        updated_at: when it was last edited, by the forge's clock; `None`: not known.
    """

    id: str
    author: str
    body: str
    created_at: datetime
    url: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Review:
    """A review as a whole.

    Attributes:
        verdict: `approved`, `changes requested`, `commented` or `dismissed`.
        updated_at: as in `Comment`.
    """

    author: str
    verdict: str
    body: str
    created_at: datetime
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Thread:
    """Comments on lines of a file of a change.

    Attributes:
        path: where the file is in the change's newest commit; if it is gone, where it last was.
        previous_path: another path of the file, before it was renamed.
        line: the last line that is meant; `None`: the whole file.
        start_line: the first one, if there are several.
        removed: the lines are counted in the file as it was before the change.
        hunk: the part of the difference that the comments were written on; empty if it is not known.
        resolved: `None` if it is not known.
        outdated: the lines were changed since; they are counted in the commit that was commented on.
        comments: oldest first, at least one.
    """

    path: str
    line: int | None
    hunk: str
    resolved: bool | None
    outdated: bool
    comments: tuple[Comment, ...]
    start_line: int | None = None
    removed: bool = False
    previous_path: str | None = None

    def renamed(self, renames: Mapping[str, str]) -> Thread:
        """With the file's present path.

        Args:
            renames: path before the change to path in its newest commit, of the files that it renames.
        """
        if self.path in renames:
            return replace(self, path=renames[self.path], previous_path=self.path)
        before = next((old for old, new in renames.items() if new == self.path), None)
        return replace(self, previous_path=before) if before else self


@dataclass(frozen=True)
class Discussion:
    """What the reviewers of a change say, oldest first."""

    reviews: tuple[Review, ...] = ()
    threads: tuple[Thread, ...] = ()


@dataclass(frozen=True)
class FailedCheck:
    """A check that failed on the change's newest commit.

    Attributes:
        result: in the forge's word, e.g. `failure` or `timed_out`.
        summary: what the check itself reported, empty if nothing.
        log: the end of its log, empty if it has none or it could not be read.
    """

    name: str
    result: str
    url: str
    summary: str = ""
    log: str = ""


@dataclass(frozen=True)
class Checks:
    """The checks of a change's newest commit.

    Attributes:
        failed: at most `CHECKS_LIMIT`.
        unreadable: what could not be read, a phrase for each, e.g. `the check runs (403)`.
    """

    failed: tuple[FailedCheck, ...] = ()
    unreadable: tuple[str, ...] = ()
