"""Reads the open pull requests of our account from GitHub as snapshots: one GraphQL query for many of them.

GitHub computes `mergeable` in the background when somebody reads it, so the first answer after a push is
`UNKNOWN`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeUnavailableError
from coding_agent_core.forge.changes import (
    BODY_LIMIT,
    Actor,
    ChangeEvent,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    Mergeability,
    OpenChanges,
    SubmittedReview,
)
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.task.model import Item
from pydantic import AliasPath, Field, ValidationError

from coding_agent_forges.github.change_responses import (
    CONCLUSIONS,
    EVENTS,
    MARK_READY,
    MERGEABILITIES,
    OLDER,
    OLDER_REMARKS,
    ONE,
    REMARK_PAGES,
    RESOLVE,
    SEARCH,
    STATES,
    VERDICTS,
    Account,
    Contexts,
    Older,
    PullRequestResponse,
    actor_of,
    thread_of,
)
from coding_agent_forges.github.discussion import GraphqlError, graphql_error, graphql_url
from coding_agent_forges.github.revisions import pushes_of
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.rest.calls import Call, ResponseModel, Text, User, path
from coding_agent_forges.rest.client import ForgeClient, answered_at
from coding_agent_forges.rest.open_changes import why_unreadable

_logger = logging.getLogger("coding_agent.forge")
_PAGE = 40
_PAGES = 5
"""Maximum numbers of pull requests in a query, and of queries: 200 pull requests."""
_NEWEST = 50
"""The number of comments and of threads that a query of a pull request shows first."""
_SECOND = timedelta(seconds=1)
_UNKNOWN = Mergeability.UNKNOWN
_READ_AGAIN = timedelta(minutes=10)
"""How long a snapshot counts while the search shows no change, because it does not show everything."""
_RUN_PAGES = 2
_SCOPE = re.compile(r"(?<!\S)-?(?:repo|org|user):\S+")
"""Matches the qualifiers of the configured search that say in which repositories we work."""


class _Run(ResponseModel):
    """A run of a check. All runs of a check on one commit have the same suite and name."""

    id: int
    name: str
    conclusion: Text = ""
    suite: int = Field(default=0, validation_alias=AliasPath("check_suite", "id"))


class _Runs(ResponseModel):
    check_runs: list[_Run]


Earlier = dict[str, tuple[CheckConclusion, ...]]
"""How earlier runs of checks ended, by the id of the newest run."""


class _FieldError(GraphqlError):
    """An error of GraphQL, with the path of the field that is null because of it."""

    path: tuple[str | int, ...] = ()


class _SearchResponse(ResponseModel):
    nodes: list[dict[str, Any] | None]
    more: bool = Field(validation_alias=AliasPath("pageInfo", "hasNextPage"))
    after: str | None = Field(default=None, validation_alias=AliasPath("pageInfo", "endCursor"))


class _ListedPullRequest(ResponseModel):
    """A pull request in a search result, with the fields that show whether it has changed."""

    number: int
    state: str
    repository: str = Field(validation_alias=AliasPath("repository", "nameWithOwner"))


@dataclass(frozen=True)
class CachedSnapshot:
    """An earlier snapshot of a pull request.

    Attributes:
        shown: the search result from which the snapshot was made.
    """

    shown: Mapping[str, Any]
    snapshot: ChangeSnapshot


@dataclass
class Memory:
    """The cached responses, by the identity of the pull request.

    Attributes:
        earlier: earlier runs of the checks that failed, each with the commit and the checks for which they
            were read.
        pushes: the pushes to the branch, each with the head to which they led.
        snapshots: the snapshots of the last scan.
        comments: the plain comments, by their ids. Those that are no longer among the newest are not read
            again, so an edit of them is seen only when a round starts.
    """

    earlier: dict[str, tuple[object, Earlier]] = field(default_factory=dict)
    pushes: dict[str, tuple[str, tuple[ChangeEvent, ...]]] = field(default_factory=dict)
    snapshots: dict[str, CachedSnapshot] = field(default_factory=dict)
    comments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def keep(self, identities: Collection[str]) -> None:
        """Drop the cached responses of all other pull requests."""
        remembered: tuple[dict[str, Any], ...] = (self.earlier, self.pushes, self.snapshots, self.comments)
        for known in remembered:
            for gone in known.keys() - identities:
                del known[gone]


class _QueryResponse(ResponseModel):
    found: _SearchResponse | None = Field(default=None, validation_alias=AliasPath("data", "search"))
    one: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasPath("data", "repository", "pullRequest")
    )
    node: dict[str, Any] | None = Field(default=None, validation_alias=AliasPath("data", "node"))
    errors: tuple[_FieldError, ...] = ()


@dataclass(frozen=True)
class GitHubChanges:
    """The reader of our account's pull requests.

    Attributes:
        own: our account.
        spelled: returns a label as our settings spell it.
    """

    client: ForgeClient
    settings: GitHub
    own: User
    spelled: Callable[[str], str]
    memory: Memory = field(default_factory=Memory)

    async def open(self) -> OpenChanges:
        """Return our open pull requests. GitHub's search index may be old, but each result is current.

        A pull request is read only if the search shows that it has changed.
        """
        snapshots: list[ChangeSnapshot] = []
        unreadable: list[tuple[Item, str]] = []
        left_out: tuple[str, ...] = ()
        async for page, errors, read_at in self._pages():
            left_out = (f"what comes after {_PAGES * _PAGE} pull requests",) if page.more else ()
            for index, node in enumerate(page.nodes):
                try:
                    listed = _ListedPullRequest.model_validate(node)
                except ValidationError as error:
                    _logger.warning(
                        "A pull request of ours cannot be read: %s gave an unexpected answer: %s",
                        self.client.host,
                        first_problem(error),
                    )
                    continue
                if STATES.get(listed.state) is not ChangeState.OPEN:
                    continue
                item = self._item(listed.repository, listed.number)
                # If the search could not show everything, it does not show either whether it has changed.
                whole = not any(one.path[:3] == ("search", "nodes", index) for one in errors)
                try:
                    snapshot = await self._current(item, node if whole else None, read_at)
                except Exception as error:
                    down = isinstance(error, ForgeUnavailableError) and error.status not in (200, 500)
                    of_one = isinstance(error, ForgeError) and not down
                    unreadable.append((item, why_unreadable(error, item, of_one_change=of_one)))
                else:
                    if snapshot.state is ChangeState.OPEN:
                        snapshots.append(snapshot)
        self.memory.keep({snapshot.item.identity for snapshot in snapshots})
        return OpenChanges(tuple(snapshots), tuple(unreadable), left_out)

    async def _current(
        self, item: Item, shown: Mapping[str, Any] | None, read_at: datetime
    ) -> ChangeSnapshot:
        """Return the cached snapshot if nothing has changed since it was read, and a new one otherwise."""
        known = self.memory.snapshots.pop(item.identity, None)
        if known is not None and known.shown == shown and read_at - known.snapshot.read_at < _READ_AGAIN:
            self.memory.snapshots[item.identity] = known
            return replace(known.snapshot, read_at=read_at)
        snapshot = await self._read(item)
        # Reading makes GitHub compute whether it merges. Something else can happen in the second of the
        # newest change. And the search does not show that somebody resolves an older thread.
        settled = snapshot.read_at - snapshot.updated_at > 2 * _SECOND
        unresolved = any(not thread.resolved for thread in snapshot.threads[:-_NEWEST])
        if shown is not None and settled and not unresolved and snapshot.mergeability is not _UNKNOWN:
            self.memory.snapshots[item.identity] = CachedSnapshot(shown, snapshot)
        return snapshot

    async def one(self, item: Item) -> ChangeSnapshot:
        """Return one pull request, without using cached responses."""
        return await replace(self, memory=Memory())._read(item)

    async def _read(self, item: Item) -> ChangeSnapshot:
        owner, name = item.repository.split("/", 1)
        what = f"reading {item.display} with its reviews and checks"
        variables = {"owner": owner, "name": name, "number": item.number}
        answer, read_at = await self._ask(ONE, variables, what, item.repository)
        if answer.one is None:
            raise graphql_error(answer.errors, f"{self.client.host} refused {what}")
        errors = list(answer.errors)
        self._add_known_comments(item, answer.one.get("comments"))
        for older in OLDER:
            errors += await self._add_older(answer.one, older, variables, what, item.repository)
        for thread in _at(answer.one, ("reviewThreads", "nodes")) or ():
            if thread:
                await self._add_remarks(thread, what, item.repository)
        self._remember_comments(item, answer.one.get("comments"))
        try:
            pull = PullRequestResponse.model_validate(answer.one)
        except ValidationError as error:
            raise ForgeUnavailableError(
                f"{self.client.host} gave an unexpected answer while {what}: {first_problem(error)}",
                status=200,
            ) from None  # the validation error quotes the answer
        return await self._complete(pull, errors, read_at)

    async def _add_older(
        self, change: dict[str, Any], older: Older, variables: Mapping[str, Any], what: str, repository: str
    ) -> list[_FieldError]:
        """Add the further pages of the lists to a first response. Return the errors about single entries."""
        errors: list[_FieldError] = []
        found = _at(change, older.path)
        for _ in range(older.pages):
            cursor = _cursor(found)
            if cursor is None:
                break
            answer, _ = await self._ask(older.query, {**variables, "cursor": cursor}, what, repository)
            page = _at(answer.one or {}, older.path)
            if page is None:
                break  # the list shows fewer entries than there are
            errors += answer.errors
            _join(found, page)
        return errors

    def _add_known_comments(self, item: Item, found: dict[str, Any] | None) -> None:
        """Add the cached older comments, if no others are missing."""
        known = self.memory.comments.get(item.identity, {})
        newest = {one["fullDatabaseId"]: one for one in (found or {}).get("nodes") or () if one}
        together = {key: one for key, one in known.items() if key not in newest} | newest
        if found is not None and known.keys() & newest.keys() and len(together) == found.get("totalCount"):
            found["nodes"], found["pageInfo"] = list(together.values()), {}

    def _remember_comments(self, item: Item, found: dict[str, Any] | None) -> None:
        nodes = [one for one in (found or {}).get("nodes") or () if one]
        if len(nodes) > _NEWEST:
            self.memory.comments[item.identity] = {
                one["fullDatabaseId"]: one | {"body": (one.get("body") or "")[:BODY_LIMIT]} for one in nodes
            }

    async def _add_remarks(self, thread: dict[str, Any], what: str, repository: str) -> None:
        for _ in range(REMARK_PAGES):
            cursor = _cursor(thread.get("comments"))
            if cursor is None:
                return
            variables = {"thread": thread["id"], "cursor": cursor}
            answer, _ = await self._ask(OLDER_REMARKS, variables, what, repository)
            page = _at(answer.node or {}, ("comments",))
            if page is None:
                return
            _join(thread["comments"], page)

    async def resolve(self, item: Item, thread: str) -> None:
        """Mark a thread as resolved.

        Args:
            thread: the GraphQL node id.
        """
        what = f"resolving a thread of {item.display}"
        answer, _ = await self._ask(RESOLVE, {"thread": thread}, what, item.repository)
        if answer.errors:
            raise graphql_error(answer.errors, f"{self.client.host} refused {what}")

    async def mark_ready(self, item: Item, node: str) -> None:
        """Mark a draft as ready for review, which the REST API cannot do.

        Args:
            node: the GraphQL node id of the pull request.
        """
        what = f"marking {item.display} as ready for review"
        answer, _ = await self._ask(MARK_READY, {"change": node}, what, item.repository)
        if answer.errors:
            raise graphql_error(answer.errors, f"{self.client.host} refused {what}")

    async def _complete(
        self, found: PullRequestResponse, errors: Sequence[_FieldError], read_at: datetime
    ) -> ChangeSnapshot:
        snapshot = self._snapshot(found, errors, read_at)
        if found.may_have_others_commits(str(self.own.id)):
            snapshot = await self._with_pushes(snapshot)
        return await self._compared(snapshot)

    async def _with_pushes(self, snapshot: ChangeSnapshot) -> ChangeSnapshot:
        """Add the ordinary pushes, for which GraphQL has no event.

        This takes one request more for each new head of a change to which others have pushed.
        """
        identity, head = snapshot.item.identity, snapshot.head_commit
        pushes: tuple[ChangeEvent, ...] | None = None
        if self.memory.pushes.get(identity, ("",))[0] == head:
            pushes = self.memory.pushes[identity][1]
        if pushes is None:
            what = f"reading who pushed to the branch of {snapshot.item.display}"
            try:
                found = await pushes_of(self.client, snapshot.item.repository, snapshot.head_branch, what)
            except ForgeUnavailableError:
                raise
            except ForgeError as error:
                _logger.warning("It is not known who pushed: %s", error)
                found = []
            pushes = tuple(push.event for push in reversed(found))
            if not found or head in [push.after for push in found]:  # else they do not include the newest yet
                self.memory.pushes[identity] = head, pushes
        known = {event.commit for event in snapshot.events} - {""}
        events = [*snapshot.events, *(push for push in pushes if push.commit not in known)]
        events.sort(key=lambda event: event.at)
        return replace(snapshot, events=tuple(events), head_at=_head_at(events, head))

    async def _compared(self, snapshot: ChangeSnapshot) -> ChangeSnapshot:
        """Add the earlier results of failed checks on the same commit, which the query cannot ask for.

        This takes one request more for a change on which checks have just failed.
        """
        red = (CheckConclusion.FAILURE, CheckConclusion.TIMED_OUT)
        failed = {check.id for check in snapshot.checks if check.id and check.conclusion in red}
        identity, state = snapshot.item.identity, (snapshot.head_commit, failed)
        if not failed:
            self.memory.earlier.pop(identity, None)
            return snapshot
        known = self.memory.earlier.get(identity)
        if known is None or known[0] != state:
            known = self.memory.earlier[identity] = state, await self._earlier(snapshot, failed)
        earlier = known[1]
        checks = (replace(check, earlier=earlier.get(check.id, ())) for check in snapshot.checks)
        return replace(snapshot, checks=tuple(checks))

    async def _earlier(self, snapshot: ChangeSnapshot, failed: set[str]) -> Earlier:
        where = path("repos", *snapshot.item.repository.split("/", 1), "commits", snapshot.head_commit)
        what = f"reading earlier runs of the checks of {snapshot.item.display}"
        call = Call("GET", f"{where}/check-runs", what, {"filter": "all"})
        try:
            pages = self.client.pages(_Runs, call, limit=_RUN_PAGES)
            runs = [run async for page in pages for run in page.check_runs]
        except ForgeUnavailableError:
            raise  # what is returned is remembered
        except ForgeError as error:
            _logger.warning("It is not known whether checks have passed before: %s", error)
            return {}
        runs.sort(key=lambda run: run.id)
        return {
            str(newest.id): tuple(
                CONCLUSIONS[run.conclusion.upper()]
                for run in runs
                if (run.suite, run.name) == (newest.suite, newest.name)
                and run.id < newest.id
                and run.conclusion.upper() in CONCLUSIONS
            )
            for newest in runs
            if str(newest.id) in failed
        }

    async def _pages(self) -> AsyncIterator[tuple[_SearchResponse, tuple[_FieldError, ...], datetime]]:
        query = open_query(self.own.login, self.settings)
        what = "looking for our open pull requests"
        after: str | None = None
        for _ in range(_PAGES):
            answer, read_at = await self._ask(SEARCH, {"query": query, "first": _PAGE, "after": after}, what)
            if answer.found is None:
                raise graphql_error(answer.errors, f"{self.client.host} refused {what}")
            yield answer.found, answer.errors, read_at
            if not answer.found.more:
                return
            after = answer.found.after

    async def _ask(
        self, query: str, variables: Mapping[str, Any], what: str, repository: str = ""
    ) -> tuple[_QueryResponse, datetime]:
        body = {"query": query, "variables": variables}
        call = Call("POST", graphql_url(self.client.api_url), what, json=body, repository=repository)
        response = await self.client.send(call)
        return self.client.parse(_QueryResponse, response, call), answered_at(response, self.client.clock)

    def _item(self, repository: str, number: int) -> Item:
        return Item(
            platform=Platform.GITHUB,
            host=self.client.host,
            repository=repository,
            kind=ItemKind.CHANGE,
            number=number,
        )

    def _snapshot(
        self, pull: PullRequestResponse, errors: Sequence[_FieldError], read_at: datetime
    ) -> ChangeSnapshot:
        required = pull.required
        events = tuple(
            ChangeEvent(
                EVENTS[event.kind],
                actor_of(event.account) if event.account else None,
                event.at,
                event.commit,
                self.spelled(event.label),
            )
            for event in pull.events
            if event.kind in EVENTS
        )
        reviewers = [one.get("requestedReviewer") for one in pull.reviewers]
        asked = [Account.model_validate(one) for one in reviewers if one]
        return ChangeSnapshot(
            item=self._item(pull.repository, pull.number),
            url=pull.url,
            own=Actor(str(self.own.id), self.own.login),
            read_at=read_at,
            author=actor_of(pull.account),
            title=pull.title,
            state=STATES.get(pull.state, ChangeState.CLOSED),
            draft=pull.draft,
            head_branch=pull.head_branch,
            head_commit=pull.head_commit,
            base_branch=pull.base_branch,
            base_commit=pull.base_commit,
            created_at=pull.created_at,
            updated_at=pull.updated_at,
            mergeability=MERGEABILITIES.get(pull.mergeable, _UNKNOWN),
            head_at=_head_at(events, pull.head_commit),
            labels=frozenset(self.spelled(label["name"]) for label in pull.labels),
            threads=tuple(thread for one in pull.threads if (thread := thread_of(one)) is not None),
            reviews=tuple(
                SubmittedReview(
                    id=str(review.id),
                    author=review.author,
                    verdict=VERDICTS[review.state],
                    body=review.body,
                    submitted_at=review.submitted_at,
                    commit=review.commit,
                    url=review.url,
                )
                for review in pull.reviews
                if review.state in VERDICTS
            ),
            comments=tuple(comment.remark() for comment in pull.comments),
            checks=tuple(context.result(required) for context in pull.contexts or () if context),
            checks_problem=_checks_problem(pull.contexts, errors),
            base_checks=tuple(context.result(None) for context in pull.base_contexts or () if context),
            requested_reviewers=tuple(actor_of(account) for account in asked if account.login),
            events=events,
            replaced_by_us=frozenset(one.parent for one in pull.commits if one.is_by(str(self.own.id))),
            left_out=pull.left_out,
        )


def _at(value: Any, where: Sequence[str | int]) -> Any:
    """Return the value at a path within a response; `None` if it is missing."""
    for step in where:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _cursor(found: Any) -> str | None:
    """Return the cursor of a list's next page; `None` if this is the last page."""
    page = _at(found, ("pageInfo",)) or {}
    if page.get("hasPreviousPage"):
        return page.get("startCursor")
    return page.get("endCursor") if page.get("hasNextPage") else None


def _join(found: dict[str, Any], page: Mapping[str, Any]) -> None:
    """Add a further page to a list: before it if the list is read from its end."""
    ours, theirs = found.get("nodes") or [], page.get("nodes") or []
    from_end = "hasPreviousPage" in page.get("pageInfo", {})
    found["nodes"] = [*theirs, *ours] if from_end else [*ours, *theirs]
    found["pageInfo"] = page.get("pageInfo")


def open_query(login: str, settings: GitHub) -> str:
    """Return the search for the open pull requests of an account in the configured repositories.

    An App's account has the login `NAME[bot]`, and the search calls it `app/NAME`.
    """
    author = f"app/{login.removesuffix('[bot]')}" if login.endswith("[bot]") else login
    parts = ["is:pr", "is:open", f"author:{author}", "archived:false", "sort:updated-desc"]
    if settings.owner:
        parts.append(f"user:{settings.owner}")
    return " ".join((*parts, *_SCOPE.findall(settings.query)))


def _head_at(events: Sequence[ChangeEvent], head: str) -> datetime | None:
    """Return when the head was pushed, if that is among the events; a commit itself has no such time."""
    return next((event.at for event in reversed(events) if event.commit == head), None)


def _checks_problem(contexts: Contexts, errors: Sequence[_FieldError]) -> str:
    """Return why checks of the head commit could not be read; empty if all were read.

    A fine-grained token may not read check runs: GitHub answers null for each, and an error with its path.
    Without checks there is neither a list nor an error. Errors below a check, e.g. about its workflow, leave
    the check itself readable.
    """
    refused = [one for one in errors if "statusCheckRollup" in one.path and "baseRef" not in one.path]
    lacking = (contexts is None and refused) or any(context is None for context in contexts or ())
    if not lacking:
        return ""
    if any(error.type in ("FORBIDDEN", "INSUFFICIENT_SCOPES") for error in refused):
        return "our token may not read checks"
    return "GitHub does not show all checks"
