"""The queries to GitHub's GraphQL API about our pull requests, and the types of its responses. Pure.

https://docs.github.com/graphql/reference/objects#pullrequest
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEventKind,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Mergeability,
    Part,
    Remark,
    ReviewThread,
    ReviewVerdict,
)
from pydantic import AliasChoices, AliasPath, BeforeValidator, Field

from coding_agent_forges.github.facts import MEMBERS
from coding_agent_forges.rest.calls import ResponseModel, Text

_COMMITS = 20
"""How many commits of a branch are read, the newest first."""
_ACTOR = "{ __typename login ... on User { databaseId } ... on Bot { databaseId } }"
_BEFORE = "totalCount pageInfo { hasPreviousPage startCursor }"
_COMMENT = "fullDatabaseId author ACTOR authorAssociation createdAt body url"
_REMARK = f"{_COMMENT} state originalCommit {{ oid }} pullRequestReview {{ fullDatabaseId submittedAt }}"
_REVIEW = "fullDatabaseId author ACTOR authorAssociation state submittedAt body url commit { oid }"
_THREAD = f"""
id path line isResolved isOutdated
comments(last: 50) {{ {_BEFORE} nodes {{ {_REMARK} }} }}
"""
_CONTEXTS = """
totalCount
pageInfo { hasNextPage endCursor }
nodes {
  __typename
  ... on CheckRun {
    databaseId name status conclusion title summary startedAt completedAt url
    checkSuite { app { slug } workflowRun { event workflow { name } } }
  }
  ... on StatusContext { context state description targetUrl createdAt creator ACTOR }
}
"""
_CHECKS = f"statusCheckRollup {{ contexts(first: 100) {{ {_CONTEXTS} }} }}"
_FIELDS = (
    """
number title url isDraft state createdAt updatedAt mergeable headRefName headRefOid baseRefName
author ACTOR
repository { nameWithOwner }
labels(first: 100) { nodes { name } }
reviewRequests(first: 20) {
  nodes {
    requestedReviewer { __typename ... on User { login databaseId } ... on Bot { login databaseId } }
  }
}
comments(last: 50) { BEFORE nodes { COMMENT } }
reviews(last: 50) { BEFORE nodes { REVIEW } }
reviewThreads(last: 50) { BEFORE nodes { THREAD } }
timelineItems(
  last: 100
  itemTypes: [
    HEAD_REF_FORCE_PUSHED_EVENT, LABELED_EVENT, UNLABELED_EVENT, REOPENED_EVENT
    CONVERT_TO_DRAFT_EVENT, READY_FOR_REVIEW_EVENT
  ]
) {
  pageInfo { hasPreviousPage }
  nodes {
    __typename
    ... on HeadRefForcePushedEvent { createdAt actor ACTOR afterCommit { oid } }
    ... on LabeledEvent { createdAt actor ACTOR label { name } }
    ... on UnlabeledEvent { createdAt actor ACTOR label { name } }
    ... on ReopenedEvent { createdAt actor ACTOR }
    ... on ConvertToDraftEvent { createdAt actor ACTOR }
    ... on ReadyForReviewEvent { createdAt actor ACTOR }
  }
}
commits(last: 1) { nodes { commit { CHECKS } } }
headRef {
  target {
    __typename
    ... on Commit {
      history(first: COMMITS) {
        nodes { parents(first: 2) { nodes { oid } } author { email user { databaseId } } }
      }
    }
  }
}
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
""".replace("COMMITS", str(_COMMITS))
    .replace("CHECKS", _CHECKS)
    .replace("THREAD", _THREAD)
    .replace("REVIEW }", f"{_REVIEW} }}")
    .replace("COMMENT }", f"{_COMMENT} }}")
    .replace("BEFORE", _BEFORE)
    .replace("ACTOR", _ACTOR)
)
SEARCH = (
    "query($query: String!, $first: Int!, $after: String) {"
    " search(query: $query, type: ISSUE, first: $first, after: $after) {"
    " pageInfo { hasNextPage endCursor } nodes { __typename ... on PullRequest {"
    " number state updatedAt mergeable headRefOid repository { nameWithOwner } baseRef { target { oid } }"
    " reviewThreads(last: 50) { totalCount nodes { isResolved } }"
    " commits(last: 1) { nodes { commit { statusCheckRollup { contexts(first: 1) { totalCount"
    " checkRunCountsByState { state count } statusContextCountsByState { state count } } } } } }"
    " } } } }"
)
"""What tells of each of our open pull requests whether it has changed. Of 40 pull requests, this costs one
point of GitHub's 5,000 in an hour, and all fields would cost 32:
https://docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api"""
_OF_ONE = (
    "query($owner: String!, $name: String!, $number: Int!$CURSOR) {"
    " repository(owner: $owner, name: $name) { pullRequest(number: $number) { FIELDS } } }"
)


def _of_one(fields: str, cursor: str = ", $cursor: String") -> str:
    return _OF_ONE.replace("$CURSOR", cursor).replace("FIELDS", fields.replace("ACTOR", _ACTOR))


ONE = _of_one(_FIELDS, "")


@dataclass(frozen=True)
class Older:
    """The query for the further pages of a list of a pull request.

    Attributes:
        path: where the list is in the pull request.
        pages: the maximum number of further pages.
    """

    path: tuple[str | int, ...]
    query: str
    pages: int


_COMMIT_PATH = ("commits", "nodes", 0, "commit", "statusCheckRollup", "contexts")
OLDER = (
    Older(
        ("comments",),
        _of_one(f"comments(last: 100, before: $cursor) {{ {_BEFORE} nodes {{ {_COMMENT} }} }}"),
        10,
    ),
    Older(
        ("reviews",),
        _of_one(f"reviews(last: 100, before: $cursor) {{ {_BEFORE} nodes {{ {_REVIEW} }} }}"),
        10,
    ),
    Older(
        ("reviewThreads",),
        _of_one(f"reviewThreads(last: 100, before: $cursor) {{ {_BEFORE} nodes {{ {_THREAD} }} }}"),
        10,
    ),
    Older(
        _COMMIT_PATH,
        _of_one(
            "commits(last: 1) { nodes { commit { statusCheckRollup {"
            f" contexts(first: 100, after: $cursor) {{ {_CONTEXTS} }} }} }} }} }}"
        ),
        10,
    ),
)
OLDER_REMARKS = (
    "query($thread: ID!, $cursor: String) { node(id: $thread) { __typename ... on PullRequestReviewThread {"
    f" comments(last: 100, before: $cursor) {{ {_BEFORE} nodes {{ {_REMARK} }} }} }} }} }}"
).replace("ACTOR", _ACTOR)
REMARK_PAGES = 5
"""Maximum number of further pages of remarks of one thread."""
RESOLVE = (
    "mutation($thread: ID!) { resolveReviewThread(input: {threadId: $thread}) { thread { isResolved } } }"
)
MARK_READY = (
    "mutation($change: ID!) {"
    " markPullRequestReadyForReview(input: {pullRequestId: $change}) { pullRequest { isDraft } } }"
)
MERGEABILITIES = {"MERGEABLE": Mergeability.MERGES, "CONFLICTING": Mergeability.CONFLICT}
STATES = {"OPEN": ChangeState.OPEN, "MERGED": ChangeState.MERGED, "CLOSED": ChangeState.CLOSED}
VERDICTS = {
    "APPROVED": ReviewVerdict.APPROVED,
    "CHANGES_REQUESTED": ReviewVerdict.CHANGES_REQUESTED,
    "COMMENTED": ReviewVerdict.COMMENTED,
    "DISMISSED": ReviewVerdict.DISMISSED,
}
CONCLUSIONS = {
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
EVENTS = {
    "HeadRefForcePushedEvent": ChangeEventKind.PUSHED,
    "LabeledEvent": ChangeEventKind.LABELED,
    "UnlabeledEvent": ChangeEventKind.UNLABELED,
    "ReopenedEvent": ChangeEventKind.REOPENED,
    "ConvertToDraftEvent": ChangeEventKind.DRAFTED,
    "ReadyForReviewEvent": ChangeEventKind.READY,
}


def _without_nulls(value: Any) -> Any:
    """Return the list without null, which GraphQL puts in place of an entry that it cannot show."""
    return [entry for entry in value or () if entry is not None] if isinstance(value, list | None) else value


_Known = BeforeValidator(_without_nulls)


class Account(ResponseModel):
    """An account. Mannequins of imported repositories have no number, and teams have no login either."""

    kind: str = Field(validation_alias="__typename")
    login: str = ""
    id: int | None = Field(default=None, validation_alias="databaseId")


class _Authored(ResponseModel):
    """A text with its author, which is null if the account was deleted."""

    id: int | None = Field(default=None, validation_alias="fullDatabaseId")
    account: Account | None = Field(default=None, validation_alias="author")
    association: str = Field(default="", validation_alias="authorAssociation")
    body: Text = ""
    url: Text = ""

    @property
    def author(self) -> Actor:
        return actor_of(self.account, member=self.association in MEMBERS)


class _Comment(_Authored):
    """A comment in a thread or on the pull request. A review's comments are drafts until its submission."""

    created_at: datetime = Field(validation_alias="createdAt")
    state: str = "SUBMITTED"
    commit: str = Field(default="", validation_alias=AliasPath("originalCommit", "oid"))
    submitted_at: datetime | None = Field(
        default=None, validation_alias=AliasPath("pullRequestReview", "submittedAt")
    )
    review: int | None = Field(
        default=None, validation_alias=AliasPath("pullRequestReview", "fullDatabaseId")
    )

    def remark(self) -> Remark:
        return Remark(
            id=str(self.id),
            author=self.author,
            published_at=max(self.created_at, self.submitted_at or self.created_at),
            body=self.body,
            commit=self.commit,
            url=self.url,
            review="" if self.review is None else str(self.review),
        )


class _Review(_Authored):
    state: str
    submitted_at: datetime | None = Field(default=None, validation_alias="submittedAt")
    commit: str = Field(default="", validation_alias=AliasPath("commit", "oid"))


class _Commit(ResponseModel):
    """A commit of the branch. The user is null if the author's address belongs to nobody, or to an App."""

    parents: Annotated[list[dict[str, str]], _Known] = Field(
        default=[], validation_alias=AliasPath("parents", "nodes")
    )
    email: Text = Field(default="", validation_alias=AliasPath("author", "email"))
    user: int | None = Field(default=None, validation_alias=AliasPath("author", "user", "databaseId"))

    @property
    def parent(self) -> str:
        """The commit that was the head before; empty if there is none."""
        return self.parents[0]["oid"] if self.parents else ""

    def is_by(self, account: str) -> bool:
        """Whether the account of this number is the author. The address of an App begins with its number."""
        return str(self.user) == account or self.email.startswith(f"{account}+")


class ThreadResponse(ResponseModel):
    id: str
    path: str
    line: int | None = None
    resolved: bool = Field(validation_alias="isResolved")
    outdated: bool = Field(validation_alias="isOutdated")
    comments: Annotated[list[_Comment], _Known] = Field(
        default=[], validation_alias=AliasPath("comments", "nodes")
    )
    all_comments: int = Field(default=0, validation_alias=AliasPath("comments", "totalCount"))


class _Event(ResponseModel):
    kind: str = Field(validation_alias="__typename")
    at: datetime = Field(validation_alias="createdAt")
    account: Account | None = Field(default=None, validation_alias="actor")
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
    creator: Account | None = None

    def result(self, required: frozenset[str] | None) -> CheckResult:
        """Return the check; `required` names the checks that a rule demands, if the rules are known."""
        state = CheckState.COMPLETED
        if self.status != "COMPLETED":
            state = CheckState.RUNNING if self.status == "IN_PROGRESS" else CheckState.WAITING
        elif self.conclusion in ("PENDING", "EXPECTED"):
            state = CheckState.WAITING
        ended = state is CheckState.COMPLETED
        # A word that GitHub adds later must not start work.
        conclusion = CONCLUSIONS.get(self.conclusion, CheckConclusion.NEUTRAL) if ended else None
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
            creator=actor_of(self.creator).id if kind is CheckKind.STATUS else None,
        )

    def _output(self) -> str:
        return "\n\n".join(text for text in dict.fromkeys((self.title, self.summary)) if text)


Contexts = list[_Context | None] | None
_ROLLUP = ("statusCheckRollup", "contexts")


class _Rule(ResponseModel):
    checks: tuple[dict[str, Any], ...] = Field(
        default=(), validation_alias=AliasPath("parameters", "requiredStatusChecks")
    )


class PullRequestResponse(ResponseModel):
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
    account: Account | None = Field(default=None, validation_alias="author")
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
    threads: Annotated[list[ThreadResponse], _Known] = Field(
        default=[], validation_alias=AliasPath("reviewThreads", "nodes")
    )
    all_comments: int = Field(default=0, validation_alias=AliasPath("comments", "totalCount"))
    all_reviews: int = Field(default=0, validation_alias=AliasPath("reviews", "totalCount"))
    all_threads: int = Field(default=0, validation_alias=AliasPath("reviewThreads", "totalCount"))
    events: Annotated[list[_Event], _Known] = Field(
        default=[], validation_alias=AliasPath("timelineItems", "nodes")
    )
    more_events: bool = Field(
        default=False, validation_alias=AliasPath("timelineItems", "pageInfo", "hasPreviousPage")
    )
    contexts: Contexts = Field(
        default=None, validation_alias=AliasPath("commits", "nodes", 0, "commit", *_ROLLUP, "nodes")
    )
    all_contexts: int = Field(
        default=0, validation_alias=AliasPath("commits", "nodes", 0, "commit", *_ROLLUP, "totalCount")
    )
    commits: Annotated[list[_Commit], _Known] = Field(
        default=[], validation_alias=AliasPath("headRef", "target", "history", "nodes")
    )
    base_commit: Text = Field(default="", validation_alias=AliasPath("baseRef", "target", "oid"))
    base_contexts: Contexts = Field(
        default=None, validation_alias=AliasPath("baseRef", "target", *_ROLLUP, "nodes")
    )
    rule: list[str] | None = Field(
        default=None, validation_alias=AliasPath("baseRef", "refUpdateRule", "requiredStatusCheckContexts")
    )
    rules: list[_Rule | None] | None = Field(
        default=None, validation_alias=AliasPath("baseRef", "rules", "nodes")
    )

    def may_have_others_commits(self, account: str) -> bool:
        """Whether somebody else than the account of this number may have pushed after it.

        A commit is shown before those that it was made from. Below our merge of the base, the base's commits
        can hide what somebody pushed to the branch before.
        """
        ours = [place for place, commit in enumerate(self.commits) if commit.is_by(account)]
        if len(self.commits) >= _COMMITS and any(len(self.commits[place].parents) > 1 for place in ours):
            return True
        return len(ours) <= max(ours, default=len(self.commits) - 1)

    @property
    def required(self) -> frozenset[str] | None:
        """The names of the checks that a rule requires; `None` if the rules could not be read."""
        if self.rules is None:
            return frozenset(self.rule) if self.rule is not None else None
        named = (check.get("context", "") for rule in self.rules if rule for check in rule.checks)
        return frozenset((*named, *(self.rule or ())))

    @property
    def left_out(self) -> frozenset[Part]:
        left_out = {
            Part.COMMENTS: self.all_comments > len(self.comments),
            Part.REVIEWS: self.all_reviews > len(self.reviews),
            Part.THREADS: self.all_threads > len(self.threads),
            Part.REMARKS: any(one.all_comments > len(one.comments) for one in self.threads),
            Part.CHECKS: self.all_contexts > len(self.contexts or ()),
            Part.EVENTS: self.more_events,
        }
        return frozenset(part for part, lacks in left_out.items() if lacks)


def actor_of(account: Account | None, *, member: bool | None = None) -> Actor:
    """Convert an account. GraphQL leaves out the `[bot]` at the end of an App's login in the REST API."""
    if account is None:
        return Actor("", "ghost")
    bot = account.kind == "Bot"
    login = f"{account.login}[bot]" if bot and not account.login.endswith("[bot]") else account.login
    number = "" if account.id is None else str(account.id)
    return Actor(number, login, ActorKind.BOT if bot else ActorKind.PERSON, member)


def thread_of(found: ThreadResponse) -> ReviewThread | None:
    """Convert a thread, without drafts of remarks; return `None` if it has no other remarks."""
    remarks = tuple(comment.remark() for comment in found.comments if comment.state != "PENDING")
    if not remarks:
        return None
    return ReviewThread(found.id, found.path, found.line, found.resolved, found.outdated, remarks)
