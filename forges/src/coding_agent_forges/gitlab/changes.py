"""Reads the open merge requests of our account from GitLab as snapshots.

A list has no pipeline and an old merge status, so each scan reads each merge request by itself. Its
discussions, events and jobs are read again only if that response shows that they have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.forge.changes import (
    ChangeSnapshot,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Mergeability,
    OpenChanges,
    Part,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item

from coding_agent_forges.gitlab.change_responses import (
    DiscussionResponse,
    EventResponse,
    JobResponse,
    ListedMergeRequest,
    MergeRequestResponse,
    Pipeline,
    ReviewerResponse,
    TipResponse,
    VersionResponse,
    actor_of,
    events_of,
    remark_of,
    thread_of,
    without_draft,
)
from coding_agent_forges.gitlab.settings import GitLab
from coding_agent_forges.rest.calls import Call, Read, User, path
from coding_agent_forges.rest.client import ForgeClient, answered_at
from coding_agent_forges.rest.open_changes import SET_ASIDE, read_each

_LIST_PAGES = 2
"""Maximum number of pages of our open merge requests: 200 merge requests."""
_DISCUSSION_PAGES = 30
"""Maximum number of pages of discussions, each note that GitLab itself wrote among them: 3,000."""
_EVENT_PAGES = 10
_JOB_PAGES = 10
_VERDICTS = {
    "approved": ReviewVerdict.APPROVED,
    "requested_changes": ReviewVerdict.CHANGES_REQUESTED,
    "reviewed": ReviewVerdict.COMMENTED,
}
_ASKED = frozenset({"unreviewed", "review_started"})


@dataclass(frozen=True)
class _CachedDiscussion:
    """The discussion and the events of a merge request, read in one of its states."""

    of: tuple[object, ...]
    discussions: tuple[DiscussionResponse, ...]
    reviewers: tuple[ReviewerResponse, ...]
    events: tuple[EventResponse, ...]
    head_at: datetime | None
    left_out: frozenset[Part]


@dataclass(frozen=True)
class _CachedChecks:
    """The checks of a pipeline, read in one of its states."""

    of: tuple[object, ...]
    checks: Read[CheckResult]


@dataclass
class KnownMergeRequest:
    """The cached responses about one merge request, and the base's tip at that time."""

    discussed: _CachedDiscussion | None = None
    checked: _CachedChecks | None = None
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
        listed = await self.client.entries(list[ListedMergeRequest], call, limit=_LIST_PAGES)
        items = tuple(self._item(one) for one in listed.values if self._in_scope(one))
        found = await read_each(Read(items, listed.left_out), self.known, self._read, new=KnownMergeRequest)
        self.base_checks.clear()
        self.base_checks.update(self._bases)
        return found

    async def one(self, item: Item) -> ChangeSnapshot:
        """Return one merge request, without using cached responses."""
        return await replace(self, base_checks={})._read(item, KnownMergeRequest())

    def _in_scope(self, listed: ListedMergeRequest) -> bool:
        projects = {str(project).casefold() for project in self.settings.projects}
        return not projects or not projects.isdisjoint((str(listed.project_id), listed.repository.casefold()))

    def _item(self, listed: ListedMergeRequest) -> Item:
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
        merge_request = self.client.parse(MergeRequestResponse, response, call)
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
        self, item: Item, where: str, merge_request: MergeRequestResponse, state: tuple[object, ...]
    ) -> _CachedDiscussion:
        async def events(name: str) -> Read[EventResponse]:
            call = Call("GET", f"{where}/{name}", f"reading the events of {item.display}")
            return await self.client.entries(list[EventResponse], call, limit=_EVENT_PAGES)

        call = Call("GET", f"{where}/discussions", f"reading the discussions of {item.display}")
        discussions = await self.client.entries(list[DiscussionResponse], call, limit=_DISCUSSION_PAGES)
        call = Call("GET", f"{where}/reviewers", f"reading the reviewers of {item.display}")
        reviewers = await self.client.entries(list[ReviewerResponse], call)
        call = Call("GET", f"{where}/versions", f"reading the versions of {item.display}")
        versions = await self.client.entries(list[VersionResponse], call)  # newest first
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
        return _CachedDiscussion(
            state,
            discussions.values,
            reviewers.values,
            (*labels.values, *states.values),
            own[-1] if own else None,
            frozenset(part for part, read in lacking.items() if not read.complete),
        )

    async def _tip(self, item: Item, merge_request: MergeRequestResponse) -> str:
        """Return the commit at the base's tip. It is read once for all merge requests into this base."""
        base = merge_request.project_id, merge_request.target_branch
        if base not in self._tips:
            where = path(
                "projects", merge_request.project_id, "repository", "branches", merge_request.target_branch
            )
            call = Call("GET", where, f"reading the base of {item.display}")
            try:
                self._tips[base] = (await self.client.get(TipResponse, call)).sha
            except ForgeNotFoundError:
                self._tips[base] = ""
        return self._tips[base]

    async def _check(self, item: Item, merge_request: MergeRequestResponse, cache: KnownMergeRequest) -> None:
        """Read the checks of head and base. The checks of an ended pipeline are not read again."""
        pipeline = merge_request.pipeline
        if pipeline is None:
            cache.checked, cache.base_checks = None, Read()
            return
        state = pipeline.id, pipeline.status, pipeline.updated_at
        if cache.checked is None or cache.checked.of != state or not pipeline.ended:
            cache.checked = _CachedChecks(state, await self._checks(item, pipeline))
        failed = any(
            check.conclusion in (CheckConclusion.FAILURE, CheckConclusion.TIMED_OUT)
            for check in cache.checked.checks.values
        )
        cache.base_checks = Read()
        if failed:
            cache.base_commit = await self._tip(item, merge_request)
            cache.base_checks = await self._base_checks(item, merge_request, cache.base_commit)

    async def _checks(self, item: Item, pipeline: Pipeline) -> Read[CheckResult]:
        project = path("projects", pipeline.project_id)
        what = f"reading the jobs of {item.display}"
        where = project + path("pipelines", pipeline.id, "jobs")
        call = Call("GET", where, what, {"include_retried": "true"})
        runs: dict[str, list[JobResponse]] = {}
        jobs = await self.client.entries(list[JobResponse], call, limit=_JOB_PAGES)
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

    async def _statuses(self, item: Item, project: str, sha: str) -> Read[JobResponse]:
        where = project + path("repository", "commits", sha, "statuses")
        call = Call("GET", where, f"reading the commit statuses of {item.display}")
        return await self.client.entries(list[JobResponse], call, limit=_JOB_PAGES)

    async def _base_checks(
        self, item: Item, merge_request: MergeRequestResponse, sha: str
    ) -> Read[CheckResult]:
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
                    list[Pipeline], Call("GET", f"{project}/pipelines", what, params)
                )
                checks = await self._checks(item, newest[0]) if newest else Read()
            self._bases[base] = checks
        return self._bases.get(base, Read())

    def _snapshot(
        self,
        item: Item,
        merge_request: MergeRequestResponse,
        cache: KnownMergeRequest,
        discussed: _CachedDiscussion,
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
            threads=tuple(thread for one in threads if (thread := thread_of(one, merge_request)) is not None),
            reviews=tuple(
                SubmittedReview(str(one.user.id), actor_of(one.user), _VERDICTS[one.state], "", None)
                for one in discussed.reviewers
                if one.state in _VERDICTS
            ),
            comments=tuple(remark_of(note, merge_request) for note in single if note.is_public),
            checks=checks.values,
            checks_problem=problem,
            base_checks=cache.base_checks.values,
            requested_reviewers=tuple(
                actor_of(one.user) for one in discussed.reviewers if one.state in _ASKED
            ),
            events=events_of(discussed.events, [note for note in single if note.system]),
            left_out=discussed.left_out
            | (frozenset() if checks.complete else {Part.CHECKS})
            | (frozenset() if cache.base_checks.complete else {Part.BASE_CHECKS}),
        )
