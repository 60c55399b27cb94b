"""Reads what people say about an item from Gitea: its timeline, reviews with threads, and commit statuses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pydantic import Field

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.calls import (
    GHOST,
    Author,
    Call,
    CommentAnswer,
    HistoryEvent,
    ResponseModel,
    Text,
    User,
    path,
)
from coding_agent_core.forge.http import ForgeClient
from coding_agent_core.forge.values import CHECKS_LIMIT, Checks, Discussion, FailedCheck, Review, Thread
from coding_agent_core.tasks import Item

_T = TypeVar("_T")
_PAGE = 50
"""The most entries of a page, unless the installation's administrator has changed `MAX_RESPONSE_ITEMS`."""
_PAGES = 40
_FILE_PAGES = 10
_STATUS_PAGES = 4
_READ_REVIEWS = 100
"""Maximum number of reviews whose comments are read; the newest."""
_VERDICTS = {
    "APPROVED": "approved",
    "REQUEST_CHANGES": "changes requested",
    "COMMENT": "commented",
}
"""The verdicts of submitted reviews. `PENDING` is a draft, and `REQUEST_REVIEW` asks for a review."""
_FAILED = ("failure", "error")


class TimelineEntry(CommentAnswer, HistoryEvent):
    """An entry of an item's timeline: a comment, or what somebody did.

    Attributes:
        kind: `comment`, `label`, `change_title`, `pull_push`, `review`, `reopen` and others
            (`commentStrings` in Gitea's source).
        body: the text; of a label `1` if it was applied, and empty if it was removed; of a push, JSON.
    """

    action: str = ""
    kind: str = Field(validation_alias="type")
    user: User | None = None
    review_id: int = 0
    old_title: str = ""
    new_title: str = ""

    def event(self) -> HistoryEvent:
        """Return the entry of a label as an event of the history."""
        return self.model_copy(update={"action": self.body})

    @property
    def pushed(self) -> tuple[str, ...]:
        """The commits of a push; of a forced one, the tips before and after it."""
        try:
            commits = json.loads(self.body)["commit_ids"]
        except (ValueError, KeyError, TypeError):
            return ()
        return tuple(commit for commit in commits if isinstance(commit, str)) if commits else ()


class ReviewAnswer(ResponseModel):
    """A review.

    Attributes:
        submitted_at: when the review was begun, whether or not it was a draft then.
    """

    id: int
    user: Author = GHOST
    state: str
    body: Text = ""
    commit: Text = Field(default="", validation_alias="commit_id")
    dismissed: bool = False
    comments_count: int = 0
    submitted_at: datetime
    updated_at: datetime | None = None
    html_url: Text = ""

    @property
    def verdict(self) -> str | None:
        """What the reviewer decided; `None` for a draft and for what is not a review."""
        found = _VERDICTS.get(self.state)
        return "dismissed" if found and self.dismissed else found


class LineComment(CommentAnswer):
    """A comment on a line; `position` is 0 for a line that the change removes."""

    path: str
    commit: Text = Field(default="", validation_alias="commit_id")
    diff_hunk: Text = ""
    position: int = 0
    original_position: int = 0
    resolver: User | None = None

    @property
    def place(self) -> tuple[str, int, int]:
        return self.path, self.position, self.original_position

    @property
    def line(self) -> int | None:
        return self.position or self.original_position or None


class StatusAnswer(ResponseModel):
    """The newest status of a commit under a name."""

    context: str
    state: str = Field(validation_alias="status")
    description: Text = ""
    target_url: Text = ""
    created_at: datetime | None = None


class _Combined(ResponseModel):
    statuses: list[StatusAnswer] | None = None


class _File(ResponseModel):
    filename: str
    previous_filename: str | None = None


@dataclass(frozen=True)
class Reviewed:
    """A review with the comments on lines that were written in it or as answers to it.

    Attributes:
        published_at: when others could first read it.
        threads: the comments by line; the oldest is first.
    """

    review: ReviewAnswer
    published_at: datetime
    threads: tuple[tuple[LineComment, ...], ...]


@dataclass(frozen=True)
class GiteaDiscussion:
    """Reads one item."""

    client: ForgeClient
    item: Item

    async def timeline(self) -> list[TimelineEntry]:
        """Return the timeline; the oldest entry is first.

        A page lacks comments on lines and what we may not see, and its answer does not say how many pages
        there are. So only a page without entries is after the last one.
        """
        what = f"reading the timeline of {self.item.display}"
        return await self._pages(list[TimelineEntry], what, "issues", self.item.number, "timeline")

    async def reviews(self) -> list[ReviewAnswer]:
        """Return the submitted reviews; the oldest is first."""
        what = f"reading the reviews of {self.item.display}"
        found = await self._pages(list[ReviewAnswer], what, "pulls", self.item.number, "reviews")
        return sorted((one for one in found if one.verdict), key=lambda one: one.id)

    async def _pages(self, model: type[list[_T]], what: str, *where: str | int) -> list[_T]:
        """Return all entries of a list whose answers have no links to other pages."""
        found: list[_T] = []
        for number in range(1, _PAGES + 1):
            params: dict[str, str | int] = {"limit": _PAGE, "page": number}
            page = await self.client.get(model, Call("GET", self._repository(*where), what, params))
            found += page
            if not page:
                break
        return found

    async def reviewed(self, timeline: Sequence[TimelineEntry]) -> list[Reviewed]:
        """Return the submitted reviews with their threads; the oldest is first."""
        reviews = await self.reviews()
        submitted = {entry.review_id: entry.created_at for entry in timeline if entry.kind == "review"}
        found = []
        for review in reviews:
            read = review.comments_count and review in reviews[-_READ_REVIEWS:]
            published = max(review.submitted_at, submitted.get(review.id, review.submitted_at))
            threads = await self._threads(review) if read else ()
            found.append(Reviewed(review, published, threads))
        return found

    async def _threads(self, review: ReviewAnswer) -> tuple[tuple[LineComment, ...], ...]:
        where = self._repository("pulls", self.item.number, "reviews", review.id, "comments")
        what = f"reading the comments of a review of {self.item.display}"
        threads: dict[tuple[str, int, int], list[LineComment]] = {}
        comments = await self.client.get(list[LineComment], Call("GET", where, what))
        for comment in sorted(comments, key=lambda one: one.id):
            threads.setdefault(comment.place, []).append(comment)
        return tuple(map(tuple, threads.values()))

    async def read(self) -> Discussion:
        """See `Forge.discussion`. Gitea does not say whether the lines of a thread were changed later."""
        reviewed = await self.reviewed(await self.timeline())
        threads = [(one, thread) for one in reviewed for thread in one.threads]
        renames = await self._renames() if threads else {}
        return Discussion(
            reviews=tuple(
                Review(
                    one.review.user.login,
                    one.review.verdict or "",
                    one.review.body,
                    one.published_at,
                    updated_at=one.review.updated_at,
                )
                for one in reviewed
            ),
            threads=tuple(_thread(thread, one.published_at).renamed(renames) for one, thread in threads),
        )

    async def _renames(self) -> Mapping[str, str]:
        what = f"reading the files of {self.item.display}"
        call = Call("GET", self._repository("pulls", self.item.number, "files"), what, {"limit": _PAGE})
        files = await self.client.entries(list[_File], call, limit=_FILE_PAGES)
        return {file.previous_filename: file.filename for file in files if file.previous_filename}

    async def statuses(self, commit: str) -> list[StatusAnswer]:
        """Return the newest status of each name of a commit."""
        what = f"reading the commit statuses of {self.item.display}"
        where = self._repository("commits", commit, "status")
        pages = self.client.pages(_Combined, Call("GET", where, what, {"limit": _PAGE}), limit=_STATUS_PAGES)
        return [status async for page in pages for status in page.statuses or ()]

    async def failed_checks(self, commit: str) -> Checks:
        """Return the failed commit statuses. Gitea's API shows no log of what made them."""
        try:
            statuses = await self.statuses(commit)
        except ForgeError as error:
            return Checks(unreadable=(f"the commit statuses ({error.status or 'no answer'})",))
        failed = [one for one in statuses if one.state in _FAILED]
        return Checks(
            tuple(
                FailedCheck(one.context, one.state, one.target_url, one.description)
                for one in failed[:CHECKS_LIMIT]
            )
        )

    def _repository(self, *rest: str | int) -> str:
        return path("repos", *self.item.repository.split("/", 1), *rest)


def pushes(timeline: Iterable[TimelineEntry]) -> list[TimelineEntry]:
    """Return the pushes to a pull request's branch. The first push opened the pull request."""
    return [entry for entry in timeline if entry.kind == "pull_push"]


def _thread(comments: Sequence[LineComment], published_at: datetime) -> Thread:
    """Make a thread from its comments. Nobody could read them before their review was submitted."""
    first = comments[0]
    return Thread(
        path=first.path,
        line=first.line,
        removed=not first.position and bool(first.original_position),
        hunk=first.diff_hunk,
        resolved=any(comment.resolver for comment in comments),
        outdated=False,
        comments=tuple(comment.published(published_at) for comment in comments),
    )
