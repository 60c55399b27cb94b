"""Reads a merge request's threads and failed jobs from GitLab.

GitLab has no object for a whole review: the review's summary is an ordinary comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.values import CHECKS_LIMIT, Checks, Discussion, FailedCheck, Thread
from pydantic import AliasPath, Field

from coding_agent_forges.rest.calls import Call, ResponseModel, Text, path
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.responses import CommentResponse

SECTION = re.compile(r"section_(?:start|end):\d+:[^\r\n]*\r?")
"""Matches the marks of sections in a job's log."""
_PAGES = 10
"""Maximum number of pages of discussions. GitLab can only list them with the oldest first."""
_JOB_PAGES = 5
"""Maximum number of pages of failed jobs: 500 jobs."""
_VERSIONS = 5
"""Maximum number of versions of the merge request whose differences are read, for the hunks of threads."""


class _DiffRefs(ResponseModel):
    base_sha: str | None = None
    start_sha: str | None = None
    head_sha: str | None = None


class _Position(_DiffRefs):
    """The position of a note. Notes on images and whole files have no line."""

    old_path: Text = ""
    new_path: Text = ""
    old_line: int | None = None
    new_line: int | None = None
    new_start: int | None = Field(default=None, validation_alias=AliasPath("line_range", "start", "new_line"))
    old_start: int | None = Field(default=None, validation_alias=AliasPath("line_range", "start", "old_line"))

    @property
    def refs(self) -> _DiffRefs:
        return _DiffRefs(base_sha=self.base_sha, start_sha=self.start_sha, head_sha=self.head_sha)


class _Note(CommentResponse):
    resolvable: bool = False
    resolved: bool = False
    position: _Position | None = None


class _DiscussionResponse(ResponseModel):
    notes: list[_Note]


class _Pipeline(ResponseModel):
    id: int
    project_id: int
    sha: str
    ref: str


class _Change(ResponseModel):
    sha: str | None = None
    diff_refs: _DiffRefs | None = None
    head_pipeline: _Pipeline | None = None


class _Version(ResponseModel):
    id: int
    head_commit_sha: str


class _FileDiff(ResponseModel):
    old_path: str
    new_path: str
    renamed_file: bool = False
    diff: Text = ""


class _VersionDetail(ResponseModel):
    diffs: list[_FileDiff]


class _Job(ResponseModel):
    id: int
    name: str
    stage: str = ""
    status: str
    allow_failure: bool = False
    failure_reason: Text = ""
    web_url: Text = ""


@dataclass(frozen=True)
class GitLabDiscussion:
    """The reader of the threads and failed jobs of one merge request.

    Attributes:
        path: the merge request's path in the API.
        display: the merge request's name in error messages.
    """

    client: ForgeClient
    path: str
    display: str

    async def read(self) -> Discussion:
        call = Call("GET", f"{self.path}/discussions", f"reading the discussions of {self.display}")
        discussions = await self.client.entries(list[_DiscussionResponse], call, limit=_PAGES)
        positioned = [
            (position, one.notes)
            for one in discussions.values
            if one.notes and (position := one.notes[0].position) and one.notes[0].is_public
        ]
        left_out = () if discussions.complete else ("newer threads",)
        if not positioned:
            return Discussion(left_out=left_out)
        refs = (await self._change()).diff_refs or _DiffRefs()
        wanted = [position.head_sha for position, _ in reversed(positioned)]
        diffs = await self._diffs(refs.head_sha, [sha for sha in wanted if sha])
        renames = {
            file.old_path: file.new_path for file in diffs.get(refs.head_sha or "", ()) if file.renamed_file
        }
        threads = tuple(
            _thread(position, notes, refs, diffs).renamed(renames) for position, notes in positioned
        )
        return Discussion(threads=threads, left_out=left_out)

    async def failed_checks(self) -> Checks:
        """Return the failed jobs of the newest commit's pipeline, except jobs that are allowed to fail."""
        try:
            change = await self._change()
            pipeline = change.head_pipeline
            # The last pipeline may be older than the newest commit. A merged result has its own commit.
            merged = pipeline is not None and pipeline.ref.startswith("refs/merge-requests/")
            if pipeline is None or (pipeline.sha != change.sha and not merged):
                return Checks()
            project = path("projects", pipeline.project_id)
            what = f"reading the failed jobs of {self.display}"
            call = Call("GET", f"{project}/pipelines/{pipeline.id}/jobs", what, {"scope[]": "failed"})
            jobs = await self.client.entries(list[_Job], call, limit=_JOB_PAGES)
        except ForgeError as error:
            return Checks(unreadable=(f"the pipeline ({error.status or 'no answer'})",))
        failed = [job for job in jobs.values if job.status == "failed" and not job.allow_failure]
        what = f"reading the log of a job of {self.display}"
        checks = []
        for index, job in enumerate(failed):
            log = Call("GET", f"{project}/jobs/{job.id}/trace", what)
            checks.append(
                FailedCheck(
                    name=" / ".join(filter(None, (job.stage, job.name))),
                    result=job.status,
                    url=job.web_url,
                    summary=job.failure_reason,
                    log=await self.client.log(log, SECTION) if index < CHECKS_LIMIT else "",
                )
            )
        return Checks.first(checks, left_out=() if jobs.complete else ("older failed jobs",))

    async def _change(self) -> _Change:
        return await self.client.get(_Change, Call("GET", self.path, f"reading {self.display}"))

    async def _diffs(self, head: str | None, wanted: list[str]) -> dict[str, list[_FileDiff]]:
        """Return the differences of the newest version and of the versions with threads, by newest commit."""
        call = Call("GET", f"{self.path}/versions", f"reading the versions of {self.display}")
        ids: dict[str, int] = {}
        for version in (await self.client.entries(list[_Version], call)).values:  # newest first
            ids.setdefault(version.head_commit_sha, version.id)  # a rebase can give a commit another base
        found: dict[str, list[_FileDiff]] = {}
        for sha in list(dict.fromkeys([head, *wanted]))[:_VERSIONS]:
            if sha is not None and sha in ids:
                call = Call("GET", f"{self.path}/versions/{ids[sha]}", f"reading a version of {self.display}")
                found[sha] = (await self.client.get(_VersionDetail, call)).diffs
        return found


def _thread(
    position: _Position, notes: list[_Note], refs: _DiffRefs, diffs: Mapping[str, list[_FileDiff]]
) -> Thread:
    """Return the thread that consists of these notes. Its position is that of the first note.

    With each push, GitLab updates the position of a thread as long as the thread's lines exist. So a position
    in an older version means that the lines were changed (`DiffNote#active?` in GitLab's source).
    """
    removed = position.new_line is None and position.old_line is not None
    start = position.old_start if removed else position.new_start
    line = position.old_line if removed else position.new_line
    own = next(
        (file for file in diffs.get(position.head_sha or "", ()) if file.new_path == position.new_path), None
    )
    resolvable = [note for note in notes if note.resolvable]
    return Thread(
        path=position.new_path or position.old_path,
        previous_path=position.old_path if position.old_path not in ("", position.new_path) else None,
        line=line,
        start_line=start if start != line else None,
        removed=removed,
        hunk=hunk_at(own.diff, new_line=position.new_line, old_line=position.old_line) if own else "",
        resolved=bool(resolvable) and all(note.resolved for note in resolvable),
        outdated=position.refs != refs,
        comments=tuple(note.comment() for note in notes if note.is_public),
    )


def hunk_at(diff: str, *, new_line: int | None, old_line: int | None, context: int = 8) -> str:
    """Return the lines of a file's unified diff up to a line, as GitHub shows them.

    Args:
        diff: the diff from its first `@@` on.
        new_line: the number of the line after the change; `None` for a removed line.
        old_line: the number of a removed line before the change.
        context: the maximum number of lines to return, including that line.

    Returns:
        The header of the hunk and the lines; empty if the diff does not show the line.
    """
    shown: list[str] = []
    head, old, new = "", 0, 0
    for line in diff.splitlines():
        start = re.match(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@", line)
        if start:
            head, old, new, shown = line, int(start[1]), int(start[2]), []
            continue
        shown.append(line)
        kind = line[:1]
        meant = (
            new == new_line and kind in (" ", "+")
            if new_line is not None
            else old == old_line and kind == "-"
        )
        if meant:
            return "\n".join([head, *shown[-context:]])
        old += kind in (" ", "-")
        new += kind in (" ", "+")
    return ""
