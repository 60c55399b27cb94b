"""The client for Gitea and Forgejo.

In Gitea's REST API, a pull request is an issue too: its labels and comments are at the issue endpoints.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlsplit

from coding_agent_core.errors import ForgeNotFoundError, ForgeRejectedError
from coding_agent_core.forge.changes import ChangeSnapshot, OpenChanges, ReviewThread
from coding_agent_core.forge.values import (
    BranchFacts,
    Change,
    Checks,
    Comment,
    CommitStatus,
    Discussion,
    ItemDetails,
    Permission,
    Revision,
)
from coding_agent_core.platforms.facts import ItemKind, web_base
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import both
from coding_agent_core.task.item_history import ItemAction, ItemEvent, Position
from coding_agent_core.task.model import Head, Item
from pydantic import AliasPath, Field

from coding_agent_forges.gitea.changes import DRAFT, CachedPullRequest, GiteaChanges, without_draft
from coding_agent_forges.gitea.discussion import GiteaDiscussion
from coding_agent_forges.gitea.labels import RepositoryLabel, create_label
from coding_agent_forges.gitea.revisions import GiteaRevisions
from coding_agent_forges.gitea.settings import Gitea
from coding_agent_forges.rest.calls import Call, Read, Repeat, ResponseModel, User, path
from coding_agent_forges.rest.client import Pages
from coding_agent_forges.rest.comments import newest_comments
from coding_agent_forges.rest.forge import Attachment, Forge, too_many_labeled
from coding_agent_forges.rest.item_events import item_events
from coding_agent_forges.rest.open_changes import CHANGE_PAGES, require_all_changes
from coding_agent_forges.rest.responses import CommentResponse, HistoryEvent, ItemResponse

_PAGE = 50
"""The most entries of a page, unless the installation's administrator has changed `MAX_RESPONSE_ITEMS`."""
_SEARCH_PAGES = 200
"""Maximum number of pages of labeled items that one poll reads: 10,000 items."""
_TITLE_LIMIT = 255
"""Maximum number of characters that Gitea stores of a title."""
_COLOR = "#8250df"
"""The color of a label that we create."""
_ATTACHMENT = re.compile(r"/(?:[\w.-]+/[\w.-]+/)?attachments/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""Matches paths of attachments below the web address. The first form is from before Gitea 1.20."""


class _FoundItem(ItemResponse):
    repository: str = Field(validation_alias=AliasPath("repository", "full_name"))
    assignees: list[User] | None = None


class _Labeled(ResponseModel):
    labels: list[RepositoryLabel]


class _Repository(ResponseModel):
    full_name: str
    default_branch: str = ""
    empty: bool = False
    private: bool = False
    archived: bool = False
    owner: str = Field(default="", validation_alias=AliasPath("owner", "login"))
    fork_of: str = Field(default="", validation_alias=AliasPath("parent", "full_name"))


class _Branch(ResponseModel):
    protected: bool


class _Tip(ResponseModel):
    """One side of a pull request; `repo` is null when the fork was deleted."""

    ref: str
    sha: str
    repo_id: int
    repo: _Repository | None = None

    @property
    def branch(self) -> str | None:
        """The branch's name; `None` for a pull request that was pushed without a branch (AGit)."""
        return None if self.repo is not None and self.ref.startswith("refs/pull/") else self.ref


class _PullRequest(ItemResponse):
    head: _Tip
    base: _Tip

    @property
    def own(self) -> bool:
        """Whether the branch is in the repository itself."""
        return self.head.repo is not None and self.head.repo_id == self.base.repo_id


class _Permission(ResponseModel):
    permission: str = "none"


@dataclass
class GiteaForge(Forge):
    """One installation of Gitea, with one token."""

    platform = Platform.GITEA
    CLONE_USER = "oauth2"  # Gitea takes the token as the password of any name
    COMMENTS = "comments"
    OLDEST_FIRST = {}  # noqa: RUF012 - the only order
    EDIT_METHOD = "PATCH"
    EVENTS = "timeline"
    ACTIONS = {  # noqa: RUF012
        "1": ItemAction.LABELED,
        "": ItemAction.UNLABELED,
        "close": ItemAction.CLOSED,
        "merge_pull": ItemAction.CLOSED,
        "reopen": ItemAction.REOPENED,
    }
    # The text of a label's entry in the timeline.
    LABELED = "1"
    UNLABELED = ""
    REACTIONS = "reactions"
    ITEM = ItemResponse
    REACTION_FIELD = "content"
    EDITS_ARE_DATED = True
    ID_MARK = "+"

    settings: Gitea

    def __post_init__(self) -> None:
        super().__post_init__()
        self._known: dict[str, CachedPullRequest] = {}

    def _item_path(self, item: Item, *rest: str | int) -> str:
        return _repo_path(item, "issues", item.number, *rest)

    def _comment_path(self, item: Item, comment: str) -> str:
        return _repo_path(item, "issues", "comments", comment)

    def _private_email(self, user: User) -> str:
        """Return the private e-mail address. An administrator can set its host with `NO_REPLY_ADDRESS`."""
        host = urlsplit(web_base(self.settings.api_url)).hostname
        return f"{user.id}{self.ID_MARK}{user.login.lower()}@noreply.{host}"

    async def _search(
        self, kind: ItemKind, labels: frozenset[str]
    ) -> AsyncIterator[tuple[ItemResponse, Item]]:
        """Yield the labeled items. If none of the labels exists, Gitea would find all items."""
        params: dict[str, str | int] = {
            "labels": ",".join(sorted(labels)),
            "type": "issues" if kind is ItemKind.ISSUE else "pulls",
            "state": "open",
            "limit": _PAGE,
        }
        if self.settings.owner:
            params["owner"] = self.settings.owner
        if self.settings.query.strip():
            params["q"] = self.settings.query.strip()
        what = f"searching for items labeled {min(labels)!r}"
        call = Call("GET", "/repos/issues/search", what, params)
        assignee = self.settings.assignee.casefold()
        pages = self.client.pages(list[_FoundItem], call, limit=_SEARCH_PAGES)
        async for page in pages:
            labeled = [found for found in page if self._labels(found) & labels]
            for found in labeled:
                logins = [user.login.casefold() for user in found.assignees or ()]
                if not assignee or assignee in logins:
                    yield found, self._item_of(found, kind)
            if page and not labeled:
                return
        if not pages.complete:
            raise too_many_labeled(self.host, labels)

    def _item_of(self, found: _FoundItem, kind: ItemKind) -> Item:
        return Item(
            platform=Platform.GITEA,
            host=self.host,
            repository=found.repository,
            kind=kind,
            number=found.number,
        )

    def _history(self, item: Item) -> Pages[list[HistoryEvent]]:
        """Return the events of an item's history; none if it is too long, as Gitea lists the oldest first."""

        async def read(pages: Pages[list[HistoryEvent]]) -> AsyncIterator[list[HistoryEvent]]:
            timeline = await GiteaDiscussion(self.client, item).timeline()
            pages.complete = timeline.complete
            if timeline.complete:
                yield [entry.event() for entry in timeline.values if entry.kind == "label"]

        return Pages(read)

    async def _item_events(
        self, item: Item, after: Position | None, shown: frozenset[str], updated: datetime | None
    ) -> Read[ItemEvent]:
        """Return the events of the whole timeline, however far back the position is.

        Gitea sorts the timeline by time, and by id only within a second. If its clock was set back, the
        newest entries are somewhere in the middle. So no page may be left out, and `since`, which filters by
        time, may not be used.
        """
        timeline = await GiteaDiscussion(self.client, item).timeline(updated)
        if not timeline.complete:
            return Read((), timeline.left_out)  # the newest events are not known
        entries = [entry.event() for entry in timeline.values]
        return Read(tuple(item_events(entries, self.ACTIONS, self.settings)))

    async def _path_of(self, repository: str) -> str:
        return (await self._repository(repository)).full_name

    async def _is_private(self, item: Item) -> bool:
        return (await self._repository(item.repository)).private

    async def _repository(self, repository: str) -> _Repository:
        where = path("repos", *repository.split("/", 1))
        return await self.client.get(_Repository, Call("GET", where, f"reading the repository {repository}"))

    async def _head_of(self, found: ItemResponse, item: Item) -> Head:
        pull = await self._pull(item)
        return Head(pull.own, pull.head.ref)

    async def _pull(self, item: Item) -> _PullRequest:
        call = Call("GET", _repo_path(item, "pulls", item.number), f"reading {item.display}")
        return await self.client.get(_PullRequest, call)

    async def read(self, item: Item) -> ItemDetails:
        """Read the item. An empty repository names the default branch that it will have."""
        if item.kind is ItemKind.CHANGE:
            pull = await self._pull(item)
            return replace(
                self._details(
                    item,
                    pull,
                    base=pull.base.ref,
                    repository=pull.base.repo.full_name if pull.base.repo else item.repository,
                ),
                title=without_draft(pull.title),
                head_branch=pull.head.branch,
                head_sha=pull.head.sha,
                head_repository=pull.head.repo.full_name if pull.head.repo else None,
            )
        call = Call("GET", self._item_path(item), f"reading {item.display}")
        issue, repository = await both(self.client.get(ItemResponse, call), self._repository(item.repository))
        return self._details(
            item, issue, base=repository.default_branch or "main", repository=repository.full_name
        )

    async def branch_facts(self, repository: str, branch: str) -> BranchFacts:
        async def is_protected() -> bool:
            where = path("repos", *repository.split("/", 1), "branches", branch)
            call = Call("GET", where, f"reading the branch {branch} of {repository}")
            try:
                return (await self.client.get(_Branch, call)).protected
            except ForgeNotFoundError:
                return False

        found, protected = await both(self._repository(repository), is_protected())
        default = None if found.empty else found.default_branch or None
        return BranchFacts(default, protected, frozenset({found.fork_of.lower()} - {""}), found.archived)

    async def comments(self, item: Item) -> Read[Comment]:
        """Return the newest comments. Gitea returns all comments at once."""
        call = self._comments_call(item, self.OLDEST_FIRST)
        found = await self.client.get(list[CommentResponse], call)
        return newest_comments([comment.comment() for comment in found], complete=True)

    async def revisions(self, details: ItemDetails, since: datetime) -> tuple[Revision, ...]:
        return await GiteaRevisions(self.client, details).since(since)

    async def discussion(self, change: Item) -> Discussion:
        return await GiteaDiscussion(self.client, change).read()

    async def failed_checks(self, change: ItemDetails) -> Checks:
        if change.head_sha is None:
            return Checks()
        return await GiteaDiscussion(self.client, change.item).failed_checks(change.head_sha)

    async def _open_changes(self) -> OpenChanges:
        return await (await self._changes()).open()

    async def _snapshot(self, change: Item) -> ChangeSnapshot:
        return await (await self._changes()).one(change)

    async def _changes(self) -> GiteaChanges:
        return GiteaChanges(self.client, self.settings, await self._account(), self._known)

    async def check_log(self, change: Item, run: str) -> str:
        """Return an empty text, because a commit status has no log."""
        return ""

    async def rerun_check(self, change: Item, run: str) -> None:
        """Raise an error, because the check behind a commit status cannot be run again."""
        raise ForgeRejectedError(f"{self.host} cannot run a check of {change.display} again")

    async def set_status(self, item: Item, commit: str, status: CommitStatus) -> None:
        body = {"state": status.state.value, "context": status.name, "description": status.description}
        if status.url:
            body["target_url"] = status.url
        what = f"setting the status {status.name} of a commit for {item.display}"
        await self.client.send(Call("POST", _repo_path(item, "statuses", commit), what, json=body))

    async def reply(self, change: Item, thread: ReviewThread, body: str) -> None:
        """Write a remark in a thread, with an API that Gitea has since 1.27."""
        where = _repo_path(change, "pulls", change.number, "comments", thread.id, "replies")
        await self.client.send(
            Call(
                "POST",
                where,
                f"answering in a thread of {change.display}",
                json={"body": body},
                repeat=Repeat.UNLESS_PROCESSED,
                creates=True,
            )
        )

    async def resolve(self, change: Item, thread: ReviewThread) -> None:
        """Mark a thread as resolved, with an API that Gitea has since 1.26."""
        where = _repo_path(change, "pulls", "comments", thread.id, "resolve")
        await self.client.send(Call("POST", where, f"resolving a thread of {change.display}"))

    async def request_review(self, change: Item, logins: Sequence[str]) -> None:
        where = _repo_path(change, "pulls", change.number, "requested_reviewers")
        what = f"asking for a review of {change.display}"
        await self.client.send(Call("POST", where, what, json={"reviewers": list(logins)}))

    async def mark_ready(self, change: Item) -> None:
        """Mark a draft as ready by removing the beginning of its title that makes it a draft on Gitea."""
        title = (await self._pull(change)).title
        if without_draft(title) != title:
            what, body = f"marking {change.display} as ready", {"title": without_draft(title)}
            await self.client.send(Call("PATCH", _repo_path(change, "pulls", change.number), what, json=body))

    async def add_label(self, item: Item, label: str) -> None:
        """Add one label, and create it if necessary, because Gitea ignores labels that do not exist."""
        what = f"adding the label {label!r} to {item.display}"
        call = Call("POST", self._item_path(item, "labels"), what, json={"labels": [label]})
        if label in [found.name for found in await self.client.get(list[RepositoryLabel], call)]:
            return
        number = await create_label(self.client, item.repository, {"name": label, "color": _COLOR})
        await self.client.send(replace(call, json={"labels": [number]}))

    async def remove_label(self, item: Item, label: str) -> bool:
        """Remove one label. Gitea does not say whether the label was there, so the labels are read first.

        Two simultaneous callers may both get `True`, but the item's lock in the queue prevents this.
        """
        what = f"removing the label {label!r} from {item.display}"
        found = await self.client.get(_Labeled, Call("GET", self._item_path(item), what))
        ids = [one.id for one in found.labels if one.name == label]
        for number in ids:
            await self.client.send(Call("DELETE", self._item_path(item, "labels", number), what))
        return bool(ids)

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        """Return the open change from a branch. Gitea's list of changes has no filter for a branch.

        `/pulls/{base}/{head}` shows one pull request of two branches, in whatever state (see
        `GetPullRequestByBaseHeadInfo` in its source), so it can hide the open one behind a closed one.
        """
        what = f"looking for the pull request of {item.display}"
        params: dict[str, str | int] = {"state": "open", "sort": "recentupdate", "limit": _PAGE}
        call = Call("GET", _repo_path(item, "pulls"), what, params)
        pages = self.client.pages(list[_PullRequest], call, limit=CHANGE_PAGES)
        async for page in pages:
            for pull in page:
                # Forks can have branches with the same name.
                if pull.head.ref == branch and pull.own:
                    return Change(number=pull.number, url=pull.url, created=False)
        require_all_changes(item, branch, complete=pages.complete)
        return None

    async def _create_change(
        self, item: Item, *, branch: str, base: str, title: str, body: str, draft: bool
    ) -> Change:
        title = f"{DRAFT if draft else ''}{without_draft(title)}"
        call = Call(
            "POST",
            _repo_path(item, "pulls"),
            f"opening a pull request for {item.display}",
            json={"title": title[:_TITLE_LIMIT], "body": body, "head": branch, "base": base},
            repeat=Repeat.UNLESS_PROCESSED,
            creates=True,
        )
        pull = await self.client.get(ItemResponse, call)
        return Change(number=pull.number, url=pull.url, created=True)

    async def _find_user(self, login: str) -> User | None:
        try:
            return await self.client.get(User, Call("GET", path("users", login), f"reading the user {login}"))
        except ForgeNotFoundError:
            return None

    async def permission(self, item: Item, user: str) -> Permission:
        """Return a person's permission. Gitea shows it only to administrators, and has no triage role."""
        what = f"reading what {user} may do in the repository of {item.display}"
        call = Call("GET", _repo_path(item, "collaborators", user, "permission"), what)
        try:
            answer = await self.client.get(_Permission, call)
        except ForgeNotFoundError:
            return Permission.NONE
        if answer.permission not in ("write", "admin", "owner"):
            return Permission.NONE
        # Only administrators of the installation see that an account was deactivated. But the list of those
        # who can be assigned has everybody with write access who is active. It lacks administrators of the
        # installation who have no access otherwise; their permission is `owner`.
        what = f"reading who may write in the repository of {item.display}"
        active = await self.client.get(list[User], Call("GET", _repo_path(item, "assignees"), what))
        known = any(one.login.lower() == user.lower() for one in active)
        return Permission.WRITE if known or answer.permission == "owner" else Permission.NONE

    def _attachment_of(self, item: Item, link: str) -> Attachment | None:
        """Return the attachment of a link, which can be relative. Gitea accepts our token there too."""
        web = web_base(self.settings.api_url)
        found = _ATTACHMENT.fullmatch(link.removeprefix(web))
        return Attachment(f"{web}/attachments/{found[1]}", with_token=True) if found is not None else None


def _repo_path(item: Item, *rest: str | int) -> str:
    """Return the API's path of the item's repository, or of something below it."""
    return path("repos", *item.repository.split("/", 1), *rest)


CLIENT = GiteaForge
