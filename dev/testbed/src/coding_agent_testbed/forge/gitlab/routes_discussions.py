"""Discussions and versions of merge requests, jobs of pipelines and their traces."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.access import (
    Actor,
    AnItem,
    InProject,
    Parameters,
    SandboxOf,
    needs_developer,
    paged,
)
from coding_agent_testbed.forge.gitlab.render import discussion_id
from coding_agent_testbed.forge.gitlab.render_discussions import DiscussionRenderer, version_id
from coding_agent_testbed.forge.gitlab.routes_items import ITEM, PROJECT
from coding_agent_testbed.forge.model import Check, Item, Kind, Repository, Thread
from coding_agent_testbed.forge.reviews import job_state
from coding_agent_testbed.forge.sandbox import Sandbox

router = APIRouter()


def renderer_of(sandbox: SandboxOf) -> DiscussionRenderer:
    """Renders for this forge's address."""
    return DiscussionRenderer(sandbox.base_url)


RenderDiscussions = Annotated[DiscussionRenderer, Depends(renderer_of)]


@router.get(ITEM + "/discussions")
async def discussions(
    request: Request,
    response: Response,
    repository: InProject,
    item: AnItem,
    render: RenderDiscussions,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """Single comments and threads, oldest first."""
    found = [(one.id, render.single(repository, item, one)) for one in item.comments]
    found += [
        (one.comments[0].id, render.discussion(repository, item, one))
        for one in sandbox.reviews.threads(item)
    ]
    ordered = [shown for _, shown in sorted(found, key=lambda entry: entry[0])]
    return list(paged(ordered, request, response))


def _thread(sandbox: Sandbox, item: Item, discussion: str) -> Thread:
    for thread in sandbox.reviews.threads(item):
        if discussion_id(thread.id) == discussion:
            return thread
    raise HttpError(404, "404 Discussion Not Found")


@router.post(ITEM + "/discussions/{discussion}/notes", status_code=201)
async def reply(
    discussion: str,
    repository: InProject,
    item: AnItem,
    render: RenderDiscussions,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> dict[str, Any]:
    """Answer in a thread."""
    thread = _thread(sandbox, item, discussion)
    comment = sandbox.reviews.reply(thread, user, params.needed("body"))
    return render.diff_note(repository, item, thread, comment)


@router.put(PROJECT + "/merge_requests/{iid:int}/discussions/{discussion}")
async def resolve(
    iid: int,
    discussion: str,
    repository: InProject,
    render: RenderDiscussions,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> dict[str, Any]:
    """Resolve a thread, or open it again."""
    item = _merge_request(repository, iid)
    thread = _thread(sandbox, item, discussion)
    if item.author != user:
        needs_developer(repository, user)
    params.needed("resolved")
    sandbox.reviews.resolve(thread, user, resolved=bool(params.flag("resolved")))
    return render.discussion(repository, item, thread)


@router.get(PROJECT + "/merge_requests/{iid:int}/reviewers")
async def reviewers(
    iid: int, repository: InProject, render: RenderDiscussions, sandbox: SandboxOf
) -> list[dict[str, Any]]:
    """Reviewers of a merge request with their states."""
    item = _merge_request(repository, iid)
    return [
        render.reviewer(user, sandbox.reviews.verdict(item, user), item.created_at) for user in item.reviewers
    ]


@router.get(PROJECT + "/merge_requests/{iid:int}/versions")
async def versions(
    iid: int,
    request: Request,
    response: Response,
    repository: InProject,
    render: RenderDiscussions,
) -> list[dict[str, Any]]:
    """Versions of a merge request, newest first."""
    item = _merge_request(repository, iid)
    return [render.version(item, one) for one in paged(item.versions[::-1], request, response)]


@router.get(PROJECT + "/merge_requests/{iid:int}/versions/{version:int}")
async def version(iid: int, version: int, repository: InProject, render: RenderDiscussions) -> dict[str, Any]:
    """A version with its differences."""
    item = _merge_request(repository, iid)
    for one in item.versions:
        if version_id(one.head_sha) == version:
            return render.full_version(repository, item, one)
    raise HttpError(404, "404 Not found")


def _merge_request(repository: Repository, iid: int) -> Item:
    item = repository.item(iid, Kind.CHANGE)
    if item is None:
        raise HttpError(404, "404 Not found")
    return item


@router.get(PROJECT + "/pipelines/{pipeline:int}/jobs")
async def jobs(
    pipeline: int,
    request: Request,
    response: Response,
    repository: InProject,
    render: RenderDiscussions,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """Jobs of a pipeline, of the states in `scope[]`, newest first; those that ran again only if asked."""
    retried = request.query_params.get("include_retried") == "true"
    found = _pipeline(sandbox, repository, pipeline)
    branch = _branch(repository, found[0].sha)
    scope = request.query_params.getlist("scope[]")
    shown = [
        render.job(repository, check, branch)
        for check in reversed(found)
        if check.log is not None and (retried or not check.superseded)
    ]
    chosen = [job for job in shown if not scope or job["status"] in scope]
    return list(paged(chosen, request, response))


@router.get(PROJECT + "/jobs/{job:int}/trace")
async def trace(job: int, repository: InProject, sandbox: SandboxOf) -> Response:
    """What a job printed."""
    for check in sandbox.reviews.checks(repository):
        if check.id == job:
            return Response(check.log or b"", media_type="text/plain")
    raise HttpError(404, "404 Not found")


def _pipeline(sandbox: Sandbox, repository: Repository, pipeline: int) -> list[Check]:
    found = [check for check in sandbox.reviews.checks(repository) if check.run == pipeline]
    if not found:
        raise HttpError(404, "404 Not found")
    return found


@router.get(PROJECT + "/pipelines")
async def pipelines(
    request: Request,
    response: Response,
    repository: InProject,
    render: RenderDiscussions,
    sandbox: SandboxOf,
    params: Parameters,
) -> list[dict[str, Any]]:
    """Pipelines, of one commit with `sha` and of one branch with `ref`, newest first."""
    runs: dict[int, list[Check]] = {}
    for check in sandbox.reviews.checks(repository, params.text("sha")):
        runs.setdefault(check.run, []).append(check)
    wanted = params.text("ref")
    shown = [
        render.pipeline(repository, checks, wanted or _branch(repository, checks[0].sha))
        for checks in reversed(runs.values())
    ]
    return list(paged(shown, request, response))


@router.get(PROJECT + "/pipelines/{pipeline:int}")
async def get_pipeline(
    pipeline: int, repository: InProject, render: RenderDiscussions, sandbox: SandboxOf
) -> dict[str, Any]:
    """A pipeline."""
    found = _pipeline(sandbox, repository, pipeline)
    return render.pipeline(repository, found, _branch(repository, found[0].sha))


@router.post(PROJECT + "/pipelines/{pipeline:int}/retry", status_code=201)
async def retry_pipeline(
    pipeline: int, repository: InProject, render: RenderDiscussions, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Run the failed jobs of a pipeline again."""
    needs_developer(repository, user)
    for check in _pipeline(sandbox, repository, pipeline):
        if not check.superseded and job_state(check) in ("failed", "canceled") and check.log is not None:
            sandbox.reviews.rerun(repository, check, user)
    found = _pipeline(sandbox, repository, pipeline)
    return render.pipeline(repository, found, _branch(repository, found[0].sha))


@router.post(PROJECT + "/jobs/{job:int}/retry", status_code=201)
async def retry_job(
    job: int, repository: InProject, render: RenderDiscussions, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Run a job again: the answer is the new one. 403 while it runs."""
    needs_developer(repository, user)
    for check in sandbox.reviews.checks(repository, latest=True):
        if check.id == job and check.log is not None:
            if not check.result:
                raise HttpError(403, "403 Forbidden - Job is not retryable")
            again = sandbox.reviews.rerun(repository, check, user)
            return render.job(repository, again, _branch(repository, check.sha))
    raise HttpError(404, "404 Not found")


_RESULTS = {"failed": "failure", "success": "success", "canceled": "cancelled", "skipped": "skipped"}


@router.post(PROJECT + "/statuses/{sha}", status_code=201)
async def set_status(
    sha: str,
    repository: InProject,
    render: RenderDiscussions,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> dict[str, Any]:
    """Give a commit a status."""
    needs_developer(repository, user)
    state = params.needed("state")
    if state not in (*_RESULTS, "pending", "running"):
        raise HttpError(400, "state does not have a valid value")
    if not await asyncio.to_thread(git.has_commit, repository.path, sha):
        raise HttpError(404, "404 Commit Not Found")
    check = sandbox.reviews.add_check(
        repository,
        sha,
        params.text("name") or params.text("context") or "default",
        _RESULTS.get(state, ""),
        summary=params.text("description") or "",
        url=params.text("target_url") or "",
        by=user,
    )
    return render.commit_status(check, _branch(repository, sha), user)


@router.get(PROJECT + "/repository/commits/{sha}/statuses")
async def statuses(
    sha: str,
    request: Request,
    response: Response,
    repository: InProject,
    render: RenderDiscussions,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """Jobs and statuses of a commit: the newest of each name."""
    found = sandbox.reviews.checks(repository, sha, latest=True)
    branch = _branch(repository, sha)
    return [
        render.commit_status(one, branch, one.by or sandbox.person) for one in paged(found, request, response)
    ]


def _branch(repository: Repository, sha: str) -> str:
    return next((item.head for item in repository.items if item.tips.head_sha == sha), "")
