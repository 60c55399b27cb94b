"""The client for GitLab.com and self-managed GitLab."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from urllib.parse import unquote

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.changes import ChangeSnapshot, OpenChanges, ReviewThread
from coding_agent_core.forge.values import (
    BranchFacts,
    Change,
    Checks,
    Comment,
    CommitState,
    CommitStatus,
    Discussion,
    ItemDetails,
    Permission,
    Revision,
)
from coding_agent_core.platforms.facts import ItemKind, web_base
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.item_history import ItemAction, ItemEvent, Position
from coding_agent_core.task.model import Head, Item
from pydantic import AliasPath, Field

from coding_agent_forges.gitlab.change_responses import DRAFT, without_draft
from coding_agent_forges.gitlab.changes import BaseChecks, GitLabChanges, KnownMergeRequest
from coding_agent_forges.gitlab.discussion import SECTION, GitLabDiscussion
from coding_agent_forges.gitlab.revisions import GitLabRevisions
from coding_agent_forges.gitlab.settings import GitLab
from coding_agent_forges.rest.calls import SCAN_PAGES, Call, Read, Repeat, ResponseModel, User, path
from coding_agent_forges.rest.comments import COMMENT_LIMIT, newest_comments
from coding_agent_forges.rest.forge import Attachment, Forge, too_many_labeled
from coding_agent_forges.rest.item_events import item_events, merged
from coding_agent_forges.rest.open_changes import CHANGE_PAGES, require_all_changes
from coding_agent_forges.rest.responses import CommentResponse, HistoryEvent, ItemResponse

_logger = logging.getLogger("coding_agent.forge")
_LIST_PAGES = 100
"""Maximum number of pages of each list of labeled items that one poll reads: 10,000 items."""
_EVENT_READS = 3
"""The most reads of an item's events that change in between."""
_TITLE_LIMIT = 255
_BODY_LIMIT = 1_048_576
"""Maximum numbers of characters that GitLab accepts in a merge request's title and description."""
_ATTACHMENT = re.compile(r"/uploads/([0-9a-f]{32})/([^/?#]+)")
_STATES = {
    CommitState.PENDING: "pending",
    CommitState.SUCCESS: "success",
    CommitState.FAILURE: "failed",
    CommitState.ERROR: "canceled",
}
_PLANNER, _DEVELOPER = 15, 30
"""The lowest access levels for labeling and for pushing (*Members API* and *Permissions* in the docs)."""


class _ProjectItem(ItemResponse):
    project_id: int
    reference: str = Field(default="", validation_alias=AliasPath("references", "full"))
    """How other projects refer to the item: `group/project#7`."""
    source_project_id: int | None = None
    """Merge requests only; null when the fork was deleted."""
    source_branch: str = ""
    """Merge requests only."""


class _MergeRequest(_ProjectItem):
    """A merge request; `sha` is null while GitLab has not yet examined its branch."""

    source_branch: str
    target_branch: str
    sha: str | None = None


class _Project(ResponseModel):
    """A project; an empty one has no default branch."""

    id: int
    path_with_namespace: str
    default_branch: str | None = None
    visibility: str = ""
    archived: bool = False
    fork_of: str = Field(default="", validation_alias=AliasPath("forked_from_project", "path_with_namespace"))


class _Branch(ResponseModel):
    protected: bool


class _OwnToken(ResponseModel):
    expires_at: date | None = None


class _Member(ResponseModel):
    access_level: int
    state: str = "active"


@dataclass
class GitLabForge(Forge):
    """One installation of GitLab, with one token."""

    platform = Platform.GITLAB
    CLONE_USER = "oauth2"
    COMMENTS = "notes"
    OLDEST_FIRST = {"sort": "asc", "order_by": "created_at"}  # noqa: RUF012
    EDIT_METHOD = "PUT"
    EVENTS = "resource_label_events"
    ACTIONS = {  # noqa: RUF012
        "add": ItemAction.LABELED,
        "remove": ItemAction.UNLABELED,
        "closed": ItemAction.CLOSED,
        "merged": ItemAction.CLOSED,
        "reopened": ItemAction.REOPENED,
        "opened": ItemAction.REOPENED,
    }
    LABELED = "add"
    UNLABELED = "remove"
    REACTIONS = "award_emoji"
    ITEM = _ProjectItem
    REACTION_FIELD = "name"
    # Everybody's emoji changes `updated_at` (app/models/award_emoji.rb `expire_cache`), and nothing else in
    # the API says when a note was edited.
    EDITS_ARE_DATED = False
    ID_MARK = "-"

    settings: GitLab

    def __post_init__(self) -> None:
        super().__post_init__()
        self._known: dict[str, KnownMergeRequest] = {}
        self._base_checks: BaseChecks = {}

    def _item_path(self, item: Item, *rest: str | int) -> str:
        kind = "issues" if item.kind is ItemKind.ISSUE else "merge_requests"
        return _project_path(item, kind, item.number, *rest)

    def _comment_path(self, item: Item, comment: str) -> str:
        return self._item_path(item, "notes", comment)

    async def _search(
        self, kind: ItemKind, labels: frozenset[str]
    ) -> AsyncIterator[tuple[ItemResponse, Item]]:
        """Yield the items of all configured projects, label by label, because the lists have no "or".

        If a list cannot be read, the others are still read. Missing projects are an error only if all are.
        """
        missing = 0
        problem: ForgeError | None = None
        too_long: ForgeError | None = None
        places = list_paths(kind, self.settings)
        for where in places:
            try:
                for label in sorted(labels):
                    what = f"looking in {where} for items labeled {label!r}"
                    call = Call("GET", where, what, list_params(label, self.settings))
                    pages = self.client.pages(list[_ProjectItem], call, limit=_LIST_PAGES)
                    async for page in pages:
                        for found in page:
                            yield found, self._item_of(found, kind)
                    if not pages.complete:
                        too_long = too_many_labeled(self.host, [label])
            except ForgeNotFoundError as error:
                missing += 1
                if missing == len(places):
                    problem = problem or error
                else:
                    _logger.warning("%s; check gitlab.project_id", error)
            except ForgeError as error:
                problem = problem or error
                if error.status is None:  # no other list can be read either
                    break
        problem = problem or too_long
        if problem is not None:
            raise problem

    def _item_of(self, found: _ProjectItem, kind: ItemKind) -> Item:
        return Item(
            platform=Platform.GITLAB,
            host=self.host,
            repository=repository_of(found.reference),
            kind=kind,
            number=found.number,
            project_id=found.project_id,
        )

    async def _item_events(
        self, item: Item, after: Position | None, shown: frozenset[str], updated: datetime | None
    ) -> Read[ItemEvent]:
        """Return the events of labels, and of closing and opening, which GitLab lists and numbers separately.

        Both lists are read to their ends, because GitLab's source gives them no order: the newest event can
        be on any page. Nothing in the item proves that its state was never changed (`closed_at` is null after
        a reopening, and labels change `updated_at`, too), so the second list is always needed.

        The events are those of one moment. Otherwise, a position could have an event and lack an earlier one
        of the other list, which would then look as if it had happened later. Without new states, that moment
        is the one in which the labels were read. With new ones, the labels are read again after them.
        """
        labels = await self._listed_events(item, self.EVENTS, 0)
        for _ in range(_EVENT_READS):
            states = await self._listed_events(item, "resource_state_events", 1)
            if not (labels.complete and states.complete):
                # The newest events may be missing, and older ones alone would look like the newest.
                return Read((), (*labels.left_out, *states.left_out))
            before = labels
            if any(after is None or not after.covers(event) for event in states.values):
                labels = await self._listed_events(item, self.EVENTS, 0)
            if labels == before:
                return Read(tuple(merged(labels.values, states.values)))
        raise ForgeUnavailableError(f"{self.host} has new events of {item.display} each time they are read.")

    async def _listed_events(self, item: Item, name: str, series: int) -> Read[ItemEvent]:
        call = Call("GET", self._item_path(item, name), f"reading the events of {item.display}")
        found = await self.client.entries(list[HistoryEvent], call, limit=SCAN_PAGES)
        events = item_events(found.values, self.ACTIONS, self.settings, series=series)
        return Read(tuple(events), found.left_out)

    async def _is_private(self, item: Item) -> bool:
        call = Call("GET", _project_path(item), f"reading the project of {item.display}")
        return (await self.client.get(_Project, call)).visibility in ("private", "internal")

    async def _head_of(self, found: ItemResponse, item: Item) -> Head:
        if not isinstance(found, _ProjectItem):
            return Head(own=False)
        return Head(found.source_project_id == found.project_id, found.source_branch)

    async def locate(self, item: Item) -> Item:
        """Return the item with its project's number and present path."""
        # GitLab redirects reads by the old path of a project, but refuses writes. The number stays valid.
        if item.repository and item.project_id is not None:
            return item
        call = Call("GET", _project_path(item), f"reading the project of {item.display}")
        project = await self.client.get(_Project, call)
        return item.model_copy(update={"repository": project.path_with_namespace, "project_id": project.id})

    async def _path_of(self, repository: str) -> str:
        call = Call("GET", path("projects", repository), f"reading the project {repository}")
        return (await self.client.get(_Project, call)).path_with_namespace

    async def read(self, item: Item) -> ItemDetails:
        """Read the item. An empty project has no default branch, so `main` is used."""
        call = Call("GET", self._item_path(item), f"reading {item.display}")
        item = await self.locate(item)
        if item.kind is ItemKind.ISSUE:
            issue = await self.client.get(_ProjectItem, call)
            call = Call("GET", path("projects", issue.project_id), f"reading the project of {item.display}")
            project = await self.client.get(_Project, call)
            return self._details(
                item, issue, base=project.default_branch or "main", repository=project.path_with_namespace
            )
        merge_request = await self.client.get(_MergeRequest, call)
        present = repository_of(merge_request.reference) or item.repository
        return replace(
            self._details(item, merge_request, base=merge_request.target_branch, repository=present),
            title=without_draft(merge_request.title),
            head_branch=merge_request.source_branch,
            head_sha=merge_request.sha,
            head_repository=await self._source_of(item, merge_request, present),
        )

    async def _source_of(self, item: Item, found: _MergeRequest, own: str) -> str | None:
        """Return the path of the branch's project; `None` if it was deleted or we may not see it."""
        if found.source_project_id is None:
            return None
        if found.source_project_id == found.project_id:
            return own
        what = f"reading the project of the branch of {item.display}"
        call = Call("GET", path("projects", found.source_project_id), what)
        try:
            return (await self.client.get(_Project, call)).path_with_namespace
        except ForgeNotFoundError:
            return None

    async def branch_facts(self, repository: str, branch: str) -> BranchFacts:
        call = Call("GET", path("projects", repository), f"reading the project {repository}")
        project = await self.client.get(_Project, call)
        where = path("projects", repository, "repository", "branches", branch)
        call = Call("GET", where, f"reading the branch {branch} of {repository}")
        try:
            protected = (await self.client.get(_Branch, call)).protected
        except ForgeNotFoundError:
            protected = False
        origins = frozenset({project.fork_of.lower()} - {""})
        return BranchFacts(project.default_branch, protected, origins, project.archived)

    async def comments(self, item: Item) -> Read[Comment]:
        call = self._comments_call(item, {"sort": "desc", "order_by": "created_at"})
        newest: list[CommentResponse] = []
        pages = self.client.pages(list[CommentResponse], call, limit=SCAN_PAGES)
        async for page in pages:
            newest += [found for found in page if found.is_public]
            if len(newest) >= COMMENT_LIMIT:
                break
        return newest_comments([found.comment() for found in reversed(newest)], complete=pages.complete)

    async def revisions(self, details: ItemDetails, since: datetime) -> tuple[Revision, ...]:
        return await GitLabRevisions(self.client, self._item_path(details.item), details).since(since)

    async def discussion(self, change: Item) -> Discussion:
        return await GitLabDiscussion(self.client, self._item_path(change), change.display).read()

    async def failed_checks(self, change: ItemDetails) -> Checks:
        item = change.item
        return await GitLabDiscussion(self.client, self._item_path(item), item.display).failed_checks()

    async def _open_changes(self) -> OpenChanges:
        return await (await self._changes()).open()

    async def _snapshot(self, change: Item) -> ChangeSnapshot:
        return await (await self._changes()).one(change)

    async def check_log(self, change: Item, run: str) -> str:
        what = f"reading the log of a job of {change.display}"
        return await self.client.log(Call("GET", _project_path(change, "jobs", run, "trace"), what), SECTION)

    async def rerun_check(self, change: Item, run: str) -> None:
        what = f"running a job of {change.display} again"
        call = Call("POST", _project_path(change, "jobs", run, "retry"), what, repeat=Repeat.UNLESS_PROCESSED)
        await self.client.send(call)

    async def set_status(self, item: Item, commit: str, status: CommitStatus) -> None:
        """Set a status of a commit. GitLab answers 400 if the status has this state already."""
        body = {"state": _STATES[status.state], "name": status.name, "description": status.description}
        if status.url:
            body["target_url"] = status.url
        what = f"setting the status {status.name} of a commit for {item.display}"
        try:
            await self.client.send(Call("POST", _project_path(item, "statuses", commit), what, json=body))
        except ForgeError as error:
            # GitLab refuses to set a status that the commit has already.
            if error.status != 400 or "cannot transition" not in str(error).lower():
                raise

    async def reply(self, change: Item, thread: ReviewThread, body: str) -> None:
        await self.client.send(
            Call(
                "POST",
                self._item_path(change, "discussions", thread.id, "notes"),
                f"answering in a thread of {change.display}",
                json={"body": body},
                repeat=Repeat.UNLESS_PROCESSED,
                creates=True,
            )
        )

    async def resolve(self, change: Item, thread: ReviewThread) -> None:
        where = self._item_path(change, "discussions", thread.id)
        what = f"resolving a thread of {change.display}"
        await self.client.send(Call("PUT", where, what, params={"resolved": "true"}))

    async def request_review(self, change: Item, logins: Sequence[str]) -> None:
        """Ask people for a review with a quick action, because the REST API cannot ask anybody again.

        https://docs.gitlab.com/user/project/quick_actions/
        """
        what = f"asking for a review of {change.display}"
        body = {"body": "\n".join(f"/request_review @{login}" for login in logins)}
        where = self._item_path(change, "notes")
        # A second request would take back what a person has requested since the first one.
        await self.client.send(Call("POST", where, what, json=body, repeat=Repeat.UNLESS_PROCESSED))

    async def mark_ready(self, change: Item) -> None:
        """Mark a draft as ready by removing the beginning of its title that makes it a draft on GitLab."""
        where, what = self._item_path(change), f"marking {change.display} as ready"
        title = (await self.client.get(ItemResponse, Call("GET", where, what))).title
        if without_draft(title) != title:
            await self.client.send(Call("PUT", where, what, json={"title": without_draft(title)}))

    async def _changes(self) -> GitLabChanges:
        own = await self._account()
        return GitLabChanges(self.client, self.settings, own, self._known, self._base_checks)

    async def add_label(self, item: Item, label: str) -> None:
        what = f"adding the label {label!r} to {item.display}"
        await self.client.send(Call("PUT", self._item_path(item), what, json={"add_labels": label}))

    async def remove_label(self, item: Item, label: str) -> bool:
        """Remove one label. GitLab does not say whether the label was there, so the labels are read first.

        Two simultaneous callers may both get `True`, but the item's lock in the queue prevents this.
        """
        what = f"removing the label {label!r} from {item.display}"
        found = await self.client.get(ItemResponse, Call("GET", self._item_path(item), what))
        if label not in self._labels(found):
            return False
        await self.client.send(Call("PUT", self._item_path(item), what, json={"remove_labels": label}))
        return True

    async def find_change(self, item: Item, *, branch: str) -> Change | None:
        what = f"looking for the merge request of {item.display}"
        params = {"source_branch": branch, "state": "opened", "scope": "all"}
        call = Call("GET", _project_path(item, "merge_requests"), what, params)
        opened = await self.client.entries(list[_MergeRequest], call, limit=CHANGE_PAGES)
        for found in opened.values:
            # Forks can have branches with the same name.
            if found.source_branch == branch and found.source_project_id == found.project_id:
                return Change(number=found.number, url=found.url, created=False)
        require_all_changes(item, branch, complete=opened.complete)
        return None

    async def _create_change(
        self, item: Item, *, branch: str, base: str, title: str, body: str, draft: bool
    ) -> Change:
        call = Call(
            "POST",
            _project_path(item, "merge_requests"),
            f"opening a merge request for {item.display}",
            json={
                "source_branch": branch,
                "target_branch": base,
                "title": f"{DRAFT if draft else ''}{without_draft(title)}"[:_TITLE_LIMIT],
                "description": body[:_BODY_LIMIT],
            },
            repeat=Repeat.UNLESS_PROCESSED,
            creates=True,
        )
        opened = await self.client.get(ItemResponse, call)
        return Change(number=opened.number, url=opened.url, created=True)

    async def _find_user(self, login: str) -> User | None:
        call = Call("GET", "/users", f"reading the user {login}", {"username": login})
        users = await self.client.get(list[User], call)
        return next((found for found in users if found.login.lower() == login.lower()), None)

    async def token_expiry(self) -> datetime | None:
        """Return when our token expires: at the beginning of a day, in UTC.

        The tokens of projects and groups are personal access tokens of bot users, so this answers for them
        too. GitLab before 15.5 does not know the path. https://docs.gitlab.com/api/personal_access_tokens/
        """
        call = Call("GET", "/personal_access_tokens/self", "asking when our token expires")
        try:
            ends = (await self.client.get(_OwnToken, call)).expires_at
        except ForgeNotFoundError:
            return None
        return None if ends is None else datetime.combine(ends, time(), UTC)

    async def permission(self, item: Item, user: str) -> Permission:
        """Return a person's permission. Members of groups with access to the project count too."""
        what = f"reading what {user} may do in the project of {item.display}"
        known = await self._find_user(user)
        if known is None:
            return Permission.NONE
        call = Call("GET", _project_path(item, "members", "all", known.id), what)
        try:
            member = await self.client.get(_Member, call)
        except ForgeNotFoundError:
            return Permission.NONE
        if member.state != "active" or member.access_level < _PLANNER:
            return Permission.NONE
        return Permission.WRITE if member.access_level >= _DEVELOPER else Permission.TRIAGE

    def _attachment_of(self, item: Item, link: str) -> Attachment | None:
        """Return the attachment of a link. Attachments are below the project, and links are often relative.

        GitLab's API can read them (documentation, *Markdown uploads API*).
        """
        web = web_base(self.settings.api_url)
        for place in (f"{web}/{item.repository}", f"{web}/-/project/{item.project_id}", ""):
            found = _ATTACHMENT.fullmatch(link.removeprefix(place)) if link.startswith(place) else None
            if found is not None:
                address = _project_path(item, "uploads", found[1], unquote(found[2]))
                return Attachment(address, with_token=True)
        return None


def _project_path(item: Item, *rest: str | int) -> str:
    """Return the API's path of the item's project, or of something below it.

    The project's id is used if it is known, and otherwise its full path.
    """
    return path("projects", item.repository if item.project_id is None else item.project_id, *rest)


def list_paths(kind: ItemKind, settings: GitLab) -> list[str]:
    """Return the lists of the configured projects, or of the group with its subgroups, or of the instance."""
    name = "issues" if kind is ItemKind.ISSUE else "merge_requests"
    if settings.projects:
        return [path("projects", project, name) for project in settings.projects]
    if settings.group_id:
        return [path("groups", settings.group_id, name)]
    return [path(name)]


def list_params(label: str, settings: GitLab) -> dict[str, str | int]:
    """Return a list's parameters. Without `scope=all`, instance-wide lists show only our own items.

    The oldest items are first, and those of a list that is too long are worked on first.
    """
    params: dict[str, str | int] = {
        "labels": label,
        "state": "opened",
        "scope": "all",
        "order_by": "created_at",
        "sort": "asc",
    }
    if settings.assignee:
        params["assignee_username"] = settings.assignee
    if settings.query.strip():
        params["search"] = settings.query.strip()
    return params


def repository_of(reference: str) -> str:
    """Return `group/project` from a full reference such as `group/project#7` or `group/project!7`."""
    for mark in ("#", "!"):
        repository, found, number = reference.rpartition(mark)
        if found and number.isdigit():
            return repository
    return ""


CLIENT = GitLabForge
