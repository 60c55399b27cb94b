"""Reads the open merge requests of our account from GitLab as snapshots.

A list has no pipeline and an old merge status, so each scan reads each merge request by itself. Its
discussions, events and jobs are read again only if that response shows that they have changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeNotFoundError
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
    Part,
    Remark,
    ReviewThread,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item
from pydantic import AliasPath, Field

from coding_agent_forges.gitlab.settings import GitLab
from coding_agent_forges.rest.calls import Call, Read, ResponseModel, Text, User, path
from coding_agent_forges.rest.client import ForgeClient, answered_at
from coding_agent_forges.rest.open_changes import SET_ASIDE, read_each
from coding_agent_forges.rest.responses import GHOST, Author, CommentResponse, ItemResponse, Label

_LIST_PAGES = 2
"""Maximum number of pages of our open merge requests: 200 merge requests."""
_DISCUSSION_PAGES = 30
"""Maximum number of pages of discussions, each note that GitLab itself wrote among them: 3,000."""
_EVENT_PAGES = 10
_JOB_PAGES = 10
_BOT = re.compile(r"(?:project|group)_\d+_bot\w*|service_account_\w+")
"""Matches the logins that GitLab gives to the accounts of access tokens and to service accounts."""
DRAFT = "Draft: "
"""The beginning of a draft's title."""
_DRAFT = re.compile(r"(?:\s*(?:\[draft\]|\(draft\)|draft:))+\s*", re.IGNORECASE)
"""Matches all beginnings of titles that GitLab accepts (https://docs.gitlab.com/user/project/merge_requests/drafts/)."""
_DRAFT_NOTE = re.compile(r"marked this merge request as \*\*(draft|ready)\*\*")
_PUSHED = re.compile(r"added \d+ commits?\b")
_VERDICT_NOTES = {
    "approved this merge request": ChangeEventKind.APPROVED,
    "requested changes": ChangeEventKind.CHANGES_REQUESTED,
}
_ASKED_NOTE = re.compile(r"requested review from (.+?)(?: and removed |$)")
_LOGIN = re.compile(r"@([\w.-]+)")
_UNKNOWN = frozenset({"checking", "preparing", "unchecked", "approvals_syncing"})
_VERDICTS = {
    "approved": ReviewVerdict.APPROVED,
    "requested_changes": ReviewVerdict.CHANGES_REQUESTED,
    "reviewed": ReviewVerdict.COMMENTED,
}
_ASKED = frozenset({"unreviewed", "review_started"})
_ENDED = frozenset({"success", "failed", "canceled", "skipped", "manual"})
_CONCLUSIONS = {
    "success": CheckConclusion.SUCCESS,
    "canceled": CheckConclusion.CANCELLED,
    "skipped": CheckConclusion.SKIPPED,
    "manual": CheckConclusion.ACTION_REQUIRED,
}
_INFRASTRUCTURE = frozenset(
    {
        "unknown_failure",
        "api_failure",
        "stuck_or_timeout_failure",
        "no_matching_runner",
        "runner_system_failure",
        "runner_unsupported",
        "stale_schedule",
        "scheduler_failure",
        "data_integrity_failure",
        "archived_failure",
        "unmet_prerequisites",
        "ci_quota_exceeded",
        "builds_disabled",
        "environment_creation_failure",
        "ip_restriction_failure",
    }
)
"""Values of `failure_reason` that say that a job did not get to run (`CommitStatus::FailureReason`)."""
_STATE_EVENTS = {"reopened": ChangeEventKind.REOPENED}
_LABEL_EVENTS = {"add": ChangeEventKind.LABELED, "remove": ChangeEventKind.UNLABELED}


class _Refs(ResponseModel):
    base_sha: str | None = None
    start_sha: str | None = None
    head_sha: str | None = None


class _Pipeline(ResponseModel):
    id: int
    project_id: int
    sha: str
    ref: str
    status: str
    source: str = ""
    updated_at: datetime | None = None


class _Listed(ResponseModel):
    """A merge request in a list, with the fields that identify it."""

    iid: int
    project_id: int
    reference: str = Field(default="", validation_alias=AliasPath("references", "full"))

    @property
    def repository(self) -> str:
        return self.reference.rpartition("!")[0]


class _MergeRequest(_Listed, ItemResponse):
    """A merge request; `sha` is null while GitLab has not yet examined its branch."""

    draft: bool = False
    created_at: datetime
    sha: Text = ""
    source_branch: str
    target_branch: str
    detailed_merge_status: str = ""
    has_conflicts: bool = False
    blocking_discussions_resolved: bool = True
    user_notes_count: int = 0
    diff_refs: _Refs | None = None
    head_pipeline: _Pipeline | None = None

    @property
    def mergeability(self) -> Mergeability:
        if self.detailed_merge_status in _UNKNOWN:
            return Mergeability.UNKNOWN
        conflicts = self.has_conflicts or self.detailed_merge_status == "conflict"
        return Mergeability.CONFLICT if conflicts else Mergeability.MERGES

    @property
    def change_state(self) -> ChangeState:
        if self.state == "merged":
            return ChangeState.MERGED
        return ChangeState.CLOSED if self.state == "closed" else ChangeState.OPEN

    @property
    def pipeline(self) -> _Pipeline | None:
        """The newest commit's pipeline. The pipeline of a merged result has a commit of its own."""
        found = self.head_pipeline
        merged = found is not None and found.ref.startswith("refs/merge-requests/")
        return found if found is not None and (found.sha == self.sha or merged) else None


class _Position(_Refs):
    """The position of a note. Notes on images and whole files have no line."""

    old_path: Text = ""
    new_path: Text = ""
    old_line: int | None = None
    new_line: int | None = None


class _Note(CommentResponse):
    resolvable: bool = False
    resolved: bool = False
    position: _Position | None = None


class _Discussion(ResponseModel):
    id: str
    individual_note: bool = False
    notes: list[_Note]


class _Reviewer(ResponseModel):
    user: Author = GHOST
    state: str


class _Event(ResponseModel):
    """An event: a label was applied or removed, or the state of the merge request changed."""

    user: User | None = None
    created_at: datetime
    action: str = ""
    state: str = ""
    label: Label | None = None


class _Version(ResponseModel):
    head_commit_sha: str
    created_at: datetime


class _Commit(ResponseModel):
    sha: str = Field(default="", validation_alias=AliasPath("commit", "id"))


class _Job(ResponseModel):
    """A job of a pipeline, or a status of a commit, which has neither a stage nor a reason."""

    id: int
    name: str
    stage: Text = ""
    status: str
    allow_failure: bool = False
    failure_reason: Text = ""
    description: Text = ""
    pipeline_id: int | None = None
    url: Text = Field(default="", validation_alias="web_url")
    target_url: Text = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    author: User | None = None

    @property
    def full_name(self) -> str:
        return f"{self.stage} / {self.name}" if self.stage else self.name

    @property
    def conclusion(self) -> CheckConclusion | None:
        if self.status not in _ENDED:
            return None
        if self.allow_failure and self.status in ("failed", "manual"):
            return CheckConclusion.NEUTRAL
        if self.status != "failed":
            return _CONCLUSIONS[self.status]
        if self.failure_reason == "job_execution_timeout":
            return CheckConclusion.TIMED_OUT
        infrastructure = self.failure_reason in _INFRASTRUCTURE
        return CheckConclusion.INFRASTRUCTURE if infrastructure else CheckConclusion.FAILURE

    def result(self, kind: CheckKind, event: str, earlier: list[_Job]) -> CheckResult:
        running = CheckState.RUNNING if self.status in ("running", "canceling") else CheckState.WAITING
        conclusion = self.conclusion
        return CheckResult(
            id=str(self.id) if kind is CheckKind.JOB else "",
            name=self.full_name,
            kind=kind,
            state=running if conclusion is None else CheckState.COMPLETED,
            conclusion=conclusion,
            url=self.url or self.target_url,
            # `failure_reason` is the same for whatever a job's commands found, and so says nothing here.
            errors="" if conclusion is CheckConclusion.SUCCESS else self.description,
            event=event,
            started_at=self.started_at or self.created_at,
            completed_at=self.finished_at if conclusion is not None else None,
            earlier=tuple(found for job in earlier if (found := job.conclusion) is not None),
            creator=actor_of(self.author).id if kind is CheckKind.STATUS and self.author else None,
        )


@dataclass(frozen=True)
class _Discussed:
    """The discussion and the events of a merge request, read in one of its states."""

    of: tuple[object, ...]
    discussions: tuple[_Discussion, ...]
    reviewers: tuple[_Reviewer, ...]
    events: tuple[_Event, ...]
    head_at: datetime | None
    left_out: frozenset[Part]


@dataclass(frozen=True)
class _Checked:
    """The checks of a pipeline, read in one of its states."""

    of: tuple[object, ...]
    checks: Read[CheckResult]


@dataclass
class KnownMergeRequest:
    """The cached responses about one merge request, and the base's tip at that time."""

    discussed: _Discussed | None = None
    checked: _Checked | None = None
    base_commit: str = ""
    base_checks: Read[CheckResult] = field(default_factory=Read)


BaseChecks = dict[tuple[int, str], Read[CheckResult]]
"""The checks of commits at the tips of bases, by project and commit."""


@dataclass
class GitLabChanges:
    """The reader of our account's merge requests.

    Attributes:
        own: our account.
        known: cached responses by the identity of the merge request.
        base_checks: cached checks of bases.
    """

    client: ForgeClient
    settings: GitLab
    own: User
    known: dict[str, KnownMergeRequest]
    base_checks: BaseChecks
    _tips: dict[tuple[int, str], str] = field(default_factory=dict)
    _bases: BaseChecks = field(default_factory=dict)

    async def open(self) -> OpenChanges:
        """Return our open merge requests. A merge request without changes costs one request."""
        where = "/merge_requests"
        if self.settings.group_id and not self.settings.projects:
            where = path("groups", self.settings.group_id, "merge_requests")
        params = {"scope": "created_by_me", "state": "opened", "order_by": "updated_at", "sort": "desc"}
        call = Call("GET", where, "looking for our open merge requests", params)
        listed = await self.client.entries(list[_Listed], call, limit=_LIST_PAGES)
        items = tuple(self._item(one) for one in listed.values if self._in_scope(one))
        found = await read_each(Read(items, listed.left_out), self.known, self._read, new=KnownMergeRequest)
        self.base_checks.clear()
        self.base_checks.update(self._bases)
        return found

    async def one(self, item: Item) -> ChangeSnapshot:
        """Return one merge request, without using cached responses."""
        return await replace(self, base_checks={})._read(item, KnownMergeRequest())

    def _in_scope(self, listed: _Listed) -> bool:
        projects = {str(project).casefold() for project in self.settings.projects}
        return not projects or not projects.isdisjoint((str(listed.project_id), listed.repository.casefold()))

    def _item(self, listed: _Listed) -> Item:
        return Item(
            platform=Platform.GITLAB,
            host=self.client.host,
            repository=listed.repository,
            kind=ItemKind.CHANGE,
            number=listed.iid,
            project_id=listed.project_id,
        )

    async def _read(self, item: Item, cache: KnownMergeRequest) -> ChangeSnapshot:
        project = path("projects", item.repository if item.project_id is None else item.project_id)
        where = project + path("merge_requests", item.number)
        call = Call("GET", where, f"reading {item.display}")
        response = await self.client.send(call)
        merge_request = self.client.parse(_MergeRequest, response, call)
        state: tuple[object, ...] = (
            merge_request.updated_at,
            merge_request.user_notes_count,
            merge_request.sha,
            # Resolving a thread does not change `updated_at`. Nor does "request changes" in old versions.
            merge_request.blocking_discussions_resolved,
            merge_request.detailed_merge_status == "requested_changes",
        )
        discussed = earlier = cache.discussed
        if discussed is None or discussed.of != state:
            discussed = cache.discussed = await self._discussed(item, where, merge_request, state)
        if discussed is not earlier or merge_request.mergeability is Mergeability.CONFLICT:
            cache.base_commit = await self._tip(item, merge_request)
        problem = ""
        try:
            await self._check(item, merge_request, cache)
        except ForgeError as error:
            if error.status not in SET_ASIDE:
                raise
            cache.checked, cache.base_checks = None, Read()
            problem = f"{self.client.host} does not show the pipeline ({error.status})"
        read_at = answered_at(response, self.client.clock)
        return self._snapshot(item, merge_request, cache, discussed, problem=problem, read_at=read_at)

    async def _discussed(
        self, item: Item, where: str, merge_request: _MergeRequest, state: tuple[object, ...]
    ) -> _Discussed:
        async def events(name: str) -> Read[_Event]:
            call = Call("GET", f"{where}/{name}", f"reading the events of {item.display}")
            return await self.client.entries(list[_Event], call, limit=_EVENT_PAGES)

        call = Call("GET", f"{where}/discussions", f"reading the discussions of {item.display}")
        discussions = await self.client.entries(list[_Discussion], call, limit=_DISCUSSION_PAGES)
        call = Call("GET", f"{where}/reviewers", f"reading the reviewers of {item.display}")
        reviewers = await self.client.entries(list[_Reviewer], call)
        call = Call("GET", f"{where}/versions", f"reading the versions of {item.display}")
        versions = await self.client.entries(list[_Version], call)  # newest first
        own = [
            version.created_at for version in versions.values if version.head_commit_sha == merge_request.sha
        ]
        labels, states = await events("resource_label_events"), await events("resource_state_events")
        lacking: dict[Part, Read[Any]] = {
            Part.COMMENTS: discussions,
            Part.THREADS: discussions,
            Part.REVIEWS: reviewers,
            Part.REVIEWERS: reviewers,
            Part.EVENTS: Read(left_out=(*labels.left_out, *states.left_out, *discussions.left_out)),
        }
        return _Discussed(
            state,
            discussions.values,
            reviewers.values,
            (*labels.values, *states.values),
            own[-1] if own else None,
            frozenset(part for part, read in lacking.items() if not read.complete),
        )

    async def _tip(self, item: Item, merge_request: _MergeRequest) -> str:
        """Return the commit at the base's tip. It is read once for all merge requests into this base."""
        base = merge_request.project_id, merge_request.target_branch
        if base not in self._tips:
            where = path(
                "projects", merge_request.project_id, "repository", "branches", merge_request.target_branch
            )
            call = Call("GET", where, f"reading the base of {item.display}")
            try:
                self._tips[base] = (await self.client.get(_Commit, call)).sha
            except ForgeNotFoundError:
                self._tips[base] = ""
        return self._tips[base]

    async def _check(self, item: Item, merge_request: _MergeRequest, cache: KnownMergeRequest) -> None:
        """Read the checks of head and base. Those of a pipeline that has ended are not read again."""
        pipeline = merge_request.pipeline
        if pipeline is None:
            cache.checked, cache.base_checks = None, Read()
            return
        state = pipeline.id, pipeline.status, pipeline.updated_at
        if cache.checked is None or cache.checked.of != state or pipeline.status not in _ENDED:
            cache.checked = _Checked(state, await self._checks(item, pipeline))
        failed = any(
            check.conclusion in (CheckConclusion.FAILURE, CheckConclusion.TIMED_OUT)
            for check in cache.checked.checks.values
        )
        cache.base_checks = Read()
        if failed:
            cache.base_commit = await self._tip(item, merge_request)
            cache.base_checks = await self._base_checks(item, merge_request, cache.base_commit)

    async def _checks(self, item: Item, pipeline: _Pipeline) -> Read[CheckResult]:
        project = path("projects", pipeline.project_id)
        what = f"reading the jobs of {item.display}"
        where = project + path("pipelines", pipeline.id, "jobs")
        call = Call("GET", where, what, {"include_retried": "true"})
        runs: dict[str, list[_Job]] = {}
        jobs = await self.client.entries(list[_Job], call, limit=_JOB_PAGES)
        for job in sorted(jobs.values, key=lambda job: job.id):
            runs.setdefault(job.full_name, []).append(job)
        checks = [of[-1].result(CheckKind.JOB, pipeline.source, of[:-1]) for of in runs.values()]
        ids = {job.id for job in jobs.values}
        statuses = await self._statuses(item, project, pipeline.sha)
        for status in statuses.values:
            # Jobs of other pipelines of the same commit do not count for the merge request.
            if status.id not in ids and status.pipeline_id in (None, pipeline.id):
                checks.append(status.result(CheckKind.STATUS, "", []))
        return Read(tuple(checks), (*jobs.left_out, *statuses.left_out))

    async def _statuses(self, item: Item, project: str, sha: str) -> Read[_Job]:
        where = project + path("repository", "commits", sha, "statuses")
        call = Call("GET", where, f"reading the commit statuses of {item.display}")
        return await self.client.entries(list[_Job], call, limit=_JOB_PAGES)

    async def _base_checks(self, item: Item, merge_request: _MergeRequest, sha: str) -> Read[CheckResult]:
        """Return the checks of the newest pipeline for the base's tip.

        They are cached for all merge requests into this base as soon as all of them have ended.
        """
        base = merge_request.project_id, sha
        if sha and base not in self._bases:
            checks = self.base_checks.get(base, Read())
            if not checks.values or any(one.state is not CheckState.COMPLETED for one in checks.values):
                project = path("projects", merge_request.project_id)
                params: dict[str, str | int] = {"sha": sha, "ref": merge_request.target_branch, "per_page": 1}
                what = f"reading the pipeline of the base of {item.display}"
                newest = await self.client.get(
                    list[_Pipeline], Call("GET", f"{project}/pipelines", what, params)
                )
                checks = await self._checks(item, newest[0]) if newest else Read()
            self._bases[base] = checks
        return self._bases.get(base, Read())

    def _snapshot(
        self,
        item: Item,
        merge_request: _MergeRequest,
        cache: KnownMergeRequest,
        discussed: _Discussed,
        *,
        problem: str,
        read_at: datetime,
    ) -> ChangeSnapshot:
        checks = cache.checked.checks if cache.checked else Read[CheckResult]()
        threads = [one for one in discussed.discussions if not one.individual_note]
        single = [one.notes[0] for one in discussed.discussions if one.individual_note and one.notes]
        return ChangeSnapshot(
            item=self._item(merge_request) if merge_request.repository else item,
            url=merge_request.url,
            own=actor_of(self.own),
            read_at=read_at,
            author=actor_of(merge_request.author),
            title=without_draft(merge_request.title),
            state=merge_request.change_state,
            draft=merge_request.draft,
            head_branch=merge_request.source_branch,
            head_commit=merge_request.sha,
            base_branch=merge_request.target_branch,
            base_commit=cache.base_commit,
            created_at=merge_request.created_at,
            updated_at=merge_request.updated_at or merge_request.created_at,
            mergeability=merge_request.mergeability,
            head_at=discussed.head_at,
            labels=self.settings.all_spelled(merge_request.label_names),
            threads=tuple(thread for one in threads if (thread := _thread(one, merge_request)) is not None),
            reviews=tuple(
                SubmittedReview(str(one.user.id), actor_of(one.user), _VERDICTS[one.state], "", None)
                for one in discussed.reviewers
                if one.state in _VERDICTS
            ),
            comments=tuple(_remark(note, merge_request) for note in single if note.is_public),
            checks=checks.values,
            checks_problem=problem,
            base_checks=cache.base_checks.values,
            requested_reviewers=tuple(
                actor_of(one.user) for one in discussed.reviewers if one.state in _ASKED
            ),
            events=_events(discussed.events, [note for note in single if note.system]),
            left_out=discussed.left_out
            | (frozenset() if checks.complete else {Part.CHECKS})
            | (frozenset() if cache.base_checks.complete else {Part.BASE_CHECKS}),
        )


def without_draft(title: str) -> str:
    """Return a title without the beginning that marks a draft, unless there is nothing else."""
    found = _DRAFT.match(title)
    return (title[found.end() :] if found is not None else "") or title


def actor_of(user: User) -> Actor:
    """Convert an account. Only the login shows that an account of GitLab is a bot."""
    if user == GHOST:
        return Actor("", user.login)
    kind = ActorKind.BOT if _BOT.fullmatch(user.login) else ActorKind.PERSON
    return Actor(str(user.id), user.login, kind)


def _remark(note: _Note, found: _MergeRequest) -> Remark:
    return Remark(
        id=str(note.id),
        author=actor_of(note.author),
        published_at=note.created_at,
        body=note.body,
        commit=(note.position.head_sha if note.position else None) or "",
        url=f"{found.url}#note_{note.id}",
    )


def _thread(discussion: _Discussion, found: _MergeRequest) -> ReviewThread | None:
    """Convert a thread. Return `None` if it has only internal notes.

    With each push, GitLab updates the position of a thread as long as the thread's lines exist. So a position
    in an older version means that the lines were changed (`DiffNote#active?` in GitLab's source).
    """
    remarks = tuple(_remark(note, found) for note in discussion.notes if note.is_public)
    if not remarks:
        return None
    position = discussion.notes[0].position
    resolvable = [note for note in discussion.notes if note.resolvable]
    at: dict[str, Any] = {"path": "", "line": None, "outdated": False}
    if position is not None:
        refs = _Refs(base_sha=position.base_sha, start_sha=position.start_sha, head_sha=position.head_sha)
        line = position.old_line if position.new_line is None else position.new_line
        at = {
            "path": position.new_path or position.old_path,
            "line": line,
            "outdated": refs != found.diff_refs,
        }
    resolved = bool(resolvable) and all(note.resolved for note in resolvable)
    return ReviewThread(id=discussion.id, resolved=resolved, remarks=remarks, **at)


def _events(recorded: Sequence[_Event], notes: list[_Note]) -> tuple[ChangeEvent, ...]:
    """Return the events, including those that only GitLab's own notes show: pushes, drafts and reviews."""
    events = [
        ChangeEvent(kind, actor_of(note.author), note.created_at, reviewer=reviewer, number=note.id)
        for note in notes
        for kind, reviewer in _noted(note.body)
    ]
    for event in recorded:
        what = _LABEL_EVENTS.get(event.action) or _STATE_EVENTS.get(event.state)
        if what is not None:
            actor = actor_of(event.user) if event.user else None
            label = event.label.name if event.label else ""
            events.append(ChangeEvent(what, actor, event.created_at, label=label))
    return tuple(sorted(events, key=lambda event: event.at))


def _noted(note: str) -> Iterator[tuple[ChangeEventKind, str]]:
    """Yield the kinds of events that one of GitLab's own notes reports, each with the requested reviewer.

    The texts are those of `SystemNotes::MergeRequestsService` and, of a request for a review, those of
    `SystemNotes::IssuablesService` in GitLab's source. That source was not at hand for "requested changes",
    which several clients of GitLab expect; old versions write no such note. An approval that is taken back is
    no review.
    """
    if _PUSHED.match(note):
        yield ChangeEventKind.PUSHED, ""
    elif (draft := _DRAFT_NOTE.match(note)) is not None:
        yield (ChangeEventKind.DRAFTED if draft[1] == "draft" else ChangeEventKind.READY), ""
    elif note in _VERDICT_NOTES:
        yield _VERDICT_NOTES[note], ""
    elif (asked := _ASKED_NOTE.match(note)) is not None:
        for login in _LOGIN.findall(asked[1]):
            yield ChangeEventKind.REVIEW_REQUESTED, login
