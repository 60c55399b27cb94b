"""Reviews, review comments and files of pull requests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import Actor, InRepository, Pull, SandboxOf, needs_write, paged
from coding_agent_testbed.forge.github.render_reviews import ReviewRenderer

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


class Text(BaseModel):
    """Body of a reply."""

    body: str


@router.post("/comments/{comment_id}/replies", status_code=201)
async def reply(
    comment_id: int,
    text: Text,
    repository: InRepository,
    item: Pull,
    render: RenderReviews,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """Answer in the thread that begins with a comment; GitHub knows it by no other one."""
    for thread in sandbox.reviews.threads(item):
        if thread.comments[0].id == comment_id:
            comment = sandbox.reviews.reply(thread, user, text.body)
            return render.review_comment(repository, item, thread, comment)
    raise HttpError(404, "Not Found")


class Reviewers(BaseModel):
    """Body of `POST requested_reviewers`."""

    reviewers: list[str] = []
    team_reviewers: list[str] = []


@router.get("/requested_reviewers")
async def requested_reviewers(item: Pull, render: RenderReviews) -> dict[str, Any]:
    """Who was asked and has not answered."""
    return {"users": [render.user(user) for user in item.reviewers], "teams": []}


@router.post("/requested_reviewers", status_code=201)
async def request_reviewers(
    asked: Reviewers,
    repository: InRepository,
    item: Pull,
    render: RenderReviews,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """Ask people for a review, also those who have given one; only collaborators can be asked."""
    needs_write(repository, user)
    people = [sandbox.store.user(login) for login in asked.reviewers]
    for person in people:
        if person is None or (person.login not in repository.roles and not person.admin):
            text = "Reviews may only be requested from collaborators."
            raise HttpError(
                422, text + " One or more of the users or teams you specified is not a collaborator."
            )
        if person == item.author:
            raise HttpError(422, "Review cannot be requested from pull request author.")
    for person in people:
        assert person is not None
        sandbox.reviews.request_review(item, user, person)
    return render.pull(repository, item, sandbox.store.users, user)


@router.get("/files")
async def files(
    request: Request, response: Response, repository: InRepository, item: Pull, render: RenderReviews
) -> list[dict[str, Any]]:
    """Files that the pull request changes."""
    found = git.changes(repository.path, f"{item.tips.base_sha}...{item.tips.head_sha}")
    return [render.file(repository, item, change) for change in paged(found, request, response)]
