"""Reads the discussion of an item from Gitea: timeline, reviews with threads, and commit statuses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.forge.changes import Actor, newest_of_each
from coding_agent_core.forge.values import Checks, Discussion, FailedCheck, Review, Thread
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import Item
from pydantic import Field

from coding_agent_forges.rest.calls import Call, Read, ResponseModel, Text, User, path
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.responses import GHOST, Author, CommentResponse, HistoryEvent

_PAGE = 50
"""The most entries of a page, unless the installation's administrator has changed `MAX_RESPONSE_ITEMS`."""
_PAGES = 100
"""Maximum number of pages of the timeline and of reviews: 5,000 entries."""
_FILE_PAGES = 10
_STATUS_PAGES = 20
_HIDDEN_PAGES = 10
"""So many pages without an entry end the timeline of an item that was changed after its newest entry. An
edited text explains such a change, too, so it does not say that something is missing."""
_SECOND = timedelta(seconds=1)
_READ_REVIEWS = 100
"""Maximum number of reviews whose comments are read, because each takes a request."""
_VERDICTS = {
    "APPROVED": "approved",
    "REQUEST_CHANGES": "changes requested",
    "COMMENT": "commented",
}
"""The verdicts of submitted reviews. `PENDING` is a draft, and `REQUEST_REVIEW` asks for a review."""
_FAILED = ("failure", "error")


class TimelineEntry(CommentResponse, HistoryEvent):
    """An entry of an item's timeline: a comment or an event.

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
        """Return the entry as an event of the history, whose name is a label's text or another's kind."""
        return self.model_copy(update={"action": self.body if self.kind == "label" else self.kind})

    @property
    def pushed(self) -> tuple[str, ...]:
        """The commits of a push; of a forced one, the tips before and after it."""
        try:
            commits = json.loads(self.body)["commit_ids"]
        except (ValueError, KeyError, TypeError):
            return ()
        return tuple(commit for commit in commits if isinstance(commit, str)) if commits else ()


class ReviewResponse(ResponseModel):
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
        """The reviewer's verdict; `None` for a draft and for an entry that is not a review."""
        found = _VERDICTS.get(self.state)
        return "dismissed" if found and self.dismissed else found


class LineComment(CommentResponse):
    """A comment on a line.

    Attributes:
        position: the line's number in the new file; 0 if the change removes the line.
    """

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


class StatusResponse(ResponseModel):
    """The newest status of a commit under a name."""

    context: str
    state: str = Field(validation_alias="status")
    description: Text = ""
    target_url: Text = ""
    created_at: datetime | None = None
    creator: Author = GHOST


class _Combined(ResponseModel):
    statuses: list[StatusResponse] | None = None


class _ApiSettings(ResponseModel):
    max_response_items: int = Field(default=_PAGE, gt=0)


class _File(ResponseModel):
    filename: str
    previous_filename: str | None = None


@dataclass(frozen=True)
class Reviewed:
    """A review with its comments on lines and the answers to them.

    Attributes:
        published_at: when others could first read it.
        threads: the comments by line; the oldest is first.
    """

    review: ReviewResponse
    published_at: datetime
    threads: tuple[tuple[LineComment, ...], ...]


@dataclass(frozen=True)
class GiteaDiscussion:
    """The reader of one item's discussion."""

    client: ForgeClient
    item: Item

    async def timeline(self, updated: datetime | None = None) -> Read[TimelineEntry]:
        """Return the timeline; the oldest entry is first.

        Gitea cuts the list into pages before it leaves out comments on lines and what we may not see, and
        does not say how many entries there are (`ListIssueCommentsAndTimeline`). So an empty page can be in
        the middle: the list goes on until the places without an entry are more than the known comments on
        lines by a whole page. What else is left out are references from repositories that we may not see, and
        drafts of other people's reviews.

        Args:
            updated: when the item was last changed. If no entry is as new, somebody may hide newer entries
                behind such references: then the list ends only after `_HIDDEN_PAGES` pages of such places.
        """
        what = f"reading the timeline of {self.item.display}"
        where = self._repository("issues", self.item.number, "timeline")
        entries: list[TimelineEntry] = []
        hidden, size = None if self.item.kind is ItemKind.CHANGE else 0, _PAGE
        for number in range(1, _PAGES + 1):
            params: dict[str, str | int] = {"limit": _PAGE, "page": number}
            page = await self.client.get(list[TimelineEntry], Call("GET", where, what, params))
            entries += page
            if page:
                continue
            if hidden is None:
                hidden = sum(one.comments_count for one in (await self._listed_reviews()).values)
                size = await self._page_size() if hidden else _PAGE
            newest = max((one.created_at for one in entries), default=None)
            unexplained = updated is not None and (newest is None or newest + _SECOND < updated)
            empty = _HIDDEN_PAGES if unexplained else 1
            if number * size - len(entries) >= hidden + empty * size:
                return Read(tuple(entries))
        return Read(tuple(entries), (f"what comes after {_PAGES} pages of the timeline",))

    async def _page_size(self) -> int:
        """Return the number of entries in a page, which an administrator may have limited."""
        if self.client.page_size is None:
            call = Call("GET", "/settings/api", "reading how large the pages of lists are")
            try:
                largest = (await self.client.get(_ApiSettings, call)).max_response_items
            except ForgeNotFoundError:
                largest = _PAGE
            # An installation may return fewer entries than asked for, and a short page would look like the
            # last one.
            self.client.page_size = min(_PAGE, largest)
        return self.client.page_size

    async def reviews(self) -> Read[ReviewResponse]:
        """Return the submitted reviews; the oldest is first."""
        found = await self._listed_reviews()
        submitted = sorted((one for one in found.values if one.verdict), key=lambda one: one.id)
        return Read(tuple(submitted), () if found.complete else ("newer reviews",))

    async def _listed_reviews(self) -> Read[ReviewResponse]:
        what = f"reading the reviews of {self.item.display}"
        where = self._repository("pulls", self.item.number, "reviews")
        return await self.client.entries(
            list[ReviewResponse], Call("GET", where, what, {"limit": _PAGE}), limit=_PAGES
        )

    async def reviewed(self, timeline: Read[TimelineEntry]) -> Read[Reviewed]:
        """Return the submitted reviews with their threads; the oldest is first.

        If too many reviews have comments, the threads of some are missing: nobody's reviews push out the
        newest of somebody else, and those of people with write access come first. If the timeline does not
        show when a review was submitted, that was at most as late as its last update.
        """
        reviews = await self.reviews()
        submitted = {entry.review_id: entry.created_at for entry in timeline.values if entry.kind == "review"}
        with_comments = [one for one in reviews.values if one.comments_count]
        unread = await self._beyond_limit(with_comments)
        listed = []
        for review in reviews.values:
            read = review.comments_count and review.id not in unread
            latest = None if timeline.complete else review.updated_at
            published = max(review.submitted_at, submitted.get(review.id, latest or review.submitted_at))
            threads = await self._threads(review) if read else ()
            listed.append(Reviewed(review, published, threads))
        left_out = (*reviews.left_out, *(["threads of some reviews"] if unread else []))
        return Read(tuple(listed), left_out)

    async def _beyond_limit(self, reviews: Sequence[ReviewResponse]) -> set[int]:
        """Return the ids of the reviews whose comments are not read; the oldest review is first."""
        if len(reviews) <= _READ_REVIEWS:
            return set()
        what = f"reading who may write in the repository of {self.item.display}"
        writers = await self.client.get(list[User], Call("GET", self._repository("assignees"), what))
        ids = {one.id for one in writers}
        authors = [Actor(str(one.user.id), one.user.login, member=one.user.id in ids) for one in reviews]
        kept = newest_of_each(authors, _READ_REVIEWS)
        return {one.id for place, one in enumerate(reviews) if place not in kept}

    async def _threads(self, review: ReviewResponse) -> tuple[tuple[LineComment, ...], ...]:
        where = self._repository("pulls", self.item.number, "reviews", review.id, "comments")
        what = f"reading the comments of a review of {self.item.display}"
        threads: dict[tuple[str, int, int], list[LineComment]] = {}
        comments = await self.client.get(list[LineComment], Call("GET", where, what))
        for comment in sorted(comments, key=lambda one: one.id):
            threads.setdefault(comment.place, []).append(comment)
        return tuple(map(tuple, threads.values()))

    async def read(self) -> Discussion:
        """Return the reviews and threads. Gitea does not say whether a thread's lines were changed later."""
        reviewed = await self.reviewed(await self.timeline())
        threads = [(one, thread) for one in reviewed.values for thread in one.threads]
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
                for one in reviewed.values
            ),
            threads=tuple(_thread(thread, one.published_at).renamed(renames) for one, thread in threads),
            left_out=reviewed.left_out,
        )

    async def _renames(self) -> Mapping[str, str]:
        what = f"reading the files of {self.item.display}"
        call = Call("GET", self._repository("pulls", self.item.number, "files"), what, {"limit": _PAGE})
        files = await self.client.entries(list[_File], call, limit=_FILE_PAGES)
        return {file.previous_filename: file.filename for file in files.values if file.previous_filename}

    async def statuses(self, commit: str) -> Read[StatusResponse]:
        """Return the newest status of each name of a commit."""
        what = f"reading the commit statuses of {self.item.display}"
        where = self._repository("commits", commit, "status")
        pages = self.client.pages(_Combined, Call("GET", where, what, {"limit": _PAGE}), limit=_STATUS_PAGES)
        found = tuple([status async for page in pages for status in page.statuses or ()])
        return Read(found, () if pages.complete else ("older commit statuses",))

    async def failed_checks(self, commit: str) -> Checks:
        """Return the failed commit statuses, without logs, which Gitea's API does not show."""
        try:
            statuses = await self.statuses(commit)
        except ForgeError as error:
            return Checks(unreadable=(f"the commit statuses ({error.status or 'no answer'})",))
        failed = [one for one in statuses.values if one.state in _FAILED]
        return Checks.first(
            [FailedCheck(one.context, one.state, one.target_url, one.description) for one in failed],
            left_out=statuses.left_out,
        )

    def _repository(self, *rest: str | int) -> str:
        return path("repos", *self.item.repository.split("/", 1), *rest)


def pushes(timeline: Iterable[TimelineEntry]) -> list[TimelineEntry]:
    """Return the pushes to a pull request's branch. The first push opened the pull request."""
    return [entry for entry in timeline if entry.kind == "pull_push"]


def _thread(comments: Sequence[LineComment], published_at: datetime) -> Thread:
    """Return the thread that consists of these comments, which appear when their review is submitted."""
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
