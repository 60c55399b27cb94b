"""Reads the open pull requests of our account from Gitea as snapshots.

Each scan reads a pull request and the statuses of its newest commit. The rest is read again only if something
has changed, or if a thread is not resolved, because nothing else shows that somebody resolves it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.forge.changes import (
    Actor,
    ChangeEvent,
    ChangeEventKind,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Mergeability,
    OpenChanges,
    Part,
    Remark,
    ReviewThread,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.forge.values import was_edited
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item
from pydantic import AliasPath, Field

from coding_agent_forges.gitea.discussion import (
    GiteaDiscussion,
    LineComment,
    Reviewed,
    StatusResponse,
    TimelineEntry,
    pushes,
)
from coding_agent_forges.gitea.settings import Gitea
from coding_agent_forges.rest.calls import Call, Read, ResponseModel, Text, User, path
from coding_agent_forges.rest.client import ForgeClient, answered_at
from coding_agent_forges.rest.open_changes import SET_ASIDE, read_each
from coding_agent_forges.rest.responses import GHOST, ItemResponse

_PAGE = 50
_LIST_PAGES = 4
"""Maximum number of pages of our open pull requests: 200 pull requests."""
DRAFT = "WIP: "
"""The beginning of a draft's title."""
_DRAFT = re.compile(r"(?:(?:wip:|\[wip\])\s*)+", re.IGNORECASE)
"""Matches the beginnings that Gitea accepts by default (`WORK_IN_PROGRESS_PREFIXES`)."""
_CHECKING = timedelta(seconds=20)
"""A pull request that does not merge for this long is not just being examined."""
_CHECKING_WAIT = 5.0
"""Seconds between the two answers that one snapshot compares for this."""
_SECOND = timedelta(seconds=1)
_CONCLUSIONS = {
    "success": CheckConclusion.SUCCESS,
    "failure": CheckConclusion.FAILURE,
    "error": CheckConclusion.FAILURE,
    "warning": CheckConclusion.NEUTRAL,
    "skipped": CheckConclusion.SKIPPED,
}
_VERDICTS = {str(verdict): verdict for verdict in ReviewVerdict}


class _Tip(ResponseModel):
    """One side of a pull request."""

    ref: str
    sha: Text = ""


class _PullRequest(ItemResponse):
    """A pull request.

    Attributes:
        mergeable: false also for a draft, and while Gitea still examines whether there is a conflict.
        comments: how many comments it has, those on lines included.
    """

    draft: bool = False
    merged: bool = False
    mergeable: bool = False
    comments: int = 0
    created_at: datetime
    head: _Tip
    base: _Tip
    repository: str = Field(default="", validation_alias=AliasPath("base", "repo", "full_name"))
    requested_reviewers: list[User] | None = None

    @property
    def change_state(self) -> ChangeState:
        if self.merged:
            return ChangeState.MERGED
        return ChangeState.OPEN if self.open else ChangeState.CLOSED


class _ListedPullRequest(ResponseModel):
    """A pull request in a search result, with the fields that identify it."""

    number: int
    repository: str = Field(validation_alias=AliasPath("repository", "full_name"))


class _Branch(ResponseModel):
    commit: str = Field(default="", validation_alias=AliasPath("commit", "id"))
    enable_status_check: bool = False
    status_check_contexts: list[str] | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """The patterns of the statuses that the branch's protection requires."""
        return tuple(self.status_check_contexts or ()) if self.enable_status_check else ()


@dataclass(frozen=True)
class _CachedDiscussion:
    """The discussion and the events of a pull request, read in one of its states."""

    of: object
    timeline: Read[TimelineEntry]
    reviewed: Read[Reviewed]
    base: _Branch

    @property
    def left_out(self) -> frozenset[Part]:
        lacking: set[Part] = set()
        if not self.timeline.complete:
            lacking |= {Part.COMMENTS, Part.EVENTS}
        if not self.reviewed.complete:
            lacking |= {Part.REVIEWS, Part.THREADS}
        return frozenset(lacking)

    @property
    def unresolved(self) -> bool:
        threads = (thread for one in self.reviewed.values for thread in one.threads)
        return any(not any(comment.resolver for comment in thread) for thread in threads)


@dataclass
class CachedPullRequest:
    """The cached responses about one pull request.

    Attributes:
        refused: head and base of a pull request that did not merge, and since when.
    """

    discussed: _CachedDiscussion | None = None
    refused: tuple[tuple[str, str], datetime] | None = None


@dataclass
class GiteaChanges:
    """The reader of our account's pull requests.

    Attributes:
        own: our account.
        known: cached responses by the identity of the pull request.
    """

    client: ForgeClient
    settings: Gitea
    own: User
    known: dict[str, CachedPullRequest]
    _base_checks: dict[tuple[str, str], tuple[CheckResult, ...]] = field(default_factory=dict)

    async def open(self) -> OpenChanges:
        """Return our open pull requests. Gitea's search index may be old, so each result is read anew."""
        params: dict[str, str | int] = {"type": "pulls", "state": "open", "created": "true", "limit": _PAGE}
        if self.settings.owner:
            params["owner"] = self.settings.owner
        call = Call("GET", "/repos/issues/search", "looking for our open pull requests", params)
        listed = await self.client.entries(list[_ListedPullRequest], call, limit=_LIST_PAGES)
        items = tuple(self._item(one.repository, one.number) for one in listed.values)
        return await read_each(Read(items, listed.left_out), self.known, self._read, new=CachedPullRequest)

    async def one(self, item: Item) -> ChangeSnapshot:
        """Return one pull request. If it does not merge, it is read again after some seconds."""
        cache = CachedPullRequest()
        snapshot = await self._read(item, cache)
        if cache.refused is None:
            return snapshot
        # Gitea also says "not mergeable" while it still computes; a conflict lasts.
        await self.client.clock.sleep(_CHECKING_WAIT)
        return await self._read(
            item, CachedPullRequest(refused=(cache.refused[0], snapshot.read_at - _CHECKING))
        )

    def _item(self, repository: str, number: int) -> Item:
        return Item(
            platform=Platform.GITEA,
            host=self.client.host,
            repository=repository,
            kind=ItemKind.CHANGE,
            number=number,
        )

    async def _read(self, item: Item, cache: CachedPullRequest) -> ChangeSnapshot:
        where = path("repos", *item.repository.split("/", 1), "pulls", item.number)
        call = Call("GET", where, f"reading {item.display}")
        response = await self.client.send(call)
        pull = self.client.parse(_PullRequest, response, call)
        read_at = answered_at(response, self.client.clock)
        state = pull.updated_at, pull.comments, pull.head.sha, pull.base.ref, pull.base.sha
        discussed = cache.discussed
        if discussed is None or discussed.of != state or discussed.unresolved:
            # Something else can happen in the second of the newest change, and would not be seen.
            settled = pull.updated_at is not None and read_at - pull.updated_at > 2 * _SECOND
            discussed = await self._discussed(item, pull, state if settled else None)
            cache.discussed = discussed
        problem, checks, left_out = "", tuple[CheckResult, ...](), discussed.left_out
        try:
            statuses = await GiteaDiscussion(self.client, item).statuses(pull.head.sha)
            checks = tuple(_check(status, discussed.base.required) for status in statuses.values)
            left_out |= frozenset() if statuses.complete else {Part.CHECKS}
        except ForgeError as error:
            if error.status not in SET_ASIDE:
                raise
            problem = f"{self.client.host} does not show the commit statuses ({error.status})"
        base_checks = await self._checks_of_base(item, discussed.base.commit, checks)
        snapshot = self._snapshot(item, pull, discussed, read_at, self._mergeability(pull, cache, read_at))
        return replace(
            snapshot, checks=checks, checks_problem=problem, base_checks=base_checks, left_out=left_out
        )

    async def _discussed(self, item: Item, pull: _PullRequest, state: object) -> _CachedDiscussion:
        discussion = GiteaDiscussion(self.client, item)
        timeline = await discussion.timeline()
        reviewed = await discussion.reviewed(timeline)
        where = path("repos", *item.repository.split("/", 1), "branches", pull.base.ref)
        call = Call("GET", where, f"reading the base of {item.display}")
        try:
            base = await self.client.get(_Branch, call)
        except ForgeNotFoundError:
            base = _Branch()
        return _CachedDiscussion(state, timeline, reviewed, base)

    async def _checks_of_base(
        self, item: Item, commit: str, checks: Sequence[CheckResult]
    ) -> tuple[CheckResult, ...]:
        """Return the checks of the base's tip, if one of the head has failed."""
        if not commit or not any(check.conclusion is CheckConclusion.FAILURE for check in checks):
            return ()
        key = item.repository_identity, commit
        if key not in self._base_checks:
            try:
                statuses = await GiteaDiscussion(self.client, item).statuses(commit)
            except ForgeError as error:
                if error.status not in SET_ASIDE:
                    raise
                statuses = Read()
            self._base_checks[key] = tuple(_check(status, ()) for status in statuses.values)
        return self._base_checks[key]

    def _mergeability(self, pull: _PullRequest, cache: CachedPullRequest, read_at: datetime) -> Mergeability:
        """Return whether the change merges. It has a conflict only if it does not merge for some time."""
        # `mergeable` is also false while Gitea still examines new commits.
        if pull.mergeable or pull.draft or not pull.open:
            cache.refused = None
            if pull.mergeable:
                return Mergeability.MERGES
            return Mergeability.NOT_SHOWN if pull.draft else Mergeability.UNKNOWN
        tips = pull.head.sha, pull.base.sha
        if cache.refused is None or cache.refused[0] != tips:
            cache.refused = tips, read_at
        since = cache.refused[1]
        return Mergeability.CONFLICT if read_at - since >= _CHECKING else Mergeability.UNKNOWN

    def _snapshot(
        self,
        item: Item,
        pull: _PullRequest,
        discussed: _CachedDiscussion,
        read_at: datetime,
        mergeability: Mergeability,
    ) -> ChangeSnapshot:
        timeline = discussed.timeline.values
        arrived = [entry.created_at for entry in pushes(timeline) if pull.head.sha in entry.pushed]
        return ChangeSnapshot(
            item=self._item(pull.repository, pull.number) if pull.repository else item,
            url=pull.url,
            own=actor_of(self.own),
            read_at=read_at,
            author=actor_of(pull.author),
            title=without_draft(pull.title),
            state=pull.change_state,
            draft=pull.draft,
            head_branch=pull.head.ref,
            head_commit=pull.head.sha,
            base_branch=pull.base.ref,
            base_commit=discussed.base.commit,
            created_at=pull.created_at,
            updated_at=pull.updated_at or pull.created_at,
            mergeability=mergeability,
            head_at=arrived[-1] if arrived else None,
            labels=self.settings.all_spelled(pull.label_names),
            threads=tuple(
                _thread(thread, one) for one in discussed.reviewed.values for thread in one.threads
            ),
            reviews=tuple(map(_review, discussed.reviewed.values)),
            comments=tuple(
                Remark(
                    str(entry.id),
                    _author_of(entry, self.own),
                    entry.created_at,
                    entry.body,
                    url=entry.html_url,
                )
                for entry in timeline
                if entry.kind == "comment"
            ),
            requested_reviewers=tuple(actor_of(user) for user in pull.requested_reviewers or ()),
            events=_events(timeline),
        )


def without_draft(title: str) -> str:
    """Return a title without the beginning that marks a draft, unless there is nothing else."""
    found = _DRAFT.match(title)
    return (title[found.end() :] if found is not None else "") or title


def actor_of(user: User) -> Actor:
    """Convert an account. Gitea does not say whether a person or a program uses it."""
    return Actor("", user.login) if user == GHOST or user.id <= 0 else Actor(str(user.id), user.login)


def _author_of(comment: TimelineEntry, own: User) -> Actor:
    """Return the author of a plain comment, or an unknown account if others may have written its text.

    Whoever has the unit right *Pull requests: write* may edit comments of others, and so could speak for
    people with more rights. Gitea does not say who edited a comment. Of comments on lines it does not even
    say whether one was edited, because their time also changes when their lines do.
    """
    edited = was_edited(comment.created_at, comment.updated_at) and comment.author.id != own.id
    return actor_of(GHOST if edited else comment.author)


def _review(reviewed: Reviewed) -> SubmittedReview:
    review = reviewed.review
    return SubmittedReview(
        id=str(review.id),
        author=actor_of(review.user),
        verdict=_VERDICTS[review.verdict or ""],
        body=review.body,
        submitted_at=reviewed.published_at,
        commit=review.commit,
        url=review.html_url,
    )


def _thread(comments: Sequence[LineComment], reviewed: Reviewed) -> ReviewThread:
    """Convert a thread of a review. Gitea identifies it by the id of its first comment."""
    remarks = tuple(
        Remark(
            id=str(comment.id),
            author=actor_of(comment.author),
            published_at=max(comment.created_at, reviewed.published_at),
            body=comment.body,
            commit=comment.commit,
            url=comment.html_url,
            review=str(reviewed.review.id),
        )
        for comment in comments
    )
    first, resolved = comments[0], any(comment.resolver for comment in comments)
    return ReviewThread(str(first.id), first.path, first.line, resolved, False, remarks)


def _check(status: StatusResponse, required: Sequence[str]) -> CheckResult:
    conclusion = _CONCLUSIONS.get(status.state)
    return CheckResult(
        id="",
        name=status.context,
        kind=CheckKind.STATUS,
        state=CheckState.WAITING if conclusion is None else CheckState.COMPLETED,
        conclusion=conclusion,
        required=any(fnmatchcase(status.context, pattern) for pattern in required) if required else None,
        url=status.target_url,
        errors="" if conclusion is CheckConclusion.SUCCESS else status.description,
        started_at=status.created_at,
        completed_at=None if conclusion is None else status.created_at,
        creator=actor_of(status.creator).id,
    )


def _events(timeline: Sequence[TimelineEntry]) -> tuple[ChangeEvent, ...]:
    opened = next(iter(pushes(timeline)), None)
    events: list[ChangeEvent] = []
    for entry in timeline:
        at: dict[str, Any] = {"actor": actor_of(entry.author), "at": entry.created_at}
        match entry.kind:
            case "pull_push" if entry is not opened:
                commit = entry.pushed[-1] if entry.pushed else ""
                events.append(ChangeEvent(ChangeEventKind.PUSHED, commit=commit, **at))
            case "label" if entry.label is not None:
                kind = ChangeEventKind.LABELED if entry.body else ChangeEventKind.UNLABELED
                events.append(ChangeEvent(kind, label=entry.label.name, **at))
            case "change_title":
                before, after = (_DRAFT.match(one) is not None for one in (entry.old_title, entry.new_title))
                if before != after:
                    kind = ChangeEventKind.DRAFTED if after else ChangeEventKind.READY
                    events.append(ChangeEvent(kind, **at))
            case "reopen":
                events.append(ChangeEvent(ChangeEventKind.REOPENED, **at))
    return tuple(events)
