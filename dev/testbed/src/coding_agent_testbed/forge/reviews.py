"""Reviews of changes, threads on their lines, and checks of commits: the state, and the rules of changing it.

Like the store, all of it is in memory, and changed on the server's one event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.model import (
    Check,
    CheckHappening,
    Comment,
    Flavour,
    Happening,
    Item,
    Repository,
    Review,
    Thread,
    User,
)
from coding_agent_testbed.forge.store import Store

_LINE_LIMIT = 200
"""Characters of a log's last line that the event log keeps."""
_NOTES = {"APPROVED": "approved this merge request", "CHANGES_REQUESTED": "requested changes"}
"""What GitLab writes about a review (`SystemNotes::MergeRequestsService` in its source)."""


@dataclass(frozen=True)
class Place:
    """Where a thread is now; `outdated`: its lines were changed, and path and lines are as it was placed."""

    path: str
    line: int | None
    start_line: int | None
    outdated: bool


@dataclass
class Reviews:
    """Everything of one forge; tells `listener` which checks began and ended."""

    store: Store
    listener: Callable[[CheckHappening], None] = lambda happening: None
    _reviews: dict[int, list[Review]] = field(default_factory=lambda: defaultdict(list))
    _threads: dict[int, list[Thread]] = field(default_factory=lambda: defaultdict(list))
    _checks: dict[int, list[Check]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.store.review_requested = self.request_review

    def reviews(self, item: Item) -> list[Review]:
        """Reviews of a change, oldest first."""
        return self._reviews[item.id]

    def threads(self, item: Item) -> list[Thread]:
        """Threads of a change, oldest first."""
        return self._threads[item.id]

    def checks(self, repository: Repository, sha: str | None = None, *, latest: bool = False) -> list[Check]:
        """Checks of a repository, or of one commit, oldest first; `latest`: one for each name."""
        return [
            check
            for check in self._checks[repository.id]
            if sha in (None, check.sha) and not (latest and check.superseded)
        ]

    def review(self, item: Item, actor: User, state: str, body: str = "") -> Review:
        """Submit a review; on GitLab its text is an ordinary comment, and its author is a reviewer."""
        review = self._review(item, actor, state, body)
        github = self.store.flavour is Flavour.GITHUB
        if github:
            item.reviewers = [user for user in item.reviewers if user != actor]
        elif actor not in item.reviewers and actor != item.author:
            item.reviewers.append(actor)
        if state == "PENDING":
            return review
        repository, now = self._repository(item), review.submitted_at
        note = self.store.comment(repository, item, actor, body).id if body and not github else None
        self.store.log.add(
            "reviewed", repository, actor, item, review=review.id, state=state, body=body, comment=note
        )
        if state in _NOTES:
            self.store.system_note(item, actor, _NOTES[state], now)
        if github or state in _NOTES:
            item.updated_at = now
        # GitLab sends nothing for "request changes".
        if github or state == "APPROVED":
            self.store.listener(Happening("reviewed", repository, item, actor, now, review=review))
        return review

    def _review(self, item: Item, actor: User, state: str, body: str) -> Review:
        store = self.store
        review = Review(store.next_id(), actor, state, body, item.tips.head_sha, store.now())
        self._reviews[item.id].append(review)
        return review

    def request_review(self, item: Item, actor: User, reviewer: User) -> None:
        """Ask somebody for a review, or for another one."""
        if reviewer not in item.reviewers:
            item.reviewers.append(reviewer)
        repository, now = self._repository(item), self.store.now()
        if self.store.flavour is Flavour.GITLAB:
            also = " and removed approval" if self.verdict(item, reviewer) == "APPROVED" else ""
            self._review(item, reviewer, "UNREVIEWED", "")
            self.store.system_note(item, actor, f"requested review from @{reviewer.login}{also}", now)
        item.updated_at = now
        self.store.log.add("review_requested", repository, actor, item, reviewer=reviewer.login)
        self.store.listener(Happening("review_requested", repository, item, actor, now, reviewer=reviewer))

    def verdict(self, item: Item, reviewer: User) -> str:
        """The state that somebody's reviews leave; a comment does not change an approval or a refusal."""
        state = "UNREVIEWED"
        for review in self._reviews[item.id]:
            weaker = review.state == "COMMENTED" and state in ("APPROVED", "CHANGES_REQUESTED")
            if review.author == reviewer and not weaker:
                state = review.state
        return state

    def edit_review(self, item: Item, review: Review, body: str) -> None:
        """Change a review's text."""
        reviews = self._reviews[item.id]
        reviews[reviews.index(review)] = replace(review, body=body, edited_at=self.store.now())

    def start_thread(
        self,
        item: Item,
        actor: User,
        body: str,
        *,
        path: str,
        line: int | None,
        start_line: int | None = None,
        removed: bool = False,
        drafted_at: datetime | None = None,
    ) -> Thread:
        """Comment on lines of the newest commit; `drafted_at`: before the review was submitted, by now."""
        if self.store.flavour is Flavour.GITHUB:
            review = self.review(item, actor, "COMMENTED")
        else:
            review = self._review(item, actor, "COMMENTED", "")
        thread = Thread(
            self.store.next_id(),
            path,
            line,
            start_line,
            removed,
            item.tips.head_sha,
            item.tips.base_sha,
            review.id,
            [],
        )
        self._threads[item.id].append(thread)
        comment = self.reply(thread, actor, body)
        if drafted_at is not None:
            comment.created_at = comment.updated_at = drafted_at
        return thread

    def reply(self, thread: Thread, actor: User, body: str) -> Comment:
        """Add a comment to a thread."""
        now = self.store.now()
        comment = Comment(self.store.next_id(), actor, body, now, now)
        thread.comments.append(comment)
        item = self.item_of(thread)
        item.updated_at = now
        repository = self._repository(item)
        told = Happening("review_commented", repository, item, actor, now, comment=comment, thread=thread)
        self.store.log.add(
            "review_commented", repository, actor, item, comment=comment.id, body=body, thread=thread.id
        )
        self.store.listener(told)
        return comment

    def resolve(self, thread: Thread, actor: User, *, resolved: bool = True) -> None:
        """Resolve a thread, or open it again; neither forge's `updated_at` shows it."""
        thread.resolved_by = actor if resolved else None
        item = self.item_of(thread)
        event = "resolved" if resolved else "unresolved"
        self.store.log.add(event, self._repository(item), actor, item, thread=thread.id)

    def item_of(self, thread: Thread) -> Item:
        """The change of a thread."""
        return next(
            item
            for repository in self.store.repositories
            for item in repository.items
            if any(one is thread for one in self._threads[item.id])
        )

    def edit_comment(self, comment: Comment, body: str) -> None:
        """Change the text of a comment of a thread."""
        comment.body, comment.updated_at = body, self.store.now()

    def add_check(
        self,
        repository: Repository,
        sha: str,
        name: str,
        result: str = "",
        *,
        summary: str = "",
        log: bytes | None = None,
        allow_failure: bool = False,
        url: str = "",
        by: User | None = None,
    ) -> Check:
        """Report a check; one run or pipeline for each commit.

        Without `result` it begins. With one it ends, if one of its name has begun; else it is new, and
        replaces an older one of its name.
        """
        running = [
            check
            for check in self.checks(repository, sha, latest=True)
            if (check.name, check.result, check.log is None) == (name, "", log is None)
        ]
        if not running:
            return self._begin(repository, sha, name, result, summary, log, allow_failure, url, by)
        check, before = running[-1], status_of(self.checks(repository, sha, latest=True))
        check.queued = False
        if result:
            check.result, check.ended_at = result, self.store.now()
        check.summary, check.log, check.url = summary, log, url or check.url
        check.by = by or check.by
        self._tell(repository, check, before, by, began=False)
        return check

    def rerun(self, repository: Repository, check: Check, by: User | None = None) -> Check:
        """Let a job run again: a new one of the same name, which waits for a runner."""
        actor = by or self._somebody()
        self.store.log.add("rerun", repository, actor, check=check.name, commit=check.sha)
        again = self._begin(
            repository, check.sha, check.name, "", "", b"", check.allow_failure, check.url, by, queued=True
        )
        again.attempt = check.attempt + 1
        return again

    def _begin(
        self,
        repository: Repository,
        sha: str,
        name: str,
        result: str,
        summary: str,
        log: bytes | None,
        allow_failure: bool,
        url: str,
        by: User | None,
        *,
        queued: bool = False,
    ) -> Check:
        known = self.checks(repository, sha)
        before = status_of(self.checks(repository, sha, latest=True))
        for older in known:
            older.superseded |= (older.name, older.log is None) == (name, log is None)
        run = known[0].run if known else self.store.next_id()
        now = self.store.now()
        check = Check(self.store.next_id(), sha, name, result, summary, log, run, now)
        check.ended_at, check.queued, check.allow_failure = now if result else None, queued, allow_failure
        check.url, check.by = url, by
        self._checks[repository.id].append(check)
        self._tell(repository, check, before, by, began=True)
        return check

    def _tell(
        self, repository: Repository, check: Check, before: str, by: User | None, *, began: bool
    ) -> None:
        checks = tuple(self.checks(repository, check.sha, latest=True))
        places = ((place, item) for place in self.store.repositories for item in place.items)
        item = next((item for _, item in places if item.open and item.tips.head_sha == check.sha), None)
        actor = by or self._somebody()
        state = check.result or ("queued" if check.queued else "running")
        last = (check.log or b"").decode(errors="replace").strip().rpartition("\n")[2][:_LINE_LIMIT]
        self.store.log.add(
            "check", repository, actor, check=check.name, commit=check.sha, state=state, body=last
        )
        all_ended = bool(check.result) and all(one.result for one in checks if one.log is not None)
        self.listener(
            CheckHappening(
                repository, check, checks, item, actor, began, all_ended, status_of(checks), before
            )
        )

    def _somebody(self) -> User:
        return next(user for user in self.store.users if user.admin)

    def _repository(self, item: Item) -> Repository:
        return next(place for place in self.store.repositories if any(one is item for one in place.items))


_GITLAB_STATES = {
    "success": "success",
    "neutral": "success",
    "failure": "failed",
    "error": "failed",
    "timed_out": "failed",
    "cancelled": "canceled",
    "skipped": "skipped",
    "action_required": "manual",
}


def job_state(check: Check) -> str:
    """A check's state in GitLab's words."""
    if not check.result:
        return "pending" if check.queued else "running"
    return _GITLAB_STATES.get(check.result, "failed")


def failure_reason(check: Check) -> str | None:
    """Why GitLab says that a job failed: its summary, if it has one."""
    return check.summary or "script_failure" if job_state(check) == "failed" else None


def status_of(checks: Sequence[Check]) -> str:
    """What GitLab says of a pipeline with these jobs; empty if there are none."""
    states = {job_state(check) for check in checks if not (check.allow_failure and check.result)}
    for state in ("running", "pending", "failed", "canceled", "manual"):
        if state in states:
            return state
    return "success" if checks else ""


def place(repository: Repository, item: Item, thread: Thread, *, follow_renames: bool) -> Place:
    """Where a thread is in the change's newest commit; GitHub does not follow a later rename."""
    as_placed = Place(thread.path, thread.line, thread.start_line, outdated=True)
    if thread.removed or thread.commit == item.tips.head_sha:
        return Place(thread.path, thread.line, thread.start_line, outdated=False)
    wanted = [line for line in (thread.start_line, thread.line) if line is not None]
    traced = git.trace(repository.path, thread.commit, item.tips.head_sha, thread.path, wanted)
    if traced is None or (traced[0] != thread.path and not follow_renames):
        return as_placed
    path, lines = traced
    start = lines[0] if thread.start_line is not None else None
    return Place(path, lines[-1] if lines else None, start, outdated=False)


def hunk(diff: str, line: int, *, removed: bool) -> str:
    """The hunk of a file's diff that shows a line, cut after it."""
    shown: list[str] = []
    at = {"-": 0, "+": 0}
    for text in diff.splitlines():
        if text.startswith("@@ "):
            old, new = text.split(" ")[1:3]
            at = {side[0]: abs(int(side.partition(",")[0])) for side in (old, new)}
            shown = [text]
            continue
        if not shown:
            continue
        shown.append(text)
        side = "-" if removed else "+"
        if text[:1] in (side, " ") and at[side] == line:
            return "\n".join(shown)
        for name in at:
            at[name] += text[:1] in (name, " ")
    return ""
