"""Types of what a `Forge` reads: items, their history, what people say about them, and changes. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import TypeVar

from coding_agent_core.task.model import Item

MARKER = "<!-- coding-agent:status "
"""The beginning of the hidden part of our comment on an item, which identifies the comment."""
HIDDEN_LINE_BEGINS, _HIDDEN_LINE_ENDS = MARKER + "{", "} -->"
"""What stands before and after the fields of the hidden line's JSON."""
TIME_TOLERANCE = timedelta(seconds=5)
"""By how much a forge may give different times for the same act, e.g. in a webhook and in the item."""

_T = TypeVar("_T")


class Permission(IntEnum):
    """The permission of a person in a repository. Each permission includes the lower ones."""

    NONE = 0
    """The person may at most read and comment."""
    TRIAGE = 1
    """The person may apply labels: GitHub's role *Triage*, GitLab's *Planner* or *Reporter*."""
    WRITE = 2
    """The person may push: GitHub's role *Write*, GitLab's *Developer*, or more."""


class CommitState(StrEnum):
    """The state of a commit status, in GitHub's words."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    """It is not known whether the commit is good. GitLab's word for it is `canceled`."""


@dataclass(frozen=True)
class CommitStatus:
    """A status that we give a commit. A forge shows the newest status of each name.

    Attributes:
        description: a sentence of at most 140 characters, as plain text.
        url: where people can read more; empty if there is no such place.
    """

    name: str
    state: CommitState
    description: str
    url: str = ""


@dataclass(frozen=True)
class ItemDetails:
    """An issue, pull request or merge request as the forge shows it now.

    Attributes:
        body: the text in Markdown; empty if there is none.
        open: whether the item is neither closed nor merged.
        base_branch: the branch into which a change is merged; for an issue, the repository's default branch.
        head_branch: the branch of a change; `None` for an issue.
        head_sha: the commit at the tip of a change's branch; `None` for an issue.
        head_repository: the full path of the repository with a change's branch; `None` for an issue.
        updated_at: the time of the newest change that is shown, in whole seconds of the forge's clock.
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
    """The state of an item that one request shows.

    Attributes:
        open: whether the item is neither closed nor merged.
        updated_at: the time of the newest change that is shown, in whole seconds of the forge's clock. Labels
            that are shown were applied at this time or earlier; other labels are applied then or later.
    """

    labels: frozenset[str]
    open: bool
    updated_at: datetime | None = None


@dataclass(frozen=True)
class LabelEvent:
    """Somebody applied or removed a label.

    Attributes:
        at: the time in whole seconds of the forge's clock.
        user: the login of the person; empty if it is not known.
        added: whether the label was applied and not removed.
    """

    at: datetime
    user: str
    label: str
    added: bool


def last_application(history: Iterable[LabelEvent], labels: Container[str]) -> LabelEvent | None:
    """Return the last application of one of these labels; `None` if the history shows none.

    Args:
        history: the newest event is first.
    """
    return next((event for event in history if event.added and event.label in labels), None)


def clock_was_set_back(history: Sequence[LabelEvent], event: LabelEvent) -> bool:
    """Whether an event came after another one that has a later time.

    Args:
        history: has the event; the newest is first, in the forge's own order.
    """
    return any(older.at > event.at for older in history[history.index(event) + 1 :])


class Revised(StrEnum):
    """The part of an item that somebody changed."""

    TITLE = "title"
    TEXT = "text"
    BRANCH = "branch"
    """Somebody pushed to the change's branch."""


@dataclass(frozen=True)
class Revision:
    """Somebody changed what a task works on.

    Attributes:
        user: the login of the person; empty if it is not known.
        at: the time in whole seconds of the forge's clock; `None` if it is not known.
    """

    what: Revised
    user: str
    at: datetime | None


@dataclass(frozen=True)
class Change:
    """A pull request or merge request; `created` says whether this call opened it."""

    number: int
    url: str
    created: bool


@dataclass(frozen=True)
class CloneSource:
    """An http(s) URL without credentials, with user name and password for basic authentication."""

    url: str
    username: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class BranchFacts:
    """The facts about a branch and its repository that a forge states.

    Attributes:
        default: the repository's default branch; `None` while the repository is empty.
        protected: whether a rule of the repository protects the branch. A branch that does not exist yet
            counts as not protected, because the forges do not say which rules would cover it.
        fork_of: the full paths, in lower case, of the repositories of which this one is a fork.
        archived: whether nothing in the repository can be changed.
    """

    default: str | None
    protected: bool
    fork_of: frozenset[str] = frozenset()
    archived: bool = False


@dataclass(frozen=True)
class CommitIdentity:
    """The name and e-mail address in a commit, by which the forge finds the account."""

    name: str
    email: str


CHECKS_LIMIT = 10
"""Maximum number of failed checks whose logs are read."""


def was_edited(created: datetime, updated: datetime | None) -> bool:
    """Whether a comment was edited. A forge may read its clock twice when it creates one."""
    return updated is not None and updated - created > timedelta(seconds=1)


@dataclass(frozen=True)
class Comment:
    """A comment on an item.

    Attributes:
        id: the forge's id as text.
        created_at: when others could first read the comment, by the forge's clock.
        updated_at: when the comment was last edited, by the forge's clock; `None` if it is not known.
    """

    id: str
    author: str
    body: str
    created_at: datetime
    url: str = ""
    updated_at: datetime | None = None

    @property
    def edited(self) -> bool:
        """Whether somebody edited the comment, who need not be its author: others may do that, too."""
        return was_edited(self.created_at, self.updated_at)


@dataclass(frozen=True)
class Review:
    """A review without its comments on lines.

    Attributes:
        verdict: `approved`, `changes requested`, `commented` or `dismissed`.
        updated_at: when the review was last edited, by the forge's clock; `None` if it is not known.
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
        path: the file's path in the change's newest commit, or its last path if the file is gone.
        previous_path: the file's path before it was renamed, if it was.
        line: the last line that the comments refer to; `None` for the whole file.
        start_line: the first line, if there are several.
        removed: whether the lines are numbered as in the file before the change.
        hunk: the part of the difference on which the comments were written; empty if it is not known.
        resolved: whether the thread is resolved; `None` if it is not known.
        outdated: whether the lines were changed later. Then they are numbered as in the commented commit.
        comments: at least one comment; the oldest is first.
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
        """Return the thread with the file's present path.

        Args:
            renames: the path in the change's newest commit, by the path before the change, of renamed files.
        """
        if self.path in renames:
            return replace(self, path=renames[self.path], previous_path=self.path)
        before = next((old for old, new in renames.items() if new == self.path), None)
        return replace(self, previous_path=before) if before else self


@dataclass(frozen=True)
class Discussion:
    """The reviews and threads of a change; the oldest are first.

    Attributes:
        left_out: what was not read, as phrases such as `older reviews`; empty if everything was read.
    """

    reviews: tuple[Review, ...] = ()
    threads: tuple[Thread, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class FailedCheck:
    """A check that failed on the change's newest commit.

    Attributes:
        result: the forge's word for the result, e.g. `failure` or `timed_out`.
        summary: the check's own report; empty if there is none.
        log: the end of the check's log; empty if there is none or it could not be read.
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
        failed: the failed checks, at most `CHECKS_LIMIT`.
        unreadable: the parts that could not be read, as phrases such as `the check runs (403)`.
        left_out: what was not read because there is too much, as phrases such as `older commit statuses`.
            Some of it may have failed, too.
    """

    failed: tuple[FailedCheck, ...] = ()
    unreadable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def first(
        cls, failed: Sequence[FailedCheck], unreadable: Sequence[str] = (), left_out: Sequence[str] = ()
    ) -> Checks:
        """Return the first `CHECKS_LIMIT` failed checks, and say how many there are beyond them."""
        others = len(failed) - CHECKS_LIMIT
        more = () if others <= 0 else (f"{others} more failed checks",)
        return cls(tuple(failed[:CHECKS_LIMIT]), tuple(unreadable), (*more, *left_out))


def answered_by(updated_at: datetime | None, *, labeled: bool) -> datetime | None:
    """Return the latest time, by the forge's clock, at which a label can have been applied before a read.

    Args:
        updated_at: the time of the newest change that is shown, in whole seconds of the forge's clock.
        labeled: whether the item showed the label.
    """
    return updated_at if updated_at is None or labeled else updated_at - timedelta(seconds=1)


def hidden_line(body: str) -> slice | None:
    """Return where the first hidden line is in a body, without its signature.

    A regular expression would search for the end again from each marker, and a stranger can write thousands.
    """
    start = body.find(HIDDEN_LINE_BEGINS)
    while start >= 0:
        end_of_line = body.find("\n", start)
        limit = len(body) if end_of_line < 0 else end_of_line
        end = body.find(_HIDDEN_LINE_ENDS, start + len(HIDDEN_LINE_BEGINS), limit)
        if end >= 0:
            return slice(start, end + len(_HIDDEN_LINE_ENDS))
        start = body.find(HIDDEN_LINE_BEGINS, limit)
    return None
