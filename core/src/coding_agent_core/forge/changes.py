"""Types of a change that our account opened, as one snapshot shows it. Pure.

The rules of rounds (`coding_agent_core.rounds`) decide from a snapshot alone, so it has the same words for
all forges, and each type says how the forges' words are mapped to it. All times are by the forge's clock. All
texts and lists are cut to a limit when a value is made, because people outside write most of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from coding_agent_core.platforms.text import last_lines
from coding_agent_core.task.model import Item

REMARKS_LIMIT = 1_000
"""Maximum number of remarks in all threads, of plain comments, and of reviews.

The newest of each author are kept, so that a stranger's remarks cannot push out somebody else's.
"""
EVENTS_LIMIT = 300
"""Maximum number of events; the newest are kept."""
CHECK_RESULTS_LIMIT = 1_000
"""Maximum number of checks of one commit; failed checks come first, then checks that have not ended."""
REVIEWERS_LIMIT = 100
LABELS_LIMIT = 1_000
BODY_LIMIT = 4_000
"""Maximum number of characters of a remark, a review or a comment. A longer text loses its end."""
ERRORS_LIMIT = 4_000
"""Maximum number of characters of what a check says about its failure. A longer text loses its beginning,
because logs end with the error."""
_NAME_LIMIT = 300
_URL_LIMIT = 2_048


class Part(StrEnum):
    """A part of a change that a snapshot may lack, in words for people."""

    THREADS = "threads"
    REMARKS = "replies in threads"
    REVIEWS = "reviews"
    COMMENTS = "comments"
    CHECKS = "checks"
    BASE_CHECKS = "checks of the base"
    EVENTS = "older events"
    REVIEWERS = "requested reviewers"
    LABELS = "labels"


WRITTEN = frozenset({Part.THREADS, Part.REMARKS, Part.REVIEWS, Part.COMMENTS})
"""What people wrote."""


class ChangeState(StrEnum):
    OPEN = "open"
    """Also GitLab's `locked`, which lasts for the moment of a merge."""
    MERGED = "merged"
    CLOSED = "closed"


class Mergeability(StrEnum):
    """Whether git can merge the change into its base, whatever rules, reviews and checks say.

    GitHub: `mergeable`. GitLab: `UNKNOWN` while `detailed_merge_status` is `checking`, `preparing`,
    `unchecked` or `approvals_syncing`; otherwise `CONFLICT` if it is `conflict` or `has_conflicts` is true;
    otherwise `MERGES`, also for `need_rebase`, because a merge of the base makes the rebase unnecessary.
    """

    MERGES = "merges"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"
    """The forge has not computed it yet; a later snapshot knows."""
    NOT_SHOWN = "not shown"
    """The forge does not show it, and so nothing waits for it: Gitea, as long as the change is a draft."""


class ActorKind(StrEnum):
    PERSON = "person"
    BOT = "bot"
    """An App, a bot user, or an access token of a project or group."""


@dataclass(frozen=True)
class Actor:
    """An account.

    Attributes:
        id: the forge's number of the account as text; empty for a deleted account.
        member: what the snapshot says about whether the account belongs to the repository (GitHub:
            `author_association`); `None` if it says nothing. This is only a hint: it is not a permission, and
            GitHub does not show private members to everybody.
    """

    id: str
    login: str
    kind: ActorKind = ActorKind.PERSON
    member: bool | None = None


@dataclass(frozen=True)
class Remark:
    """A comment in a thread or on the change itself; never a note that the forge wrote.

    Attributes:
        id: the forge's number of the comment, as text. Comments on lines and plain comments are numbered
            separately, so one of each can have the same id.
        published_at: when others could first read the remark, and not when its draft was written.
        body: at most `BODY_LIMIT` characters; the rest is cut.
        commit: the commit on which a comment on lines was written; empty if it is not known.
        review: the id of the `SubmittedReview` with which it was published; empty if there is none (GitLab).
    """

    id: str
    author: Actor
    published_at: datetime
    body: str
    commit: str = ""
    url: str = ""
    review: str = ""

    def __post_init__(self) -> None:
        _cut(self, body=BODY_LIMIT, url=_URL_LIMIT)


@dataclass(frozen=True)
class ReviewThread:
    """Remarks on lines of a file, or on the whole change if the forge can resolve them.

    Attributes:
        id: the forge's id of the thread, with which it is resolved. GitHub: the GraphQL node id; replies go
            to the id of the first remark. GitLab: the id of the discussion, for both.
        path: the file; empty for a thread on the whole change.
        line: the last line that the remarks refer to; `None` for the whole file.
        outdated: whether the lines were changed later.
        remarks: the oldest is first.
    """

    id: str
    path: str
    line: int | None
    resolved: bool
    outdated: bool
    remarks: tuple[Remark, ...]

    def __post_init__(self) -> None:
        _cut(self, path=1_024)


class ReviewVerdict(StrEnum):
    """GitLab's `unreviewed`, `review_started` and `unapproved` are not reviews."""

    APPROVED = "approved"
    CHANGES_REQUESTED = "changes requested"
    COMMENTED = "commented"
    """GitHub's `COMMENTED`, and GitLab's `reviewed`."""
    DISMISSED = "dismissed"


@dataclass(frozen=True)
class SubmittedReview:
    """A review without its threads. Drafts (GitHub's `PENDING`) are not reviews.

    Attributes:
        id: the forge's number of the review as text. GitLab has none, so it is the number of the reviewer.
        body: empty if the review has only threads, and on GitLab, where it is a plain comment.
        commit: the commit that was reviewed; empty if it is not known.
        submitted_at: `None` if the forge does not say so (GitLab).
    """

    id: str
    author: Actor
    verdict: ReviewVerdict
    body: str
    submitted_at: datetime | None
    commit: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        _cut(self, body=BODY_LIMIT, url=_URL_LIMIT)


class CheckKind(StrEnum):
    JOB = "job"
    """A job of GitHub Actions or of a GitLab pipeline. The forge can run it again."""
    CHECK_RUN = "check run"
    """A check that another App reports on GitHub."""
    STATUS = "status"
    """A commit status, on GitLab an external job."""


class CheckState(StrEnum):
    WAITING = "waiting"
    """The check has not started: GitHub's `QUEUED`, `WAITING`, `REQUESTED`, `EXPECTED` and a status that is
    `PENDING`; GitLab's `created`, `pending`, `preparing`, `scheduled`, `waiting_for_resource`."""
    RUNNING = "running"
    """GitHub's `IN_PROGRESS`, GitLab's `running`."""
    COMPLETED = "completed"


class CheckConclusion(StrEnum):
    """How a check ended. GitLab's `manual` jobs are `ACTION_REQUIRED`, with the state `COMPLETED`."""

    SUCCESS = "success"
    FAILURE = "failure"
    """GitHub's `FAILURE`, also of a status, and a status's `ERROR`, with which some build servers report a
    build that failed. GitLab's `failed`, unless a more exact word applies."""
    TIMED_OUT = "timed out"
    """GitHub's `TIMED_OUT`, GitLab's `failure_reason` `job_execution_timeout`."""
    INFRASTRUCTURE = "infrastructure failure"
    """The check did not get to run the change: GitHub's `STARTUP_FAILURE`; GitLab's `failure_reason`
    `runner_system_failure`, `stuck_or_timeout_failure`, `scheduler_failure`, `data_integrity_failure`,
    `api_failure`, `runner_unsupported`, `unknown_failure` and the like."""
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    NEUTRAL = "neutral"
    """Also a GitLab job that failed, or that only a person starts, and that has `allow_failure`."""
    ACTION_REQUIRED = "action required"
    STALE = "stale"


@dataclass(frozen=True)
class CheckResult:
    """A check of one commit. If a check ran several times, this is its newest run.

    Attributes:
        id: the forge's id of the run, with which it is run again; empty for a status.
        name: the check's name, by which it is found on another commit again. GitHub: `workflow / job`, or the
            context of a status. GitLab: `stage / job`.
        event: what the forge ran the check for, e.g. `push` or `pull_request`. Name and event together are
            unique on a commit.
        conclusion: `None` until the state is `COMPLETED`.
        required: whether a rule demands the check before a merge; `None` if it is not known.
        started_at: when the run started or, if it waits, when it was created; `None` if it is not known.
        earlier: the conclusions of earlier runs of the same check on the same commit, the oldest first, as
            far as they are known.
        errors: what the check itself says about its failure: GitHub's output, or the end of the log if it was
            read; empty if neither is known. Foreign text.
        creator: the id of the account that set a status; empty for a deleted account and for one of the forge
            itself; `None` for other checks, and if the forge does not say so.
    """

    id: str
    name: str
    kind: CheckKind
    state: CheckState
    conclusion: CheckConclusion | None = None
    required: bool | None = None
    url: str = ""
    errors: str = ""
    event: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    earlier: tuple[CheckConclusion, ...] = ()
    creator: str | None = None

    def __post_init__(self) -> None:
        _cut(self, name=_NAME_LIMIT, event=_NAME_LIMIT, url=_URL_LIMIT)
        if len(self.errors) > ERRORS_LIMIT:
            _set(self, "errors", last_lines(self.errors, ERRORS_LIMIT))
        _set(self, "earlier", self.earlier[-10:])


class ChangeEventKind(StrEnum):
    PUSHED = "pushed"
    """Somebody pushed to the change's branch."""
    LABELED = "labeled"
    UNLABELED = "unlabeled"
    REOPENED = "reopened"
    DRAFTED = "drafted"
    """Somebody made the change a draft. A change that was opened as a draft has no such event."""
    READY = "ready"
    """Somebody marked the change as ready for review."""
    APPROVED = "approved"
    """Somebody approved the change. Only GitLab needs it: elsewhere a `SubmittedReview` says when it was."""
    CHANGES_REQUESTED = "changes requested"
    """Somebody requested changes. Only GitLab needs it, too."""
    REVIEW_REQUESTED = "review requested"
    """Somebody asked for a review. Only GitLab needs it: there, this takes back a request for changes."""


@dataclass(frozen=True)
class ChangeEvent:
    """An event on the change that is neither a remark nor a review.

    Attributes:
        actor: `None` if the forge does not say who it was.
        commit: the new head after a push.
        label: the label that was applied or removed.
        reviewer: the login of the person who was asked for a review.
        number: the number of the note that shows the event, in the sequence of the remarks' numbers (GitLab).
            It says what came first also after the forge's clock was set back. `None` if there is none.
    """

    kind: ChangeEventKind
    actor: Actor | None
    at: datetime
    commit: str = ""
    label: str = ""
    reviewer: str = ""
    number: int | None = None


@dataclass(frozen=True)
class ChangeSnapshot:
    """A change at one moment.

    Attributes:
        own: our account, with which the snapshot was read.
        read_at: when the forge made the snapshot, by its clock (the `Date` of its answer).
        author: the account that opened the change.
        head_commit: the commit at the tip of the change's branch.
        head_at: when the forge first saw the head commit; `None` if it is not known. It is not a date of the
            commit, because its author can write any.
        base_commit: the commit at the tip of the base branch, whether or not the head contains it.
        checks: the checks of the head commit.
        checks_problem: why the checks could not be read, as a phrase such as `our token may not read
            checks`; empty if they were read. No checks and unreadable checks are different.
        base_checks: the checks of the base commit, as far as they are known. A client may read them only if a
            check of the head failed.
        reviews: in the order in which the forge gives them, the oldest first.
        comments: the plain comments, ours included; the oldest is first.
        events: the oldest is first.
        replaced_by_us: earlier heads on which a commit of ours follows directly, as far as they are known.
            Only GitHub needs it, where ordinary pushes are read only if others have commits on the branch.
        left_out: the parts of which something is missing here, because of limits.
    """

    item: Item
    url: str
    own: Actor
    read_at: datetime
    author: Actor
    title: str
    state: ChangeState
    draft: bool
    head_branch: str
    head_commit: str
    base_branch: str
    base_commit: str
    created_at: datetime
    updated_at: datetime
    mergeability: Mergeability = Mergeability.UNKNOWN
    head_at: datetime | None = None
    labels: frozenset[str] = frozenset()
    threads: tuple[ReviewThread, ...] = ()
    reviews: tuple[SubmittedReview, ...] = ()
    comments: tuple[Remark, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    checks_problem: str = ""
    base_checks: tuple[CheckResult, ...] = ()
    requested_reviewers: tuple[Actor, ...] = ()
    events: tuple[ChangeEvent, ...] = ()
    replaced_by_us: frozenset[str] = frozenset()
    left_out: frozenset[Part] = frozenset()

    def __post_init__(self) -> None:
        _cut(self, title=1_024, url=_URL_LIMIT, checks_problem=_NAME_LIMIT)
        left_out = set(self.left_out)
        threads = _newest_remarks(self.threads)
        if threads != self.threads:
            left_out.add(Part.THREADS if len(threads) < len(self.threads) else Part.REMARKS)
            _set(self, "threads", threads)
        limited: dict[str, tuple[Sequence[Any], int, Part]] = {
            "reviews": (_newest_last(self.reviews, REMARKS_LIMIT), REMARKS_LIMIT, Part.REVIEWS),
            "comments": (_newest_last(self.comments, REMARKS_LIMIT), REMARKS_LIMIT, Part.COMMENTS),
            "checks": (_failed_last(self.checks), CHECK_RESULTS_LIMIT, Part.CHECKS),
            "base_checks": (_failed_last(self.base_checks), CHECK_RESULTS_LIMIT, Part.BASE_CHECKS),
            "requested_reviewers": (self.requested_reviewers, REVIEWERS_LIMIT, Part.REVIEWERS),
            "events": (self.events, EVENTS_LIMIT, Part.EVENTS),
            "labels": (sorted(self.labels), LABELS_LIMIT, Part.LABELS),
        }
        for name, (entries, limit, part) in limited.items():
            if len(getattr(self, name)) > limit:
                _set(self, name, type(getattr(self, name))(entries[-limit:]))
                left_out.add(part)
        _set(self, "left_out", frozenset(left_out))


@dataclass(frozen=True)
class OpenChanges:
    """The open changes of our account on one forge.

    Attributes:
        unreadable: the changes that could not be read, and why, each as a sentence.
        left_out: the changes that were not read, as phrases, because a forge lists a limited number.
    """

    snapshots: tuple[ChangeSnapshot, ...]
    unreadable: tuple[tuple[Item, str], ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.left_out


def _set(value: object, name: str, content: object) -> None:
    object.__setattr__(value, name, content)


def _cut(value: object, **limits: int) -> None:
    for name, limit in limits.items():
        text: str = getattr(value, name)
        if len(text) > limit:
            _set(value, name, text[:limit])


def newest_of_each(authors: Sequence[Actor], limit: int) -> set[int]:
    """Return the places of the entries to keep, of entries whose authors are given, the oldest first.

    Nobody's entries push out the newest of somebody else's. Members and authors with few entries come first.
    """
    seen: Counter[str] = Counter()
    rank: list[tuple[bool, int, int]] = []
    for place in range(len(authors) - 1, -1, -1):
        author = authors[place]
        rank.append((author.member is not True, seen[author.id], -place))
        seen[author.id] += 1
    return {-place for _, _, place in sorted(rank)[:limit]}


def _newest_last(entries: Sequence[Remark | SubmittedReview], limit: int) -> Sequence[Any]:
    """Return the entries to keep, in their order; all of them if there are not too many."""
    if len(entries) <= limit:
        return entries
    kept = newest_of_each([one.author for one in entries], limit)
    return [one for place, one in enumerate(entries) if place in kept]


def _newest_remarks(threads: tuple[ReviewThread, ...]) -> tuple[ReviewThread, ...]:
    """Return the threads with at most `REMARKS_LIMIT` remarks; those in unresolved threads come first.

    A thread keeps its first remark, by which GitHub and Gitea know it.
    """
    if sum(len(thread.remarks) for thread in threads) <= REMARKS_LIMIT:
        return threads
    kept: set[int] = set()
    for resolved in (False, True):
        remarks = [one for thread in threads if thread.resolved is resolved for one in thread.remarks]
        remarks.sort(key=lambda one: one.published_at)
        room = max(0, REMARKS_LIMIT - len(kept))
        kept |= {id(remarks[place]) for place in newest_of_each([one.author for one in remarks], room)}
    cut = (
        replace(
            thread,
            remarks=tuple(one for one in thread.remarks if id(one) in kept or one is thread.remarks[0]),
        )
        for thread in threads
        if any(id(one) in kept for one in thread.remarks)
    )
    return tuple(cut)


def _failed_last(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Return the checks in the order in which they are kept: the last ones are kept longest."""
    no_work = {CheckConclusion.SUCCESS, CheckConclusion.SKIPPED, CheckConclusion.NEUTRAL}
    return sorted(checks, key=lambda one: (one.conclusion not in no_work, one.conclusion is not None))
