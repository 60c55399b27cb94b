"""The client for GitHub and GitHub Enterprise.

In GitHub's REST API, a pull request is an issue too: its labels and comments are at the issue endpoints.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, TokenMissingError
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
from coding_agent_core.platforms.registry import Platform, forge_module
from coding_agent_core.runtime.retry import Clock, both
from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.item_history import ItemAction
from coding_agent_core.task.model import Head, Item
from pydantic import AliasPath, Field

from coding_agent_forges.github.auth.service_token import MISSING, ServiceTokens
from coding_agent_forges.github.changes import GitHubChanges, Memory
from coding_agent_forges.github.commits import GitHubCommits
from coding_agent_forges.github.discussion import GitHubDiscussion
from coding_agent_forges.github.facts import MEMBERS, token_expiry_of
from coding_agent_forges.github.redelivery import GitHubHooks, RedeliveryRound
from coding_agent_forges.github.revisions import GitHubRevisions
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.rest.calls import PAGE_SIZE, Call, Read, Repeat, ResponseModel, Text, User, path
from coding_agent_forges.rest.client import TokenSource
from coding_agent_forges.rest.comments import COMMENT_LIMIT, newest_comments
from coding_agent_forges.rest.forge import Attachment, Forge, too_many_labeled
from coding_agent_forges.rest.open_changes import CHANGE_PAGES, require_all_changes
from coding_agent_forges.rest.responses import CommentResponse, ItemResponse

_logger = logging.getLogger("coding_agent.forge")
_SEARCH_PAGES = 10
"""Maximum number of pages of a search, because GitHub returns only the first 1,000 results."""
_SEARCHES = 10
"""Maximum number of searches of one poll. Each goes on from the time of creation where the last one ended."""
_ORDER = re.compile(r"(?<!\S)sort:\S+")
_TITLE_LIMIT = 256
_BODY_LIMIT = 65_536
"""Maximum numbers of characters that GitHub accepts in a pull request's title and body."""
_NO_DRAFTS = "draft pull requests are not supported"
_ATTACHMENT = re.compile(r"/(?:user-attachments/assets|[\w.-]+/[\w.-]+/assets/\d+)/[\w-]+")
"""Matches paths of attachments below the web address. The second form is from before 2024."""
_PUBLIC_ATTACHMENT = re.compile(r"https://user-images\.githubusercontent\.com/\d+/[\w.-]+")


class _FoundItem(ItemResponse):
    pull_request: dict[str, object] | None = None
    repository_url: str = ""
    author_association: Text = ""
    created_at: datetime | None = None

    @property
    def by_member(self) -> bool:
        return self.author_association in MEMBERS


class _SearchPage(ResponseModel):
    incomplete_results: bool = False
    total_count: int = 0
    items: list[_FoundItem]


class _Repository(ResponseModel):
    full_name: str
    default_branch: str = "main"
    private: bool = False
    archived: bool = False
    parent: str = Field(default="", validation_alias=AliasPath("parent", "full_name"))
    root: str = Field(default="", validation_alias=AliasPath("source", "full_name"))
    """A fork has a `parent`, the repository from which it was made, and a `root`, the first one of its
    network. GitHub sends both only if we read the fork itself."""


class _Branch(ResponseModel):
    name: str
    protected: bool


class _Tip(ResponseModel):
    """One side of a pull request; `repo` is null when the fork was deleted."""

    ref: str
    sha: str
    repo: _Repository | None = None


class _PullRequest(ItemResponse):
    head: _Tip
    base: _Tip
    node_id: str = ""
    draft: bool = False


class _Permission(ResponseModel):
    """The rights of a person. In `permission`, GitHub writes `maintain` as `write` and `triage` as `read`."""

    permission: str = "none"
    triage: bool = Field(default=False, validation_alias=AliasPath("user", "permissions", "triage"))


@dataclass
class GitHubForge(Forge):
    """One installation of GitHub, with one token."""

    platform = Platform.GITHUB
    CLONE_USER = "x-access-token"
    COMMENTS = "comments"
    OLDEST_FIRST = {}  # noqa: RUF012 - the only order
    EDIT_METHOD = "PATCH"
    EVENTS = "events"
    ACTIONS = {  # noqa: RUF012
        "labeled": ItemAction.LABELED,
        "unlabeled": ItemAction.UNLABELED,
        "closed": ItemAction.CLOSED,
        "merged": ItemAction.CLOSED,
        "reopened": ItemAction.REOPENED,
    }
    LABELED = "labeled"
    UNLABELED = "unlabeled"
    REACTIONS = "reactions"
    ITEM = _FoundItem
    REACTION_FIELD = "content"
    EDITS_ARE_DATED = True
    ID_MARK = "+"

    settings: GitHub

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memory = Memory()

    @classmethod
    def app_source(cls, settings: ForgeSettings, clock: Clock, only: str) -> TokenSource | None:
        if not isinstance(settings, GitHub) or settings.app is None:
            return None
        app = settings.app
        if app.service is None:
            # Imported here, because only this needs the libraries for keys, which not every program has.
            source: TokenSource = forge_module(cls.platform, "auth.app_tokens").AppTokenSource.of(
                settings, app, clock
            )
            return source
        credential = Secrets(settings.token_credential)
        if credential.first() is None:
            raise TokenMissingError(MISSING)
        return ServiceTokens(app.service.url, credential, clock, only)

    def _item_path(self, item: Item, *rest: str | int) -> str:
        return _repo_path(item, "issues", item.number, *rest)

    def _comment_path(self, item: Item, comment: str) -> str:
        return _repo_path(item, "issues", "comments", comment)

    async def _search(
        self, kind: ItemKind, labels: frozenset[str]
    ) -> AsyncIterator[tuple[ItemResponse, Item]]:
        """Yield the labeled items from GitHub's search index, which may be outdated."""
        query = search_query(kind, self.settings, labels)
        what = f"searching for items labeled {min(labels)!r}"
        since: datetime | None = None
        for _ in range(_SEARCHES):
            params = {"q": f"{query} created:>={since:%Y-%m-%dT%H:%M:%SZ}" if since else query}
            call = Call("GET", "/search/issues", what, params)
            total, seen, last = 0, 0, since
            async for page in self.client.pages(_SearchPage, call, limit=_SEARCH_PAGES):
                total, seen = page.total_count, seen + len(page.items)
                last = page.items[-1].created_at if page.items else last
                if page.incomplete_results:
                    _logger.warning("%s ran out of time and gave incomplete search results", self.host)
                for found in page.items:
                    repository = repository_of(found.repository_url)
                    if repository:
                        yield found, self._item_of(found, repository)
                    else:
                        _logger.warning(
                            "%s: a search result without its repository: %s", self.host, found.url
                        )
            # GitHub shows no result after the first 1,000, but counts all.
            if total <= seen or seen < _SEARCH_PAGES * PAGE_SIZE:
                return
            if last == since:
                break
            since = last
        raise too_many_labeled(self.host, labels)

    def _item_of(self, found: _FoundItem, repository: str) -> Item:
        return Item(
            platform=Platform.GITHUB,
            host=self.host,
            repository=repository,
            kind=ItemKind.ISSUE if found.pull_request is None else ItemKind.CHANGE,
            number=found.number,
        )

    async def _path_of(self, repository: str) -> str:
        call = Call("GET", path("repos", *repository.split("/", 1)), f"reading the repository {repository}")
        return (await self.client.get(_Repository, call)).full_name

    async def _is_private(self, item: Item) -> bool:
        call = Call("GET", _repo_path(item), f"reading the repository of {item.display}")
        return (await self.client.get(_Repository, call)).private

    async def _head_of(self, found: ItemResponse, item: Item) -> Head:
        details = await self.read(item)
        own = (details.head_repository or "").lower() == item.repository.lower()
        return Head(own, details.head_branch or "")

    async def read(self, item: Item) -> ItemDetails:
        what = f"reading {item.display}"
        if item.kind is ItemKind.CHANGE:
            call = Call("GET", _repo_path(item, "pulls", item.number), what)
            pull = await self.client.get(_PullRequest, call)
            return replace(
                self._details(item, pull, base=pull.base.ref, repository=_base_of(pull, item)),
                head_branch=pull.head.ref,
                head_sha=pull.head.sha,
                head_repository=pull.head.repo.full_name if pull.head.repo else None,
            )
        call = Call("GET", _repo_path(item), f"reading the repository of {item.display}")
        issue, repository = await both(
            self.client.get(ItemResponse, Call("GET", self._item_path(item), what)),
            self.client.get(_Repository, call),
        )
        return self._details(item, issue, base=repository.default_branch, repository=repository.full_name)

    async def branch_facts(self, repository: str, branch: str) -> BranchFacts:
        """Return the facts about a branch. GitHub redirects from the old name of a renamed branch."""
        where = path("repos", *repository.split("/", 1))

        async def is_protected() -> bool:
            what = f"reading the branch {branch} of {repository}"
            try:
                there = await self.client.get(_Branch, Call("GET", where + path("branches", branch), what))
            except ForgeNotFoundError:
                return False
            return there.protected and there.name == branch

        call = Call("GET", where, f"reading the repository {repository}")
        found, protected = await both(self.client.get(_Repository, call), is_protected())
        origins = frozenset(name.lower() for name in (found.parent, found.root) if name)
        return BranchFacts(found.default_branch, protected, origins, found.archived)

    def signed_commits(self, repository: str) -> GitHubCommits:
        return GitHubCommits(self.client, repository, self.current_path)

    async def comments(self, item: Item) -> Read[Comment]:
        # GitHub can only list the oldest first. We read one page more than the limit, because the last page
        # is seldom full.
        call = self._comments_call(item, self.OLDEST_FIRST)
        newest: list[CommentResponse] = []
        pages = self.client.newest_first(list[CommentResponse], call, limit=COMMENT_LIMIT // PAGE_SIZE + 1)
        async for page in pages:
            newest = page + newest
        return newest_comments([found.comment() for found in newest], complete=pages.complete)

    async def revisions(self, details: ItemDetails, since: datetime) -> tuple[Revision, ...]:
        return await GitHubRevisions(self.client, details).since(since)

    async def discussion(self, change: Item) -> Discussion:
        return await GitHubDiscussion(self.client, change).read()

    async def failed_checks(self, change: ItemDetails) -> Checks:
        if change.head_sha is None:
            return Checks()
        return await GitHubDiscussion(self.client, change.item).failed_checks(change.head_sha)

    async def _open_changes(self) -> OpenChanges:
        return await (await self._changes()).open()

    async def _snapshot(self, change: Item) -> ChangeSnapshot:
        return await (await self._changes()).one(change)

    async def check_log(self, change: Item, run: str) -> str:
        """Return the end of a job's log. A job of GitHub Actions has the id of its check run."""
        return await GitHubDiscussion(self.client, change).log(run)

    async def rerun_check(self, change: Item, run: str) -> None:
        where = _repo_path(change, "actions", "jobs", run, "rerun")
        what = f"running a check of {change.display} again"
        await self.client.send(Call("POST", where, what, repeat=Repeat.UNLESS_PROCESSED))

    async def set_status(self, item: Item, commit: str, status: CommitStatus) -> None:
        body = {"state": status.state.value, "context": status.name, "description": status.description}
        if status.url:
            body["target_url"] = status.url
        what = f"setting the status {status.name} of a commit for {item.display}"
        await self.client.send(Call("POST", _repo_path(item, "statuses", commit), what, json=body))

    async def reply(self, change: Item, thread: ReviewThread, body: str) -> None:
        """Write a remark in a thread, which GitHub identifies by its first remark."""
        first = thread.remarks[0].id
        await self.client.send(
            Call(
                "POST",
                _repo_path(change, "pulls", change.number, "comments", first, "replies"),
                f"answering in a thread of {change.display}",
                json={"body": body},
                repeat=Repeat.UNLESS_PROCESSED,
                creates=True,
            )
        )

    async def resolve(self, change: Item, thread: ReviewThread) -> None:
        await (await self._changes()).resolve(change, thread.id)

    async def request_review(self, change: Item, logins: Sequence[str]) -> None:
        where = _repo_path(change, "pulls", change.number, "requested_reviewers")
        what = f"asking for a review of {change.display}"
        await self.client.send(Call("POST", where, what, json={"reviewers": list(logins)}))

    async def mark_ready(self, change: Item) -> None:
        what = f"reading whether {change.display} is a draft"
        call = Call("GET", _repo_path(change, "pulls", change.number), what)
        pull = await self.client.get(_PullRequest, call)
        if pull.draft:
            await (await self._changes()).mark_ready(change, pull.node_id)

    async def _changes(self) -> GitHubChanges:
        own = await self._account()
        return GitHubChanges(self.client, self.settings, own, self.settings.spelled, self._memory)

    async def add_label(self, item: Item, label: str) -> None:
        what = f"adding the label {label!r} to {item.display}"
        await self.client.send(Call("POST", self._item_path(item, "labels"), what, json={"labels": [label]}))

    async def remove_label(self, item: Item, label: str) -> bool:
        """Remove one label. If several callers remove it at the same time, only one gets `True`."""
        # GitHub answers the second removal with 404. A request whose response was lost is therefore not
        # repeated: the result would be `False` although we removed the label.
        address = self._item_path(item, "labels", label)
        what = f"removing the label {label!r} from {item.display}"
        call = Call("DELETE", address, what, repeat=Repeat.UNLESS_PROCESSED)
        try:
            await self.client.send(call)
        except ForgeNotFoundError as error:
            # GitHub answers 404 for a missing label and for a missing item; only the text tells them apart.
            if "label does not exist" in str(error).lower():
                return False
            # With any other message, the item may be gone or just the label. So we read the item.
            call = Call("GET", self._item_path(item), f"reading {item.display}")
            if self.settings.spelled(label) in self._labels(await self.client.get(ItemResponse, call)):
                raise
            return False
        return True

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        what = f"looking for the pull request of {item.display}"
        owner = (await self.current_path(item.repository)).split("/")[0]
        params = {"head": f"{owner}:{branch}", "state": "open"}
        call = Call("GET", _repo_path(item, "pulls"), what, params)
        # GitHub ignores a `head` that it cannot read, and then lists every pull request.
        pulls = await self.client.entries(list[_PullRequest], call, limit=CHANGE_PAGES)
        for pull in pulls.values:
            head, base = pull.head.repo, pull.base.repo
            if pull.head.ref == branch and head and base and head.full_name == base.full_name:
                return Change(number=pull.number, url=pull.url, created=False)
        require_all_changes(item, branch, complete=pulls.complete)
        return None

    async def _create_change(
        self, item: Item, *, branch: str, base: str, title: str, body: str, draft: bool
    ) -> Change:
        """Open a pull request. In private repositories of plans without drafts, it is not a draft."""
        call = Call(
            "POST",
            _repo_path(item, "pulls"),
            f"opening a pull request for {item.display}",
            json={
                "title": title[:_TITLE_LIMIT],
                "body": body[:_BODY_LIMIT],
                "head": branch,
                "base": base,
                "draft": draft,
            },
            repeat=Repeat.UNLESS_PROCESSED,
            creates=True,
        )
        try:
            pull = await self.client.get(ItemResponse, call)
        except ForgeError as error:
            # Private repositories of free plans have no drafts; an ordinary pull request is better than
            # none.
            if not draft or error.status != 422 or _NO_DRAFTS not in str(error).lower():
                raise
            _logger.info("%s has no drafts, so its pull request is opened as ready", item.repository)
            return await self._create_change(
                item, branch=branch, base=base, title=title, body=body, draft=False
            )
        return Change(number=pull.number, url=pull.url, created=True)

    async def _find_user(self, login: str) -> User | None:
        try:
            return await self.client.get(User, Call("GET", path("users", login), f"reading the user {login}"))
        except ForgeNotFoundError:
            return None

    async def token_expiry(self) -> datetime | None:
        """Return when a personal token expires; `None` for an App, whose tokens are renewed every hour."""
        if self.settings.app is not None:
            return None
        call = Call("GET", "/user", "asking when our token expires")
        return token_expiry_of((await self.client.send(call)).headers)

    async def permission(self, item: Item, user: str) -> Permission:
        """Return a person's permission; `NONE` also in repositories that our token cannot see."""
        what = f"reading what {user} may do in the repository of {item.display}"
        call = Call("GET", _repo_path(item, "collaborators", user, "permission"), what)
        try:
            answer = await self.client.get(_Permission, call)
        except ForgeNotFoundError:
            return Permission.NONE
        if answer.permission in ("admin", "write"):
            return Permission.WRITE
        # Custom roles of an organization have other names, but the rights of the role that they extend.
        return Permission.TRIAGE if answer.triage else Permission.NONE

    def _attachment_of(self, item: Item, link: str) -> Attachment | None:
        """Return the attachment of a link below GitHub's web address. Some old attachments are public."""
        web = web_base(self.settings.api_url)
        if _PUBLIC_ATTACHMENT.fullmatch(link) and web == "https://github.com":
            return Attachment(link, with_token=False)
        if link.startswith(f"{web}/") and _ATTACHMENT.fullmatch(link.removeprefix(web)):
            return Attachment(link, with_token=True)
        return None

    async def redeliver_missed(self, settings: Settings) -> int:
        return await RedeliveryRound(settings, self, self.settings.redelivery, GitHubHooks(self.client)).run()


def _base_of(pull: _PullRequest, item: Item) -> str:
    return pull.base.repo.full_name if pull.base.repo else item.repository


def _repo_path(item: Item, *rest: str | int) -> str:
    """Return the API's path of the item's repository, or of something below it."""
    return path("repos", *item.repository.split("/", 1), *rest)


def search_query(kind: ItemKind, settings: GitHub, labels: frozenset[str]) -> str:
    """Return the parameter `q` of the issue search.

    An item needs only one of the labels that commas separate. GitHub requires `is:issue` or
    `is:pull-request` in each query, so issues and pull requests are searched one after the other. `user:`
    also selects organizations. The oldest items are first, whatever order the settings name, so that a search
    can go on where the last one ended.
    """
    names = ",".join(json.dumps(label, ensure_ascii=False) for label in sorted(labels))
    parts = [f"label:{names}", "is:issue" if kind is ItemKind.ISSUE else "is:pull-request"]
    if settings.owner:
        parts.append(f"user:{settings.owner}")
    if settings.assignee:
        parts.append(f"assignee:{settings.assignee}")
    if query := " ".join(_ORDER.sub(" ", settings.query).split()):
        parts.append(query)
    if "is:open" not in settings.query and "state:open" not in settings.query:
        parts.append("state:open")
    return " ".join([*parts, "sort:created-asc"])


def repository_of(repository_url: str) -> str:
    """Return `owner/repo` from a search result's `repository_url`; empty if it has another form."""
    parts = repository_url.rstrip("/").split("/")
    return "/".join(parts[-2:]) if len(parts) > 3 and parts[-3] == "repos" and all(parts[-2:]) else ""


CLIENT = GitHubForge
