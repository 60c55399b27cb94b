"""GitLab.com and self-managed GitLab behind the `Forge` protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import ClassVar

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge import gitlab_api as api
from coding_agent_core.forge.client import Call, ForgeClient, Repeat, Token, path
from coding_agent_core.forge.comments import upsert
from coding_agent_core.forge.gitlab_api import item_path, project_of
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
from coding_agent_core.settings.forges import GitLab
from coding_agent_core.tasks import Item, TaskRequest

_COMMENT_LIMIT = 1000
_SCAN_PAGES = 100
"""Pages of notes that are looked through."""
_REACTION = "eyes"
_TITLE_LIMIT = 255
_BODY_LIMIT = 1_048_576
"""Characters of a merge request's title and description that GitLab takes."""


@dataclass
class GitLabForge:
    """One GitLab with one token."""

    HEADERS: ClassVar = {"Accept": "application/json"}

    settings: GitLab
    token: Token
    client: ForgeClient

    def __post_init__(self) -> None:
        self._own: tuple[str, api.User] | None = None

    @property
    def platform(self) -> Platform:
        return Platform.GITLAB

    @property
    def host(self) -> str:
        return self.settings.host

    async def whoami(self) -> str:
        return (await self._identity()).username

    def find_labeled(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then merge requests, of the configured project, group or instance."""
        return api.LabelSearch(self.settings, self.client).find(label)

    async def locate(self, item: Item) -> Item:
        if item.repository:
            return item
        project = await self._project(project_of(item), f"reading the project of {item.display}")
        return item.model_copy(update={"repository": project.path_with_namespace})

    async def read(self, item: Item) -> ItemDetails:
        """The item as it is now. An empty project has no default branch: `main` stands in for it."""
        call = Call("GET", item_path(item), f"reading {item.display}")
        item = await self.locate(item)
        if item.kind is ItemKind.ISSUE:
            issue = await self.client.get(api.Issue, call)
            project = await self._project(issue.project_id, f"reading the project of {item.display}")
            return _details(item, issue, base=project.default_branch or "main")
        merge_request = await self.client.get(api.MergeRequest, call)
        return replace(
            _details(item, merge_request, base=merge_request.target_branch),
            head_branch=merge_request.source_branch,
            head_sha=merge_request.sha,
            head_repository=await self._source_of(item, merge_request),
        )

    async def read_state(self, item: Item) -> ItemState:
        call = Call("GET", item_path(item), f"reading {item.display}")
        found = await self.client.get(api.Labeled, call)
        return ItemState(frozenset(found.labels), found.state == "opened")

    async def label_application(self, item: Item, label: str) -> LabelApplication | None:
        """When the label was last put on, from the item's label events."""
        event = await api.LabelSearch(self.settings, self.client).labeled(item, label)
        return (
            LabelApplication(event.created_at, event.user.username if event.user else "") if event else None
        )

    async def comments(self, item: Item) -> list[Comment]:
        """The newest 1,000 comments, oldest first, without what GitLab writes itself."""
        call = self._notes(item, sort="desc")
        newest: list[api.Note] = []
        async for page, _ in self.client.pages(list[api.Note], call, limit=_SCAN_PAGES):
            newest += [note for note in page if not note.system]
            if len(newest) >= _COMMENT_LIMIT:
                break
        return [_comment(note) for note in reversed(newest[:_COMMENT_LIMIT])]

    async def add_label(self, item: Item, label: str) -> None:
        """Put one label on. GitLab creates a label that the project does not have."""
        await self._change_labels(item, "add_labels", label, f"adding the label {label!r} to {item.display}")

    async def remove_label(self, item: Item, label: str) -> bool:
        """Take one label off; whether it was there just before.

        GitLab does not say, so the labels are read first: two callers at the same moment may both get
        `True`. Whoever needs a claim on GitLab takes it elsewhere (the queue's lock of the item).
        """
        what = f"removing the label {label!r} from {item.display}"
        before = await self.client.get(api.Labeled, Call("GET", item_path(item), what))
        if label not in before.labels:
            return False
        await self._change_labels(item, "remove_labels", label, what)
        return True

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        own = await self._identity()
        call = self._notes(item, sort="asc")
        async for page, _ in self.client.pages(list[api.Note], call, limit=_SCAN_PAGES):
            for note in page:
                if note.author.id == own.id and not note.system and marker in note.body:
                    return _comment(note)
        return None

    async def upsert_comment(
        self, item: Item, marker: str, body: str, *, known: Comment | None = None
    ) -> Comment:
        async def create() -> Comment:
            call = Call(
                "POST",
                item_path(item, "notes"),
                f"commenting on {item.display}",
                json={"body": body},
                repeat=Repeat.UNLESS_PROCESSED,
            )
            return _comment(await self.client.get(api.Note, call))

        async def edit(found: Comment) -> Comment:
            call = Call(
                "PUT",
                item_path(item, "notes", found.id),
                f"editing our comment on {item.display}",
                json={"body": body},
            )
            return _comment(await self.client.get(api.Note, call))

        return await upsert(
            find=lambda: self.find_comment(item, marker),
            marker=marker,
            body=body,
            create=create,
            edit=edit,
            known=known,
        )

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        """The open merge request from a branch of the item's own project."""
        call = Call(
            "GET",
            path("projects", project_of(item), "merge_requests"),
            f"looking for the merge request of {item.display}",
            {"source_branch": branch, "state": "opened", "scope": "all"},
        )
        async for page, _ in self.client.pages(list[api.MergeRequest], call, limit=1):
            for found in page:
                # Forks have branches of the same name.
                if found.source_branch == branch and found.source_project_id == found.project_id:
                    return Change(number=found.iid, url=found.web_url, created=False)
        return None

    async def open_change(self, item: Item, *, branch: str, base: str, title: str, body: str) -> Change:
        found = await self.find_change(item, branch=branch)
        if found is not None:
            return found
        call = Call(
            "POST",
            path("projects", project_of(item), "merge_requests"),
            f"opening a merge request for {item.display}",
            json={
                "source_branch": branch,
                "target_branch": base,
                "title": title[:_TITLE_LIMIT],
                "description": body[:_BODY_LIMIT],
            },
            repeat=Repeat.UNLESS_PROCESSED,
        )
        try:
            opened = await self.client.get(api.MergeRequest, call)
        except ForgeError as error:
            # Another consumer opened it, or ours was opened and its answer lost.
            if error.status in (409, 422) or isinstance(error, ForgeUnavailableError):
                found = await self.find_change(item, branch=branch)
                if found is not None:
                    return found
            raise
        return Change(number=opened.iid, url=opened.web_url, created=True)

    async def can_write(self, item: Item, user: str) -> bool:
        """Whether the person is at least a Developer of the project, by itself or through a group."""
        what = f"reading what {user} may do in the project of {item.display}"
        users = await self.client.get(list[api.User], Call("GET", "/users", what, {"username": user}))
        known = next((each for each in users if each.username.lower() == user.lower()), None)
        if known is None:
            return False
        call = Call("GET", path("projects", project_of(item), "members", "all", known.id), what)
        try:
            member = await self.client.get(api.Member, call)
        except ForgeNotFoundError:
            return False
        return member.state == "active" and member.access_level >= api.DEVELOPER

    async def has_reacted(self, item: Item, comment: str) -> bool:
        own = await self._identity()
        async for page, _ in self.client.pages(
            list[api.Reaction], self._reactions(item, comment), limit=_SCAN_PAGES
        ):
            if any(each.user.id == own.id and each.name == _REACTION for each in page):
                return True
        return False

    async def react(self, item: Item, comment: str) -> None:
        """Put our reaction on the note; GitLab answers a second one with 404, as if there were no note."""
        try:
            await self.client.send(
                replace(self._reactions(item, comment), method="POST", json={"name": _REACTION})
            )
        except ForgeNotFoundError:
            if not await self.has_reacted(item, comment):
                raise

    async def clone_source(self, repository: str) -> CloneSource:
        """Where to clone from; GitLab takes an access token as the password of any user name."""
        return CloneSource(
            url=clone_url(self.settings.api_url, repository), username="oauth2", token=self.token.current()
        )

    def hooks(self) -> None:
        """None: the API does not list what a hook of a whole instance sent."""
        return None

    async def aclose(self) -> None:
        await self.client.aclose()

    def _reactions(self, item: Item, comment: str) -> Call:
        return Call(
            "GET",
            item_path(item, "notes", comment, "award_emoji"),
            f"reading or adding a reaction to a note on {item.display}",
        )

    async def _identity(self) -> api.User:
        token = self.token.fingerprint()
        if self._own is None or self._own[0] != token:
            call = Call("GET", "/user", "asking who our token belongs to")
            self._own = (token, await self.client.get(api.User, call))
        return self._own[1]

    async def _project(self, project: int | str, what: str) -> api.Project:
        return await self.client.get(api.Project, Call("GET", path("projects", project), what))

    async def _source_of(self, item: Item, found: api.MergeRequest) -> str | None:
        """The project that holds the branch; `None` when it was deleted, or we may not see it."""
        if found.source_project_id is None:
            return None
        if found.source_project_id == found.project_id:
            return item.repository
        try:
            project = await self._project(
                found.source_project_id, f"reading the project of the branch of {item.display}"
            )
        except ForgeNotFoundError:
            return None
        return project.path_with_namespace

    def _notes(self, item: Item, *, sort: str) -> Call:
        return Call(
            "GET",
            item_path(item, "notes"),
            f"reading the comments of {item.display}",
            {"sort": sort, "order_by": "created_at"},
        )

    async def _change_labels(self, item: Item, change: str, label: str, what: str) -> None:
        await self.client.send(Call("PUT", item_path(item), what, json={change: label}))


def _details(item: Item, found: api.Labeled, *, base: str) -> ItemDetails:
    return ItemDetails(
        item=item,
        title=found.title,
        body=found.description,
        author=found.author.username,
        url=found.web_url,
        labels=frozenset(found.labels),
        open=found.state == "opened",
        base_branch=base,
    )


def _comment(note: api.Note) -> Comment:
    return Comment(id=str(note.id), author=note.author.username, body=note.body, created_at=note.created_at)
