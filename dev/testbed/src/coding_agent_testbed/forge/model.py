"""What a forge holds: users, repositories, items, comments, hooks. Plain data, the same for both flavours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic
from typing import Any


class Flavour(StrEnum):
    """Which product the sandbox speaks like."""

    GITHUB = "github"
    GITLAB = "gitlab"


class Kind(StrEnum):
    """An issue, or a change: a pull request or merge request."""

    ISSUE = "issue"
    CHANGE = "change"


class Role(StrEnum):
    """What somebody may do in a repository, weakest first."""

    READ = "read"
    TRIAGE = "triage"
    WRITE = "write"
    ADMIN = "admin"

    @property
    def may_write(self) -> bool:
        """Whether it is enough to push."""
        return self in (Role.WRITE, Role.ADMIN)

    @property
    def may_label(self) -> bool:
        """Whether it is enough to apply and remove labels."""
        return self is not Role.READ


@dataclass(frozen=True)
class Grant:
    """What an App's token reaches: repositories by id, and permissions as GitHub's API names them."""

    repositories: frozenset[int]
    permissions: Mapping[str, str]

    @property
    def writes(self) -> bool:
        """Whether it may write anything."""
        return any(level != "read" for level in self.permissions.values())


@dataclass
class User:
    """Somebody with a token. `bot` accounts are shown as such by GitHub.

    Attributes:
        grant: the limits of an App's token. The users of an App's tokens are equal to its account.
        reads_checks: whether the token may read check runs, which no fine-grained token of GitHub may.
        scopes: the scopes of the token; `None` for a fine-grained token of GitHub, and for GitLab's `api`.
        token_expires_at: the token expires as this day begins in UTC; `None` if it never expires.
        token_id: the number of the token, which rotating it changes.
    """

    id: int
    login: str
    name: str
    token: str = field(repr=False, compare=False)
    admin: bool = False
    bot: bool = False
    reads_checks: bool = True
    scopes: tuple[str, ...] | None = None
    token_expires_at: date | None = None
    token_id: int = 1
    grant: Grant | None = field(default=None, repr=False, compare=False)


@dataclass
class Label:
    """A repository's label; `color` is six hex digits."""

    id: int
    name: str
    color: str = "ededed"
    description: str = ""


@dataclass(frozen=True)
class Reaction:
    """Somebody's reaction to a comment; `name` as both forges call it, e.g. `eyes`."""

    id: int
    user: User
    name: str
    created_at: datetime


@dataclass
class Comment:
    """A comment on an item; `system` marks notes that GitLab writes itself."""

    id: int
    author: User
    body: str
    created_at: datetime
    updated_at: datetime
    system: bool = False
    reactions: list[Reaction] = field(default_factory=list)


STATE_EVENTS = ("closed", "reopened", "merged")
"""The names of the events that open or close an item."""


@dataclass(frozen=True)
class ItemEvent:
    """One line of an item's history, e.g. `labeled` with its label.

    Attributes:
        renamed: old and new title of `renamed`, which GitHub alone records.
        recorded_at: when it happened by a clock that nobody sets.
    """

    id: int
    event: str
    actor: User
    created_at: datetime
    label: Label | None = None
    renamed: tuple[str, str] | None = None
    recorded_at: float = field(default_factory=monotonic, compare=False)


@dataclass(frozen=True)
class TextEdit:
    """Somebody changed an item's text."""

    id: int
    editor: User
    at: datetime


@dataclass(frozen=True)
class Push:
    """Somebody moved a branch; 40 zeros for the commit that is not there."""

    id: int
    actor: User
    at: datetime
    branch: str
    before: str
    after: str
    forced: bool = False


@dataclass(frozen=True)
class Version:
    """What a change looked like after a push, as GitLab keeps it."""

    head_sha: str
    base_sha: str
    at: datetime


@dataclass(frozen=True)
class Tips:
    """Both ends of a change as git knows them, and what lies between."""

    head_sha: str
    base_sha: str
    commits: int = 0
    additions: int = 0
    deletions: int = 0
    changed_files: int = 0


@dataclass
class Item:
    """An issue or a change. `head`, `base`, `tips`, `versions` and `source` are of changes alone.

    Attributes:
        source: the fork that holds the branch `head`; `None`: the item's own repository holds it.
        reviewers: who was asked for a review; GitHub removes those who have answered.
        edits: of the text, oldest first.
        versions: oldest first.
    """

    id: int
    kind: Kind
    number: int
    title: str
    body: str
    author: User
    created_at: datetime
    updated_at: datetime
    labels: list[Label] = field(default_factory=list)
    assignees: list[User] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    events: list[ItemEvent] = field(default_factory=list)
    edits: list[TextEdit] = field(default_factory=list)
    closed_at: datetime | None = None
    merged_at: datetime | None = None
    confidential: bool = False
    draft: bool = False
    head: str = ""
    base: str = ""
    tips: Tips = Tips("", "")
    versions: list[Version] = field(default_factory=list)
    source: Repository | None = None
    reviewers: list[User] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Neither closed nor merged."""
        return self.closed_at is None

    def has_label(self, name: str) -> bool:
        """Whether it carries a label of exactly this name."""
        return any(label.name == name for label in self.labels)


@dataclass
class Repository:
    """A repository with its items; `path` is the bare git repository on disk.

    Attributes:
        protected: names of branches, or patterns with `*`, to which only admins may push.
        fork_of: the repository that this one was forked from.
        deleted: the forge no longer shows it, but changes from its branches stay.
        pushes: over HTTP, oldest first.
        required: names of the checks without which nothing is merged (GitHub).
        merge_needs: what GitLab merges nothing without: `ci`, `discussions`.
        ci: shell commands that run on each new head of an open change, by the name of their check.
        signed: the commits that the forge made at an API request, which it shows as verified (GitHub).
    """

    id: int
    owner: str
    name: str
    path: Path
    created_at: datetime
    description: str = ""
    private: bool = True
    archived: bool = False
    default_branch: str = "main"
    roles: dict[str, Role] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    protected: set[str] = field(default_factory=set)
    fork_of: Repository | None = None
    deleted: bool = False
    pushes: list[Push] = field(default_factory=list)
    required: set[str] = field(default_factory=set)
    merge_needs: set[str] = field(default_factory=set)
    ci: dict[str, str] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    topics: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """Owner (or group path) and name."""
        return f"{self.owner}/{self.name}"

    def role(self, user: User) -> Role | None:
        """What somebody may do here; `None`: not even see it."""
        if user.admin:
            return Role.ADMIN
        if user.grant is not None and self.id in user.grant.repositories:
            return Role.WRITE if user.grant.writes else Role.READ
        return self.roles.get(user.login, None if self.private else Role.READ)

    def protects(self, branch: str) -> bool:
        """Whether a branch of this name is protected, whether it exists or not."""
        return any(fnmatchcase(branch, pattern) for pattern in self.protected)

    def holder(self, item: Item) -> Repository | None:
        """The repository that holds the branch of one of our changes; `None`: it was deleted."""
        source = item.source or self
        return None if source.deleted else source

    def item(self, number: int, kind: Kind | None = None) -> Item | None:
        """The item of a number, of any kind or of one."""
        for item in self.items:
            if item.number == number and kind in (None, item.kind):
                return item
        return None


@dataclass
class Hook:
    """A webhook of a repository, or of the whole instance where `repository` is `None` (GitLab).

    Attributes:
        events: names of event kinds (GitHub: `issues`, …; GitLab: `issues`, `merge_requests`, `notes`),
            `*` for all.
        uuid: of the hook itself, as GitLab sends it along.
    """

    id: int
    repository: Repository | None
    url: str
    events: frozenset[str]
    created_at: datetime
    uuid: str
    secret: str = field(default="", repr=False)
    active: bool = True

    def wants(self, event: str) -> bool:
        """Whether it is sent events of this kind."""
        return self.active and ("*" in self.events or event in self.events)


@dataclass
class Delivery:
    """One attempt to deliver an event: what was sent, and what came back."""

    id: int
    guid: str
    hook: Hook
    event: str
    action: str | None
    headers: dict[str, str] = field(repr=False)
    payload: dict[str, Any] = field(repr=False)
    delivered_at: datetime
    repository_id: int | None = None
    redelivery: bool = False
    duration: float = 0.0
    status: str = "pending"
    status_code: int = 0
    response_headers: dict[str, str] = field(default_factory=dict, repr=False)
    response_body: str = field(default="", repr=False)


@dataclass(frozen=True)
class Before:
    """What an item was before an update."""

    title: str
    body: str
    labels: tuple[Label, ...]
    updated_at: datetime


@dataclass(frozen=True)
class Review:
    """A submitted review; `state` in GitHub's words, e.g. `CHANGES_REQUESTED`.

    Attributes:
        edited_at: when its text was last changed; `None`: never.
    """

    id: int
    author: User
    state: str
    body: str
    commit: str
    submitted_at: datetime
    edited_at: datetime | None = None


@dataclass
class Thread:
    """Comments on lines of a file, as they were placed: the lines move with later commits.

    Attributes:
        line: of the file at `commit`, or, if `removed`, at `base`; `None`: on the whole file.
        review: id of the review that started it; GitHub has one for each.
    """

    id: int
    path: str
    line: int | None
    start_line: int | None
    removed: bool
    commit: str
    base: str
    review: int
    comments: list[Comment]
    resolved_by: User | None = None


@dataclass
class Check:
    """A check of a commit: a check run or job, or, without `log`, a status of another program.

    Attributes:
        result: `failure`, `success`, …; empty: it has not ended.
        log: what the job printed; `None`: it is not a job of the forge itself.
        run: id of the workflow run or pipeline.
        at: when it began.
        queued: it waits for a runner, as after a re-run.
        allow_failure: the pipeline does not fail with it (GitLab).
        superseded: a later check of the same name replaces it.
        by: who set a status.
    """

    id: int
    sha: str
    name: str
    result: str
    summary: str
    log: bytes | None
    run: int
    at: datetime
    ended_at: datetime | None = None
    queued: bool = False
    allow_failure: bool = False
    attempt: int = 1
    superseded: bool = False
    by: User | None = None
    url: str = ""


@dataclass(frozen=True)
class CheckHappening:
    """A check began or ended.

    Attributes:
        began: whether it is new.
        all_ended: whether it was the last of its commit to end.
        status, previous_status: what the whole pipeline of the commit is now, and was before (GitLab).
    """

    repository: Repository
    check: Check
    checks: tuple[Check, ...]
    item: Item | None
    actor: User
    began: bool
    all_ended: bool
    status: str
    previous_status: str


@dataclass(frozen=True)
class Happening:
    """Something that webhooks tell the world.

    Attributes:
        action: `opened`, `updated`, `closed`, `reopened`, `merged`, `commented`, `synchronized`, `reviewed`,
            `review_commented` or `review_requested`.
        added: labels put on, `removed`: taken off.
        label_deleted: they were taken off because somebody deleted the label from the repository.
    """

    action: str
    repository: Repository
    item: Item
    actor: User
    at: datetime
    before: Before | None = None
    added: tuple[Label, ...] = ()
    removed: tuple[Label, ...] = ()
    comment: Comment | None = None
    previous_sha: str = ""
    label_deleted: bool = False
    review: Review | None = None
    thread: Thread | None = None
    reviewer: User | None = None
