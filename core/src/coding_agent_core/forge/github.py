"""GitHub and GitHub Enterprise behind the `Forge` protocol.

A pull request is an issue on GitHub's REST API: labels and comments go through the issue endpoints.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import ClassVar

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge import github_api as api
from coding_agent_core.forge.client import PAGE_SIZE, Call, ForgeClient, Repeat, Token, last_page
from coding_agent_core.forge.comments import upsert
from coding_agent_core.forge.github_api import issue_path, repo_path
from coding_agent_core.forge.github_hooks import GitHubHooks
from coding_agent_core.forge.protocol import (
    Change,
    CloneSource,
    Comment,
    ItemDetails,
    ItemState,
    LabelApplication,
    clone_url,
)
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings.forges import GitHub
from coding_agent_core.tasks import Item, TaskRequest

_COMMENT_LIMIT = 1000
_SCAN_PAGES = 100
"""Pages of comments that are looked through."""
_REACTION = "eyes"
_TITLE_LIMIT = 256
_BODY_LIMIT = 65_536
"""Characters of a pull request's title and body that GitHub takes."""


@dataclass
class GitHubForge:
    """One GitHub with one token."""

    HEADERS: ClassVar = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    """The REST API version that github.com and every supported GitHub Enterprise Server answer."""

    settings: GitHub
    token: Token
    client: ForgeClient

    def __post_init__(self) -> None:
        self._own: tuple[str, api.User] | None = None

    @property
    def platform(self) -> Platform:
        return Platform.GITHUB

    @property
    def host(self) -> str:
        return self.settings.host

    async def whoami(self) -> str:
        return (await self._identity()).login

    def find_labeled(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then pull requests, that carry the label now."""
        return api.LabelSearch(self.settings, self.client).find(label)

    async def locate(self, item: Item) -> Item:
        return item

    async def read(self, item: Item) -> ItemDetails:
        call = Call("GET", issue_path(item), f"reading {item.display}")
        if item.kind is ItemKind.CHANGE:
            call = replace(call, path=repo_path(item, "pulls", item.number))
            pull = await self.client.get(api.PullRequest, call)
            return replace(
                self._details(item, pull, base=pull.base.ref),
                head_branch=pull.head.ref,
                head_sha=pull.head.sha,
                head_repository=pull.head.repo.full_name if pull.head.repo else None,
            )
        issue = await self.client.get(api.Issue, call)
        repository = await self.client.get(
            api.Repository, Call("GET", repo_path(item), f"reading the repository of {item.display}")
        )
        return self._details(item, issue, base=repository.default_branch)

    async def read_state(self, item: Item) -> ItemState:
        call = Call("GET", issue_path(item), f"reading {item.display}")
        issue = await self.client.get(api.Issue, call)
        return ItemState(self._labels(issue), issue.state == "open")

    async def label_application(self, item: Item, label: str) -> LabelApplication | None:
        """When the label was last put on, from the item's events."""
        event = await api.LabelSearch(self.settings, self.client).labeled(item, label)
        return LabelApplication(event.created_at, event.actor.login if event.actor else "") if event else None

    async def comments(self, item: Item) -> list[Comment]:
        """The newest 1,000 comments, oldest first."""
        call = Call("GET", issue_path(item, "comments"), f"reading the comments of {item.display}")
        found: list[api.Comment] = []
        async for page, response in self.client.pages(list[api.Comment], call, limit=1):
            found = page
            # GitHub sorts them oldest first and knows no other order: skip to where the newest begin. One
            # page more than the limit has, since the last one is seldom full.
            start = max(2, last_page(response) - _COMMENT_LIMIT // PAGE_SIZE)
            if "next" in response.links:
                async for more, _ in self.client.pages(
                    list[api.Comment], call, limit=_SCAN_PAGES, first=start
                ):
                    found = found + more
        return [_comment(each) for each in found[-_COMMENT_LIMIT:]]

    async def add_label(self, item: Item, label: str) -> None:
        """Put one label on. GitHub creates a label that the repository does not have."""
        await self.client.send(
            Call(
                "POST",
                issue_path(item, "labels"),
                f"adding the label {label!r} to {item.display}",
                json={"labels": [label]},
            )
        )

    async def remove_label(self, item: Item, label: str) -> bool:
        """Take one label off; whether it was there.

        GitHub answers the second of two removals with 404, so `True` is told once: a claim. For the same
        reason the request is not repeated when its answer was lost: it would say `False` of our own doing.
        """
        call = Call(
            "DELETE",
            issue_path(item, "labels", label),
            f"removing the label {label!r} from {item.display}",
            repeat=Repeat.UNLESS_PROCESSED,
        )
        try:
            await self.client.send(call)
        except ForgeNotFoundError as error:
            if "label does not exist" in str(error).lower():
                return False
            # Not in GitHub's words: either the item is gone, which reading it tells, or just the label.
            issue = await self.client.get(api.Issue, Call("GET", issue_path(item), f"reading {item.display}"))
            if api.has(issue.labels, label):
                raise
            return False
        return True

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        own = await self._identity()
        call = Call("GET", issue_path(item, "comments"), f"reading the comments of {item.display}")
        async for page, _ in self.client.pages(list[api.Comment], call, limit=_SCAN_PAGES):
            for each in page:
                if each.user.id == own.id and marker in each.body:
                    return _comment(each)
        return None

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        async def create() -> Comment:
            call = Call(
                "POST",
                issue_path(item, "comments"),
                f"commenting on {item.display}",
                json={"body": body},
                repeat=Repeat.UNLESS_PROCESSED,
            )
            return _comment(await self.client.get(api.Comment, call))

        async def edit(found: Comment) -> Comment:
            call = Call(
                "PATCH",
                repo_path(item, "issues", "comments", found.id),
                f"editing our comment on {item.display}",
                json={"body": body},
            )
            return _comment(await self.client.get(api.Comment, call))

        return await upsert(
            find=lambda: self.find_comment(item, marker),
            marker=marker,
            body=body,
            create=create,
            edit=edit,
            known=known,
        )

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        """The open pull request from a branch of the item's own repository."""
        owner = item.repository.split("/")[0]
        call = Call(
            "GET",
            repo_path(item, "pulls"),
            f"looking for the pull request of {item.display}",
            {"head": f"{owner}:{branch}", "state": "open"},
        )
        # GitHub ignores a `head` that it cannot read, and then lists every pull request.
        async for page, _ in self.client.pages(list[api.PullRequest], call, limit=1):
            for pull in page:
                here = pull.head.repo and pull.base.repo and pull.head.repo.id == pull.base.repo.id
                if pull.head.ref == branch and here:
                    return Change(number=pull.number, url=pull.html_url, created=False)
        return None

    async def open_change(self, item: Item, *, branch: str, base: str, title: str, body: str) -> Change:
        found = await self.find_change(item, branch=branch)
        if found is not None:
            return found
        call = Call(
            "POST",
            repo_path(item, "pulls"),
            f"opening a pull request for {item.display}",
            json={"title": title[:_TITLE_LIMIT], "body": body[:_BODY_LIMIT], "head": branch, "base": base},
            repeat=Repeat.UNLESS_PROCESSED,
        )
        try:
            pull = await self.client.get(api.PullRequest, call)
        except ForgeError as error:
            # Another consumer opened it, or ours was opened and its answer lost.
            if error.status == 422 or isinstance(error, ForgeUnavailableError):
                found = await self.find_change(item, branch=branch)
                if found is not None:
                    return found
            raise
        return Change(number=pull.number, url=pull.html_url, created=True)

    async def can_write(self, item: Item, user: str) -> bool:
        """Whether the person may push. Unknown people, and repositories that we do not see, are `False`."""
        call = Call(
            "GET",
            repo_path(item, "collaborators", user, "permission"),
            f"reading what {user} may do in the repository of {item.display}",
        )
        try:
            answer = await self.client.get(api.Permission, call)
        except ForgeNotFoundError:
            return False
        return answer.permission in ("admin", "write")

    async def has_reacted(self, item: Item, comment: str) -> bool:
        own = await self._identity()
        call = Call(
            "GET",
            repo_path(item, "issues", "comments", comment, "reactions"),
            f"reading the reactions to a comment on {item.display}",
            {"content": _REACTION},
        )
        async for page, _ in self.client.pages(list[api.Reaction], call, limit=_SCAN_PAGES):
            if any(each.user is not None and each.user.id == own.id for each in page):
                return True
        return False

    async def react(self, item: Item, comment: str) -> None:
        """Put our reaction on the comment; GitHub answers a second one with the first."""
        await self.client.send(
            Call(
                "POST",
                repo_path(item, "issues", "comments", comment, "reactions"),
                f"reacting to a comment on {item.display}",
                json={"content": _REACTION},
            )
        )

    async def clone_source(self, repository: str) -> CloneSource:
        """Where to clone from; GitHub takes a token as the password of any user name, by custom this one."""
        return CloneSource(
            url=clone_url(self.settings.api_url, repository),
            username="x-access-token",
            token=self.token.current(),
        )

    def hooks(self) -> GitHubHooks:
        return GitHubHooks(self.client)

    async def aclose(self) -> None:
        await self.client.aclose()

    async def _identity(self) -> api.User:
        token = self.token.fingerprint()
        if self._own is None or self._own[0] != token:
            call = Call("GET", "/user", "asking who our token belongs to")
            self._own = (token, await self.client.get(api.User, call))
        return self._own[1]

    def _details(self, item: Item, found: api.Issue | api.PullRequest, *, base: str) -> ItemDetails:
        return ItemDetails(
            item=item,
            title=found.title,
            body=found.body,
            author=found.user.login,
            url=found.html_url,
            labels=self._labels(found),
            open=found.state == "open",
            base_branch=base,
        )

    def _labels(self, found: api.Issue | api.PullRequest) -> frozenset[str]:
        return frozenset(self._as_configured(label.name) for label in found.labels)

    def _as_configured(self, label: str) -> str:
        """The label as our settings spell it: GitHub's label names ignore case, our rules compare."""
        ours = (
            self.settings.bot_label,
            self.settings.processing_label,
            self.settings.done_label,
            self.settings.failed_label or "",
        )
        return next((each for each in ours if each.casefold() == label.casefold()), label)


def _comment(found: api.Comment) -> Comment:
    return Comment(
        id=str(found.id),
        author=found.user.login,
        body=found.body,
        created_at=found.created_at,
        url=found.html_url,
    )
