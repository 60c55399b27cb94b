"""The types of GitLab's responses about merge requests, and what their fields and notes mean. Pure.

https://docs.gitlab.com/api/merge_requests/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEvent,
    ChangeEventKind,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Mergeability,
    Remark,
    ReviewThread,
)
from pydantic import AliasPath, Field

from coding_agent_forges.rest.calls import ResponseModel, Text, User
from coding_agent_forges.rest.responses import GHOST, Author, CommentResponse, ItemResponse, Label

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


class Refs(ResponseModel):
    base_sha: str | None = None
    start_sha: str | None = None
    head_sha: str | None = None


class Pipeline(ResponseModel):
    id: int
    project_id: int
    sha: str
    ref: str
    status: str
    source: str = ""
    updated_at: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


class ListedMergeRequest(ResponseModel):
    """A merge request in a list, with the fields that identify it."""

    iid: int
    project_id: int
    reference: str = Field(default="", validation_alias=AliasPath("references", "full"))

    @property
    def repository(self) -> str:
        return self.reference.rpartition("!")[0]


class MergeRequestResponse(ListedMergeRequest, ItemResponse):
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
    diff_refs: Refs | None = None
    head_pipeline: Pipeline | None = None

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
    def pipeline(self) -> Pipeline | None:
        """The newest commit's pipeline. The pipeline of a merged result has a commit of its own."""
        found = self.head_pipeline
        merged = found is not None and found.ref.startswith("refs/merge-requests/")
        return found if found is not None and (found.sha == self.sha or merged) else None


class NotePosition(Refs):
    """The position of a note. Notes on images and whole files have no line."""

    old_path: Text = ""
    new_path: Text = ""
    old_line: int | None = None
    new_line: int | None = None


class NoteResponse(CommentResponse):
    resolvable: bool = False
    resolved: bool = False
    position: NotePosition | None = None


class DiscussionResponse(ResponseModel):
    id: str
    individual_note: bool = False
    notes: list[NoteResponse]


class ReviewerResponse(ResponseModel):
    user: Author = GHOST
    state: str


class EventResponse(ResponseModel):
    """An event: a label was applied or removed, or the state of the merge request changed."""

    user: User | None = None
    created_at: datetime
    action: str = ""
    state: str = ""
    label: Label | None = None


class VersionResponse(ResponseModel):
    head_commit_sha: str
    created_at: datetime


class TipResponse(ResponseModel):
    sha: str = Field(default="", validation_alias=AliasPath("commit", "id"))


class JobResponse(ResponseModel):
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

    def result(self, kind: CheckKind, event: str, earlier: list[JobResponse]) -> CheckResult:
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


def remark_of(note: NoteResponse, found: MergeRequestResponse) -> Remark:
    return Remark(
        id=str(note.id),
        author=actor_of(note.author),
        published_at=note.created_at,
        body=note.body,
        commit=(note.position.head_sha if note.position else None) or "",
        url=f"{found.url}#note_{note.id}",
    )


def thread_of(discussion: DiscussionResponse, found: MergeRequestResponse) -> ReviewThread | None:
    """Convert a thread. Return `None` if it has only internal notes.

    With each push, GitLab updates the position of a thread as long as the thread's lines exist. So a position
    in an older version means that the lines were changed (`DiffNote#active?` in GitLab's source).
    """
    remarks = tuple(remark_of(note, found) for note in discussion.notes if note.is_public)
    if not remarks:
        return None
    position = discussion.notes[0].position
    resolvable = [note for note in discussion.notes if note.resolvable]
    at: dict[str, Any] = {"path": "", "line": None, "outdated": False}
    if position is not None:
        refs = Refs(base_sha=position.base_sha, start_sha=position.start_sha, head_sha=position.head_sha)
        line = position.old_line if position.new_line is None else position.new_line
        at = {
            "path": position.new_path or position.old_path,
            "line": line,
            "outdated": refs != found.diff_refs,
        }
    resolved = bool(resolvable) and all(note.resolved for note in resolvable)
    return ReviewThread(id=discussion.id, resolved=resolved, remarks=remarks, **at)


def events_of(recorded: Sequence[EventResponse], notes: list[NoteResponse]) -> tuple[ChangeEvent, ...]:
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
