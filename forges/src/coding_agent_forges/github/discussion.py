"""Reads a pull request's reviews, threads and failed checks from GitHub.

The REST API shows everything except whether a thread is resolved and whether a review was edited. Only the
GraphQL API shows these two.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.values import (
    CHECKS_LIMIT,
    Checks,
    Comment,
    Discussion,
    FailedCheck,
    Review,
    Thread,
)
from coding_agent_core.task.model import Item
from pydantic import AliasPath, Field

from coding_agent_forges.rest.calls import Call, Read, ResponseModel, Text, path
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.responses import GHOST, Author, CommentResponse

_logger = logging.getLogger("coding_agent.forge")
_TIME = re.compile(r"^\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z ?", re.MULTILINE)
"""Matches the time that begins each line of a job's log."""
_ERROR = "##[error]"
_PAGES = 5
"""Maximum number of pages of reviews, comments, threads and files that are read: the newest 500 entries."""
_CHECK_PAGES = 10
_UNKNOWN = "Cannot tell which review threads of %s are resolved, and which reviews were edited: %s"
_FAILED = ("failure", "timed_out", "startup_failure", "error")
_VERDICTS = {
    "APPROVED": "approved",
    "CHANGES_REQUESTED": "changes requested",
    "COMMENTED": "commented",
    "DISMISSED": "dismissed",
}
"""The verdicts of submitted reviews. `PENDING` reviews are drafts of our own account."""
_STATES = """
query($owner: String!, $name: String!, $number: Int!, $before: String) {
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      reviewThreads(last: 100, before: $before) {
        pageInfo { hasPreviousPage startCursor }
        nodes { isResolved isOutdated comments(first: 1) { nodes { fullDatabaseId } } }
      }
      reviews(last: 100) { nodes { fullDatabaseId lastEditedAt } }
    }
  }
}
"""


class _Review(ResponseModel):
    id: int
    user: Author = GHOST
    body: Text = ""
    state: str
    submitted_at: datetime | None = None


class _ReviewComment(CommentResponse):
    """A comment of a thread. `line` is null if the thread is outdated or about a whole file."""

    in_reply_to_id: int | None = None
    pull_request_review_id: int | None = None
    path: str
    diff_hunk: str = ""
    line: int | None = None
    start_line: int | None = None
    original_line: int | None = None
    original_start_line: int | None = None
    side: Literal["LEFT", "RIGHT"] = "RIGHT"
    subject_type: str = "line"


class _File(ResponseModel):
    filename: str
    previous_filename: str | None = None


class _ThreadState(ResponseModel):
    """The state of a thread, which only GraphQL shows.

    Attributes:
        first: the id of the first comment. GitHub sends it as text, because it can have more than 32 bits.
    """

    resolved: bool = Field(validation_alias="isResolved")
    outdated: bool = Field(validation_alias="isOutdated")
    first: int | None = Field(
        default=None, validation_alias=AliasPath("comments", "nodes", 0, "fullDatabaseId")
    )


class _ThreadPage(ResponseModel):
    nodes: list[_ThreadState | None] | None = None
    more: bool = Field(validation_alias=AliasPath("pageInfo", "hasPreviousPage"))
    before: str | None = Field(default=None, validation_alias=AliasPath("pageInfo", "startCursor"))


class _ReviewState(ResponseModel):
    """The state of a review, which only GraphQL shows."""

    id: int | None = Field(default=None, validation_alias="fullDatabaseId")
    edited_at: datetime | None = Field(default=None, validation_alias="lastEditedAt")


class GraphqlError(ResponseModel):
    """An error of GraphQL, which reports errors with status 200."""

    message: str
    type: Text = ""


def graphql_error(errors: Sequence[GraphqlError], what: str) -> ForgeError:
    """Return our error for a response without data. GitHub does not document its types of errors."""
    message = f"{what}: {'; '.join(error.message for error in errors) or 'the answer is empty'}"
    types = {error.type for error in errors}
    if "NOT_FOUND" in types:
        return ForgeNotFoundError(message)
    if types & {"FORBIDDEN", "INSUFFICIENT_SCOPES", "UNPROCESSABLE"}:
        return ForgeRefusedError(message)
    return ForgeUnavailableError(message)


@dataclass(frozen=True)
class _States:
    """The states of threads and reviews that could be read.

    Attributes:
        threads: the states of threads, by the id of the thread's first comment.
        edits: when reviews were last edited, by their ids; `None` for never.
    """

    threads: dict[int, _ThreadState]
    edits: dict[int, datetime | None]


class _StateResponse(ResponseModel):
    page: _ThreadPage | None = Field(
        default=None, validation_alias=AliasPath("data", "repository", "pullRequest", "reviewThreads")
    )
    reviews: list[_ReviewState | None] | None = Field(
        default=None, validation_alias=AliasPath("data", "repository", "pullRequest", "reviews", "nodes")
    )
    errors: tuple[GraphqlError, ...] = ()


class _Output(ResponseModel):
    title: Text = ""
    summary: Text = ""
    text: Text = ""


class _CheckRun(ResponseModel):
    id: int
    name: str
    conclusion: str | None = None
    html_url: Text = ""
    output: _Output = _Output()
    app: str | None = Field(default=None, validation_alias=AliasPath("app", "slug"))


class _CheckRuns(ResponseModel):
    check_runs: list[_CheckRun]


class _Run(ResponseModel):
    id: int
    name: Text = ""
    conclusion: str | None = None


class _Runs(ResponseModel):
    workflow_runs: list[_Run]


class _WorkflowJob(ResponseModel):
    id: int
    name: str
    conclusion: str | None = None
    html_url: Text = ""


class _Jobs(ResponseModel):
    jobs: list[_WorkflowJob]


class _Status(ResponseModel):
    context: str
    state: str
    description: Text = ""
    target_url: Text = ""


class _Statuses(ResponseModel):
    statuses: list[_Status]


@dataclass(frozen=True)
class GitHubDiscussion:
    """The reader of the reviews, threads and failed checks of one pull request."""

    client: ForgeClient
    item: Item

    async def read(self) -> Discussion:
        reviews: list[_Review] = []
        call = Call("GET", self._pull("reviews"), f"reading the reviews of {self.item.display}")
        pages = self.client.newest_first(list[_Review], call, limit=_PAGES)
        async for page in pages:
            reviews = page + reviews
        comments = await self._comments()
        if not reviews and not comments.values:
            return Discussion()
        states = await self._states()
        renames = await self._renames() if comments.values else {}
        submitted = {review.id: review.submitted_at for review in reviews if review.submitted_at}
        threads: dict[int, list[_ReviewComment]] = {}
        for comment in reversed(comments.values):
            threads.setdefault(comment.in_reply_to_id or comment.id, []).append(comment)
        return Discussion(
            reviews=tuple(
                Review(
                    review.user.login,
                    _VERDICTS[review.state],
                    review.body,
                    review.submitted_at,
                    updated_at=(states.edits[review.id] or review.submitted_at)
                    if review.id in states.edits
                    else None,
                )
                for review in reviews
                if review.state in _VERDICTS and review.submitted_at
            ),
            threads=tuple(
                thread_of(found, states.threads.get(first), submitted).renamed(renames)
                for first, found in threads.items()
            ),
            left_out=(
                *([] if pages.complete else ["older reviews"]),
                *([] if comments.complete else ["older comments in threads"]),
            ),
        )

    async def _comments(self) -> Read[_ReviewComment]:
        """Return the comments on lines; the newest is first."""
        what = f"reading the review comments of {self.item.display}"
        call = Call("GET", self._pull("comments"), what, {"sort": "created", "direction": "desc"})
        return await self.client.entries(list[_ReviewComment], call, limit=_PAGES)

    async def _states(self) -> _States:
        states = _States({}, {})
        owner, name = self.item.repository.split("/", 1)
        before: str | None = None
        for _ in range(_PAGES):
            call = Call(
                "POST",
                graphql_url(self.client.api_url),
                f"reading the states of the reviews of {self.item.display}",
                json={
                    "query": _STATES,
                    "variables": {"owner": owner, "name": name, "number": self.item.number, "before": before},
                },
                repository=self.item.repository,
            )
            try:
                answer = await self.client.get(_StateResponse, call)
            except ForgeError as error:
                _logger.warning(_UNKNOWN, self.item.display, error)
                return states
            if answer.page is None:
                why = "; ".join(error.message for error in answer.errors) or "the answer is empty"
                _logger.warning(_UNKNOWN, self.item.display, why)
                return states
            states.threads.update(
                {thread.first: thread for thread in answer.page.nodes or () if thread and thread.first}
            )
            states.edits.update({one.id: one.edited_at for one in answer.reviews or () if one and one.id})
            if not answer.page.more:
                break
            before = answer.page.before
        return states

    async def _renames(self) -> dict[str, str]:
        call = Call("GET", self._pull("files"), f"reading the files of {self.item.display}")
        files = await self.client.entries(list[_File], call, limit=_PAGES)
        return {file.previous_filename: file.filename for file in files.values if file.previous_filename}

    async def failed_checks(self, sha: str) -> Checks:
        """Return the failed check runs and commit statuses of a commit.

        Fine-grained tokens cannot have the permission *Checks*. With such a token, the jobs of GitHub Actions
        are read instead, for which the permission *Actions* (read) is enough.
        """
        read: list[Read[FailedCheck]] = []
        unreadable: list[str] = []
        try:
            read.append(await self._check_runs(sha))
        except ForgeError as error:
            unreadable.append(f"the check runs ({error.status or 'no answer'})")
            try:
                read.append(await self._jobs(sha))
            except ForgeError as also:
                unreadable.append(f"the jobs of GitHub Actions ({also.status or 'no answer'})")
        try:
            read.append(await self._statuses(sha))
        except ForgeError as error:
            unreadable.append(f"the commit statuses ({error.status or 'no answer'})")
        return Checks.first(
            [check for part in read for check in part.values],
            unreadable,
            [what for part in read for what in part.left_out],
        )

    async def _check_runs(self, sha: str) -> Read[FailedCheck]:
        call = Call(
            "GET",
            self._repository("commits", sha, "check-runs"),
            f"reading the checks of {self.item.display}",
        )
        pages = self.client.pages(_CheckRuns, call, limit=_CHECK_PAGES)
        failed = [run async for page in pages for run in page.check_runs if run.conclusion in _FAILED]
        checks = [
            FailedCheck(
                name=run.name,
                result=run.conclusion or "",
                url=run.html_url,
                summary=_joined(run.output.title, run.output.summary, run.output.text),
                # A job of GitHub Actions has the id of its check run.
                log=await self.log(run.id) if run.app == "github-actions" and index < CHECKS_LIMIT else "",
            )
            for index, run in enumerate(failed)
        ]
        return Read(tuple(checks), () if pages.complete else ("older check runs",))

    async def _jobs(self, sha: str) -> Read[FailedCheck]:
        what = f"reading the workflow runs of {self.item.display}"
        call = Call("GET", self._repository("actions", "runs"), what, {"head_sha": sha})
        pages = self.client.pages(_Runs, call, limit=1)
        runs = [run async for page in pages for run in page.workflow_runs if run.conclusion in _FAILED]
        read = [await self._jobs_of(run) for run in runs[:CHECKS_LIMIT]]
        complete = pages.complete and len(runs) <= CHECKS_LIMIT and all(one.complete for one in read)
        checks = tuple(check for one in read for check in one.values)
        return Read(checks, () if complete else ("older jobs of GitHub Actions",))

    async def _jobs_of(self, run: _Run) -> Read[FailedCheck]:
        what = f"reading the jobs of {self.item.display}"
        call = Call("GET", self._repository("actions", "runs", run.id, "jobs"), what, {"filter": "latest"})
        pages = self.client.pages(_Jobs, call, limit=1)
        jobs = [job async for page in pages for job in page.jobs if job.conclusion in _FAILED]
        checks = [
            FailedCheck(
                name=" / ".join(filter(None, (run.name, job.name))),
                result=job.conclusion or "",
                url=job.html_url,
                log=await self.log(job.id) if index < CHECKS_LIMIT else "",
            )
            for index, job in enumerate(jobs)
        ]
        return Read(tuple(checks), () if pages.complete else ("older jobs",))

    async def log(self, job: int | str) -> str:
        """Return the end of a job's log, up to its error; empty if the log cannot be read."""
        what = f"reading the log of a check of {self.item.display}"
        call = Call("GET", self._repository("actions", "jobs", job, "logs"), what)
        return until_error(await self.client.log(call, _TIME))

    async def _statuses(self, sha: str) -> Read[FailedCheck]:
        what = f"reading the commit statuses of {self.item.display}"
        call = Call("GET", self._repository("commits", sha, "status"), what)
        pages = self.client.pages(_Statuses, call, limit=_CHECK_PAGES)
        checks = [
            FailedCheck(status.context, status.state, status.target_url, status.description)
            async for page in pages
            for status in page.statuses
            if status.state in _FAILED
        ]
        return Read(tuple(checks), () if pages.complete else ("older commit statuses",))

    def _pull(self, *rest: str | int) -> str:
        return self._repository("pulls", self.item.number, *rest)

    def _repository(self, *rest: str | int) -> str:
        return path("repos", *self.item.repository.split("/", 1), *rest)


def thread_of(
    comments: Sequence[_ReviewComment],
    state: _ThreadState | None,
    submitted: Mapping[int, datetime],
) -> Thread:
    """Return the review thread with these comments.

    Args:
        comments: the comments; the oldest is first.
        state: the thread's state, if it is known.
        submitted: when reviews were submitted, by their ids; others can read their comments from then on.
    """
    first = comments[0]
    on_file = first.subject_type == "file"
    outdated = state.outdated if state else first.line is None and not on_file
    use_original = first.line is None
    return Thread(
        path=first.path,
        line=None if on_file else first.original_line if use_original else first.line,
        start_line=None if on_file else first.original_start_line if use_original else first.start_line,
        removed=first.side == "LEFT",
        hunk="" if on_file else first.diff_hunk,
        resolved=state.resolved if state else None,
        outdated=outdated,
        comments=tuple(_published(found, submitted) for found in comments),
    )


def _published(found: _ReviewComment, submitted: Mapping[int, datetime]) -> Comment:
    comment = found.comment()
    since = submitted.get(found.pull_request_review_id or 0, comment.created_at)
    return replace(comment, created_at=max(comment.created_at, since))


def graphql_url(api_url: str) -> str:
    """Return the URL of the GraphQL API: `https://api.github.com/graphql`, or `https://HOST/api/graphql`.

    https://docs.github.com/en/enterprise-server/graphql/guides/forming-calls-with-graphql
    """
    return f"{api_url.rstrip('/').removesuffix('/v3')}/graphql"


def _joined(*texts: str) -> str:
    return "\n\n".join(text.strip() for text in texts if text.strip())


def until_error(log: str) -> str:
    """Return a job's log up to its error, without the output of the clean-up after a failed step."""
    before, error, after = log.rpartition(_ERROR)
    return f"{before}{error}{after.partition(chr(10))[0]}".rstrip() if error else log
