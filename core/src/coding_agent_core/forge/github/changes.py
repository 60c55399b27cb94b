"""Reads the open pull requests of our account from GitHub as snapshots: one GraphQL query for many of them.

GitHub computes `mergeable` in the background when somebody reads it, so the first answer after a push is
`UNKNOWN`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, AliasPath, BeforeValidator, Field, ValidationError

from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.forge.calls import Call, ResponseModel, Text, User
from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
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
    Remark,
    ReviewThread,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.forge.github.discussion import GraphqlError, graphql_error, graphql_url
from coding_agent_core.forge.github.facts import MEMBERS
from coding_agent_core.forge.github.settings import GitHub
from coding_agent_core.forge.http import ForgeClient, answered_at
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import Item
from coding_agent_core.text import first_problem

_logger = logging.getLogger("coding_agent.forge")
_PAGE = 25
_PAGES = 8
"""Maximum numbers of pull requests in a query, and of queries: 200 pull requests."""
_SCOPE = re.compile(r"(?<!\S)-?(?:repo|org|user):\S+")
"""Matches the qualifiers of the configured search that say in which repositories we work."""
_ACTOR = "{ __typename login ... on User { databaseId } ... on Bot { databaseId } }"
_CHECKS = """
statusCheckRollup {
  contexts(first: 100) {
    totalCount
    nodes {
      __typename
      ... on CheckRun {
        databaseId name status conclusion title summary startedAt completedAt url
        checkSuite { app { slug } workflowRun { event workflow { name } } }
      }
      ... on StatusContext { context state description targetUrl createdAt }
    }
  }
}
"""
_FIELDS = """
number title url isDraft state createdAt updatedAt mergeable headRefName headRefOid baseRefName
author ACTOR
repository { nameWithOwner }
labels(first: 100) { nodes { name } }
reviewRequests(first: 20) {
  nodes {
    requestedReviewer { __typename ... on User { login databaseId } ... on Bot { login databaseId } }
  }
}
comments(last: 50) {
  totalCount
  nodes { fullDatabaseId author ACTOR authorAssociation createdAt body url }
}
reviews(last: 50) {
  totalCount
  nodes { fullDatabaseId author ACTOR authorAssociation state submittedAt body url commit { oid } }
}
reviewThreads(last: 50) {
  totalCount
  nodes {
    id path line isResolved isOutdated
    comments(last: 50) {
      nodes {
        fullDatabaseId state author ACTOR authorAssociation createdAt body url
        originalCommit { oid }
        pullRequestReview { submittedAt }
      }
    }
  }
}
timelineItems(
  last: 50
  itemTypes: [HEAD_REF_FORCE_PUSHED_EVENT, LABELED_EVENT, UNLABELED_EVENT, REOPENED_EVENT]
) {
  nodes {
    __typename
    ... on HeadRefForcePushedEvent { createdAt actor ACTOR afterCommit { oid } }
    ... on LabeledEvent { createdAt actor ACTOR label { name } }
    ... on UnlabeledEvent { createdAt actor ACTOR label { name } }
    ... on ReopenedEvent { createdAt actor ACTOR }
  }
}
commits(last: 1) { nodes { commit { CHECKS } } }
baseRef {
  target { __typename oid ... on Commit { CHECKS } }
  refUpdateRule { requiredStatusCheckContexts }
  rules(first: 50) {
    nodes {
      parameters {
        __typename
        ... on RequiredStatusChecksParameters { requiredStatusChecks { context } }
      }
    }
  }
}
""".replace("ACTOR", _ACTOR).replace("CHECKS", _CHECKS.strip())
_SEARCH = (
    "query($query: String!, $first: Int!, $after: String) {"
    " search(query: $query, type: ISSUE, first: $first, after: $after) {"
    f" pageInfo {{ hasNextPage endCursor }} nodes {{ __typename ... on PullRequest {{ {_FIELDS} }} }} }} }}"
)
_ONE = (
    "query($owner: String!, $name: String!, $number: Int!) {"
    f" repository(owner: $owner, name: $name) {{ pullRequest(number: $number) {{ {_FIELDS} }} }} }}"
)
_MERGEABILITIES = {"MERGEABLE": Mergeability.MERGES, "CONFLICTING": Mergeability.CONFLICT}
_STATES = {"OPEN": ChangeState.OPEN, "MERGED": ChangeState.MERGED, "CLOSED": ChangeState.CLOSED}
_VERDICTS = {
    "APPROVED": ReviewVerdict.APPROVED,
    "CHANGES_REQUESTED": ReviewVerdict.CHANGES_REQUESTED,
    "COMMENTED": ReviewVerdict.COMMENTED,
    "DISMISSED": ReviewVerdict.DISMISSED,
}
_CONCLUSIONS = {
    "SUCCESS": CheckConclusion.SUCCESS,
    "FAILURE": CheckConclusion.FAILURE,
    "ERROR": CheckConclusion.FAILURE,
    "TIMED_OUT": CheckConclusion.TIMED_OUT,
    "STARTUP_FAILURE": CheckConclusion.INFRASTRUCTURE,
    "CANCELLED": CheckConclusion.CANCELLED,
    "SKIPPED": CheckConclusion.SKIPPED,
    "NEUTRAL": CheckConclusion.NEUTRAL,
    "ACTION_REQUIRED": CheckConclusion.ACTION_REQUIRED,
    "STALE": CheckConclusion.STALE,
}
_EVENTS = {
    "HeadRefForcePushedEvent": ChangeEventKind.PUSHED,
    "LabeledEvent": ChangeEventKind.LABELED,
    "UnlabeledEvent": ChangeEventKind.UNLABELED,
    "ReopenedEvent": ChangeEventKind.REOPENED,
}


def _without_nulls(value: Any) -> Any:
    """GraphQL puts null in place of an entry that it cannot show."""
    return [entry for entry in value or () if entry is not None] if isinstance(value, list | None) else value


_Known = BeforeValidator(_without_nulls)


class _Account(ResponseModel):
    """An actor. Mannequins of imported repositories have no number, and teams no login either."""

    kind: str = Field(validation_alias="__typename")
    login: str = ""
    id: int | None = Field(default=None, validation_alias="databaseId")


class _Authored(ResponseModel):
    """Something that somebody wrote; the account is null if it was deleted."""

    id: int | None = Field(default=None, validation_alias="fullDatabaseId")
    account: _Account | None = Field(default=None, validation_alias="author")
    association: str = Field(default="", validation_alias="authorAssociation")
    body: Text = ""
    url: Text = ""

    @property
    def author(self) -> Actor:
        return actor_of(self.account, member=self.association in MEMBERS)


class _Comment(_Authored):
    """A comment, of a thread or by itself. A review's comments are drafts until it is submitted."""

    created_at: datetime = Field(validation_alias="createdAt")
    state: str = "SUBMITTED"
    commit: str = Field(default="", validation_alias=AliasPath("originalCommit", "oid"))
    submitted_at: datetime | None = Field(
        default=None, validation_alias=AliasPath("pullRequestReview", "submittedAt")
    )

    def remark(self) -> Remark:
        return Remark(
            id=str(self.id),
            author=self.author,
            published_at=max(self.created_at, self.submitted_at or self.created_at),
            body=self.body,
            commit=self.commit,
            url=self.url,
        )


class _Review(_Authored):
    state: str
    submitted_at: datetime | None = Field(default=None, validation_alias="submittedAt")
    commit: str = Field(default="", validation_alias=AliasPath("commit", "oid"))


class _Thread(ResponseModel):
    id: str
    path: str
    line: int | None = None
    resolved: bool = Field(validation_alias="isResolved")
    outdated: bool = Field(validation_alias="isOutdated")
    comments: Annotated[list[_Comment], _Known] = Field(
        default=[], validation_alias=AliasPath("comments", "nodes")
    )


class _Event(ResponseModel):
    kind: str = Field(validation_alias="__typename")
    at: datetime = Field(validation_alias="createdAt")
    account: _Account | None = Field(default=None, validation_alias="actor")
    commit: str = Field(default="", validation_alias=AliasPath("afterCommit", "oid"))
    label: str = Field(default="", validation_alias=AliasPath("label", "name"))


class _Context(ResponseModel):
    """A check run, or the status that another program gave a commit."""

    kind: Literal["CheckRun", "StatusContext"] = Field(validation_alias="__typename")
    id: int | None = Field(default=None, validation_alias="databaseId")
    name: str = Field(validation_alias=AliasChoices("name", "context"))
    status: str = "COMPLETED"
    conclusion: Text = Field(default="", validation_alias=AliasChoices("conclusion", "state"))
    title: Text = ""
    summary: Text = Field(default="", validation_alias=AliasChoices("summary", "description"))
    url: Text = Field(default="", validation_alias=AliasChoices("url", "targetUrl"))
    started_at: datetime | None = Field(default=None, validation_alias=AliasChoices("startedAt", "createdAt"))
    completed_at: datetime | None = Field(
        default=None, validation_alias=AliasChoices("completedAt", "createdAt")
    )
    app: Text = Field(default="", validation_alias=AliasPath("checkSuite", "app", "slug"))
    event: Text = Field(default="", validation_alias=AliasPath("checkSuite", "workflowRun", "event"))
    workflow: Text = Field(
        default="", validation_alias=AliasPath("checkSuite", "workflowRun", "workflow", "name")
    )

    def result(self, required: frozenset[str] | None) -> CheckResult:
        """Return the check; `required` names the checks that a rule demands, if the rules are known."""
        state = CheckState.COMPLETED
        if self.status != "COMPLETED":
            state = CheckState.RUNNING if self.status == "IN_PROGRESS" else CheckState.WAITING
        elif self.conclusion in ("PENDING", "EXPECTED"):
            state = CheckState.WAITING
        ended = state is CheckState.COMPLETED
        # A word that GitHub adds later must not start work.
        conclusion = _CONCLUSIONS.get(self.conclusion, CheckConclusion.NEUTRAL) if ended else None
        kind = CheckKind.STATUS if self.kind == "StatusContext" else CheckKind.CHECK_RUN
        return CheckResult(
            id=str(self.id or ""),
            name=f"{self.workflow} / {self.name}" if self.workflow else self.name,
            kind=CheckKind.JOB if self.app == "github-actions" else kind,
            state=state,
            conclusion=conclusion,
            required=None if required is None else self.name in required,
            url=self.url,
            errors="" if conclusion is CheckConclusion.SUCCESS else self._output(),
            event=self.event,
            started_at=self.started_at,
            completed_at=self.completed_at if ended else None,
        )

    def _output(self) -> str:
        return "\n\n".join(text for text in dict.fromkeys((self.title, self.summary)) if text)


_Contexts = list[_Context | None] | None
_ROLLUP = ("statusCheckRollup", "contexts")


class _Rule(ResponseModel):
    checks: tuple[dict[str, Any], ...] = Field(
        default=(), validation_alias=AliasPath("parameters", "requiredStatusChecks")
    )


class _PullRequest(ResponseModel):
    """A pull request. The base is null if its branch was deleted.

    Attributes:
        rules, rule: what the base branch demands, in rulesets and in a classic protection; `rules` is null if
            we may not read them.
    """

    number: int
    title: str
    url: str
    draft: bool = Field(validation_alias="isDraft")
    state: str
    created_at: datetime = Field(validation_alias="createdAt")
    updated_at: datetime = Field(validation_alias="updatedAt")
    mergeable: str
    head_branch: str = Field(validation_alias="headRefName")
    head_commit: str = Field(validation_alias="headRefOid")
    base_branch: str = Field(validation_alias="baseRefName")
    account: _Account | None = Field(default=None, validation_alias="author")
    repository: str = Field(validation_alias=AliasPath("repository", "nameWithOwner"))
    labels: Annotated[list[dict[str, str]], _Known] = Field(
        default=[], validation_alias=AliasPath("labels", "nodes")
    )
    reviewers: Annotated[list[dict[str, Any]], _Known] = Field(
        default=[], validation_alias=AliasPath("reviewRequests", "nodes")
    )
    comments: Annotated[list[_Comment], _Known] = Field(
        default=[], validation_alias=AliasPath("comments", "nodes")
    )
    reviews: Annotated[list[_Review], _Known] = Field(
        default=[], validation_alias=AliasPath("reviews", "nodes")
    )
    threads: Annotated[list[_Thread], _Known] = Field(
        default=[], validation_alias=AliasPath("reviewThreads", "nodes")
    )
    all_comments: int = Field(default=0, validation_alias=AliasPath("comments", "totalCount"))
    all_reviews: int = Field(default=0, validation_alias=AliasPath("reviews", "totalCount"))
    all_threads: int = Field(default=0, validation_alias=AliasPath("reviewThreads", "totalCount"))
    events: Annotated[list[_Event], _Known] = Field(
        default=[], validation_alias=AliasPath("timelineItems", "nodes")
    )
    contexts: _Contexts = Field(
        default=None, validation_alias=AliasPath("commits", "nodes", 0, "commit", *_ROLLUP, "nodes")
    )
    all_contexts: int = Field(
        default=0, validation_alias=AliasPath("commits", "nodes", 0, "commit", *_ROLLUP, "totalCount")
    )
    base_commit: Text = Field(default="", validation_alias=AliasPath("baseRef", "target", "oid"))
    base_contexts: _Contexts = Field(
        default=None, validation_alias=AliasPath("baseRef", "target", *_ROLLUP, "nodes")
    )
    rule: list[str] | None = Field(
        default=None, validation_alias=AliasPath("baseRef", "refUpdateRule", "requiredStatusCheckContexts")
    )
    rules: list[_Rule | None] | None = Field(
        default=None, validation_alias=AliasPath("baseRef", "rules", "nodes")
    )

    @property
    def required(self) -> frozenset[str] | None:
        """The checks that a rule demands; `None` if the rules could not be read."""
        if self.rules is None:
            return frozenset(self.rule) if self.rule is not None else None
        named = (check.get("context", "") for rule in self.rules if rule for check in rule.checks)
        return frozenset((*named, *(self.rule or ())))

    @property
    def left_out(self) -> tuple[str, ...]:
        shown = {
            "older comments": self.all_comments - len(self.comments),
            "older reviews": self.all_reviews - len(self.reviews),
            "older threads": self.all_threads - len(self.threads),
            "checks": self.all_contexts - len(self.contexts or ()),
        }
        return tuple(f"{count} {what}" for what, count in shown.items() if count > 0)


class _FieldError(GraphqlError):
    """An error with the path of the field that it left null."""

    path: tuple[str | int, ...] = ()


class _Found(ResponseModel):
    nodes: list[dict[str, Any] | None]
    more: bool = Field(validation_alias=AliasPath("pageInfo", "hasNextPage"))
    after: str | None = Field(default=None, validation_alias=AliasPath("pageInfo", "endCursor"))


class _Answer(ResponseModel):
    found: _Found | None = Field(default=None, validation_alias=AliasPath("data", "search"))
    one: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasPath("data", "repository", "pullRequest")
    )
    errors: tuple[_FieldError, ...] = ()


@dataclass(frozen=True)
class GitHubChanges:
    """Reads pull requests of our account.

    Attributes:
        own: our account.
        spelled: returns a label as our settings spell it.
    """

    client: ForgeClient
    settings: GitHub
    own: User
    spelled: Callable[[str], str]

    async def open(self) -> OpenChanges:
        """See `Forge.open_changes`. GitHub's search index may be some seconds old, the found ones are not."""
        snapshots: list[ChangeSnapshot] = []
        unreadable: list[tuple[Item, str]] = []
        complete = True
        async for page, errors, read_at in self._pages():
            complete = not page.more
            for index, node in enumerate(page.nodes):
                try:
                    found = _PullRequest.model_validate(node)
                except ValidationError as error:
                    why = f"{self.client.host} gave an unexpected answer: {first_problem(error)}"
                    item = self._item_of(node or {})
                    if item is None:
                        _logger.warning("A pull request of ours cannot be read: %s", why)
                    else:
                        unreadable.append((item, why))
                    continue
                if _STATES.get(found.state) is ChangeState.OPEN:
                    own_errors = [one for one in errors if one.path[:3] == ("search", "nodes", index)]
                    snapshots.append(self._snapshot(found, own_errors, read_at))
        if not complete:
            _logger.warning("%s: only the newest %d of our open pull requests are read", *self._limit())
        return OpenChanges(tuple(snapshots), tuple(unreadable), complete)

    def _limit(self) -> tuple[str, int]:
        return self.client.host, _PAGE * _PAGES

    async def one(self, item: Item) -> ChangeSnapshot:
        """See `Forge.snapshot`."""
        owner, name = item.repository.split("/", 1)
        what = f"reading {item.display} with its reviews and checks"
        answer, read_at = await self._ask(_ONE, {"owner": owner, "name": name, "number": item.number}, what)
        if answer.one is None:
            raise graphql_error(answer.errors, f"{self.client.host} refused {what}")
        try:
            found = _PullRequest.model_validate(answer.one)
        except ValidationError as error:
            raise ForgeUnavailableError(
                f"{self.client.host} gave an unexpected answer while {what}: {first_problem(error)}"
            ) from None  # the validation error quotes the answer
        return self._snapshot(found, answer.errors, read_at)

    async def _pages(self) -> AsyncIterator[tuple[_Found, tuple[_FieldError, ...], datetime]]:
        query = open_query(self.own.login, self.settings)
        what = "looking for our open pull requests"
        after: str | None = None
        for _ in range(_PAGES):
            answer, read_at = await self._ask(_SEARCH, {"query": query, "first": _PAGE, "after": after}, what)
            if answer.found is None:
                raise graphql_error(answer.errors, f"{self.client.host} refused {what}")
            yield answer.found, answer.errors, read_at
            if not answer.found.more:
                return
            after = answer.found.after

    async def _ask(self, query: str, variables: Mapping[str, Any], what: str) -> tuple[_Answer, datetime]:
        body = {"query": query, "variables": variables}
        call = Call("POST", graphql_url(self.client.api_url), what, json=body)
        response = await self.client.send(call)
        return self.client.parse(_Answer, response, call), answered_at(response, self.client.clock)

    def _item_of(self, node: Mapping[str, Any]) -> Item | None:
        try:
            return Item(
                platform=Platform.GITHUB,
                host=self.client.host,
                repository=node["repository"]["nameWithOwner"],
                kind=ItemKind.CHANGE,
                number=node["number"],
            )
        except (KeyError, TypeError, ValidationError):
            return None

    def _snapshot(
        self, found: _PullRequest, errors: list[_FieldError] | tuple[_FieldError, ...], read_at: datetime
    ) -> ChangeSnapshot:
        required = found.required
        events = tuple(
            ChangeEvent(
                _EVENTS[event.kind],
                actor_of(event.account) if event.account else None,
                event.at,
                event.commit,
                self.spelled(event.label),
            )
            for event in found.events
            if event.kind in _EVENTS
        )
        reviewers = [one.get("requestedReviewer") for one in found.reviewers]
        asked = [_Account.model_validate(one) for one in reviewers if one]
        return ChangeSnapshot(
            item=Item(
                platform=Platform.GITHUB,
                host=self.client.host,
                repository=found.repository,
                kind=ItemKind.CHANGE,
                number=found.number,
            ),
            url=found.url,
            own=Actor(str(self.own.id), self.own.login),
            read_at=read_at,
            author=actor_of(found.account),
            title=found.title,
            state=_STATES.get(found.state, ChangeState.CLOSED),
            draft=found.draft,
            head_branch=found.head_branch,
            head_commit=found.head_commit,
            base_branch=found.base_branch,
            base_commit=found.base_commit,
            created_at=found.created_at,
            updated_at=found.updated_at,
            mergeability=_MERGEABILITIES.get(found.mergeable, Mergeability.UNKNOWN),
            # GitHub records no time of an ordinary push.
            head_at=next((one.at for one in events[::-1] if one.commit == found.head_commit), None),
            labels=frozenset(self.spelled(label["name"]) for label in found.labels),
            threads=tuple(thread for one in found.threads if (thread := _thread(one)) is not None),
            reviews=tuple(
                SubmittedReview(
                    id=str(review.id),
                    author=review.author,
                    verdict=_VERDICTS[review.state],
                    body=review.body,
                    submitted_at=review.submitted_at,
                    commit=review.commit,
                    url=review.url,
                )
                for review in found.reviews
                if review.state in _VERDICTS
            ),
            comments=tuple(comment.remark() for comment in found.comments),
            checks=tuple(context.result(required) for context in found.contexts or () if context),
            checks_problem=_checks_problem(found.contexts, errors),
            base_checks=tuple(context.result(None) for context in found.base_contexts or () if context),
            requested_reviewers=tuple(actor_of(account) for account in asked if account.login),
            events=events,
            left_out=found.left_out,
        )


def open_query(login: str, settings: GitHub) -> str:
    """Return the search for the open pull requests of an account in the configured repositories.

    An App's account has the login `NAME[bot]`, and the search calls it `app/NAME`.
    """
    author = f"app/{login.removesuffix('[bot]')}" if login.endswith("[bot]") else login
    parts = ["is:pr", "is:open", f"author:{author}", "archived:false", "sort:updated-desc"]
    if settings.owner:
        parts.append(f"user:{settings.owner}")
    return " ".join((*parts, *_SCOPE.findall(settings.query)))


def actor_of(account: _Account | None, *, member: bool | None = None) -> Actor:
    """Return an account as the REST API names it; GraphQL leaves out the `[bot]` of an App's login."""
    if account is None:
        return Actor("", "ghost")
    bot = account.kind == "Bot"
    login = f"{account.login}[bot]" if bot and not account.login.endswith("[bot]") else account.login
    number = "" if account.id is None else str(account.id)
    return Actor(number, login, ActorKind.BOT if bot else ActorKind.PERSON, member)


def _thread(found: _Thread) -> ReviewThread | None:
    """Return a thread without drafts; `None` if nothing else is in it."""
    remarks = tuple(comment.remark() for comment in found.comments if comment.state != "PENDING")
    if not remarks:
        return None
    return ReviewThread(found.id, found.path, found.line, found.resolved, found.outdated, remarks)


def _checks_problem(contexts: _Contexts, errors: list[_FieldError] | tuple[_FieldError, ...]) -> str:
    """Return why checks of the head commit could not be read; empty if all were.

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
