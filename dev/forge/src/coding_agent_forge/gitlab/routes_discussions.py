"""Discussions and versions of merge requests, jobs of pipelines and their traces."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from coding_agent_forge.errors import Refused
from coding_agent_forge.gitlab.access import AnItem, InProject, SandboxOf, paged
from coding_agent_forge.gitlab.render_discussions import DiscussionRenderer, version_id
from coding_agent_forge.gitlab.routes_items import ITEM, PROJECT
from coding_agent_forge.model import Item, Kind, Repository

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
    raise Refused(404, "404 Not found")


def _merge_request(repository: Repository, iid: int) -> Item:
    item = repository.item(iid, Kind.CHANGE)
    if item is None:
        raise Refused(404, "404 Not found")
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
    """Jobs of a pipeline, of the states in `scope[]`, newest first."""
    found = [check for check in sandbox.reviews.checks(repository) if check.run == pipeline]
    if not found:
        raise Refused(404, "404 Not found")
    branch = _branch(repository, found[0].sha)
    scope = request.query_params.getlist("scope[]")
    shown = [render.job(repository, check, branch) for check in reversed(found)]
    chosen = [job for job in shown if not scope or job["status"] in scope]
    return list(paged(chosen, request, response))


@router.get(PROJECT + "/jobs/{job:int}/trace")
async def trace(job: int, repository: InProject, sandbox: SandboxOf) -> Response:
    """What a job printed."""
    for check in sandbox.reviews.checks(repository):
        if check.id == job:
            return Response(check.log or b"", media_type="text/plain")
    raise Refused(404, "404 Not found")


def _branch(repository: Repository, sha: str) -> str:
    return next((item.head for item in repository.items if item.tips.head_sha == sha), "")
