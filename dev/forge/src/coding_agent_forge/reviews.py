"""Reviews of changes, threads on their lines, and checks of commits: the state, and the rules of changing it.

Like the store, all of it is in memory, and changed on the server's one event loop.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime

from coding_agent_forge import git
from coding_agent_forge.model import Comment, Item, Repository, User
from coding_agent_forge.store import Store


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


@dataclass(frozen=True)
class Place:
    """Where a thread is now; `outdated`: its lines were changed, and path and lines are as it was placed."""

    path: str
    line: int | None
    start_line: int | None
    outdated: bool


@dataclass(frozen=True)
class Check:
    """The result of a check of a commit: a check run or job, or, without `log`, a status of another program.

    Attributes:
        result: `failure`, `success`, …
        log: what the job printed; `None`: it is not a job of the forge itself.
        run: id of the workflow run or pipeline.
    """

    id: int
    sha: str
    name: str
    result: str
    summary: str
    log: bytes | None
    run: int
    at: datetime


@dataclass
class Reviews:
    """Everything of one forge."""

    store: Store
    _reviews: dict[int, list[Review]] = field(default_factory=lambda: defaultdict(list))
    _threads: dict[int, list[Thread]] = field(default_factory=lambda: defaultdict(list))
    _checks: dict[int, list[Check]] = field(default_factory=lambda: defaultdict(list))

    def reviews(self, item: Item) -> list[Review]:
        """Reviews of a change, oldest first."""
        return self._reviews[item.id]

    def threads(self, item: Item) -> list[Thread]:
        """Threads of a change, oldest first."""
        return self._threads[item.id]

    def checks(self, repository: Repository, sha: str | None = None) -> list[Check]:
        """Checks of a repository, or of one commit, oldest first."""
        return [check for check in self._checks[repository.id] if sha in (None, check.sha)]

    def review(self, item: Item, actor: User, state: str, body: str = "") -> Review:
        """Submit a review."""
        store = self.store
        review = Review(store.next_id(), actor, state, body, item.tips.head_sha, store.now())
        self._reviews[item.id].append(review)
        return review

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
        review = self.review(item, actor, "COMMENTED")
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
        return comment

    def edit_comment(self, comment: Comment, body: str) -> None:
        """Change the text of a comment of a thread."""
        comment.body, comment.updated_at = body, self.store.now()

    def add_check(
        self,
        repository: Repository,
        sha: str,
        name: str,
        result: str,
        *,
        summary: str = "",
        log: bytes | None = None,
    ) -> Check:
        """Report the result of a check; one run or pipeline for each commit."""
        known = self.checks(repository, sha)
        run = known[0].run if known else self.store.next_id()
        check = Check(self.store.next_id(), sha, name, result, summary, log, run, self.store.now())
        self._checks[repository.id].append(check)
        return check


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
