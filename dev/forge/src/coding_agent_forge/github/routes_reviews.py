"""Reviews, review comments and files of pull requests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from coding_agent_forge import git
from coding_agent_forge.github.access import InRepository, Pull, SandboxOf, paged
from coding_agent_forge.github.render_reviews import ReviewRenderer

router = APIRouter(prefix="/repos/{owner}/{repo}/pulls/{number}")


def renderer_of(sandbox: SandboxOf) -> ReviewRenderer:
    """Renders for this forge's address."""
    return ReviewRenderer(sandbox.base_url)


RenderReviews = Annotated[ReviewRenderer, Depends(renderer_of)]


@router.get("/reviews")
async def reviews(
    request: Request,
    response: Response,
    repository: InRepository,
    item: Pull,
    render: RenderReviews,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """Submitted reviews, oldest first."""
    found = sandbox.reviews.reviews(item)
    return [render.review(repository, item, review) for review in paged(found, request, response)]


@router.get("/comments")
async def review_comments(
    request: Request,
    response: Response,
    repository: InRepository,
    item: Pull,
    render: RenderReviews,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """Comments of all threads, oldest first unless `direction=desc` with a `sort`."""
    query = request.query_params
    newest_first = "sort" in query and query.get("direction") == "desc"
    found = sorted(
        ((thread, comment) for thread in sandbox.reviews.threads(item) for comment in thread.comments),
        key=lambda entry: entry[1].id,
        reverse=newest_first,
    )
    return [render.review_comment(repository, item, *entry) for entry in paged(found, request, response)]


@router.get("/files")
async def files(
    request: Request, response: Response, repository: InRepository, item: Pull, render: RenderReviews
) -> list[dict[str, Any]]:
    """Files that the pull request changes."""
    found = git.changes(repository.path, f"{item.tips.base_sha}...{item.tips.head_sha}")
    return [render.file(repository, item, change) for change in paged(found, request, response)]
