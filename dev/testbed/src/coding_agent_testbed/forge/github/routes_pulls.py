"""Pull requests."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import (
    Actor,
    InRepository,
    Pull,
    Render,
    SandboxOf,
    invalid,
    needs_write,
    paged,
)
from coding_agent_testbed.forge.github.search import by_query
from coding_agent_testbed.forge.model import Kind

router = APIRouter(prefix="/repos/{owner}/{repo}")


class NewPull(BaseModel):
    """Body of `POST pulls`."""

    title: str
    head: str
    base: str
    body: str | None = None
    draft: bool = False


class PullUpdate(BaseModel):
    """Body of `PATCH pulls/{number}`."""

    title: str | None = None
    body: str | None = None
    state: Literal["open", "closed"] | None = None


@router.get("/pulls")
async def list_pulls(
    request: Request,
    response: Response,
    repository: InRepository,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
) -> list[dict[str, Any]]:
    """List pull requests; `head` is `owner:branch`, as GitHub ignores it in other forms."""
    query = dict(request.query_params)
    owner, colon, branch = query.get("head", "").partition(":")
    pulls = [
        item
        for item in by_query(repository.items, {**query, "labels": ""})
        if item.kind is Kind.CHANGE
        if not colon
        or (owner.casefold() == (item.source or repository).owner.casefold() and item.head == branch)
        if query.get("base", item.base) == item.base
    ]
    users = sandbox.store.users
    return [render.pull(repository, item, users, user) for item in paged(pulls, request, response)]


@router.post("/pulls", status_code=201)
async def create_pull(
    pull: NewPull, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Open a pull request from a branch of the same repository, or of a fork: `owner:branch`."""
    owner, colon, branch = pull.head.rpartition(":")
    source = None
    if colon and owner.casefold() != repository.owner.casefold():
        forks = [one for one in sandbox.store.repositories if one.fork_of is repository]
        source = next((one for one in forks if one.owner.casefold() == owner.casefold()), None)
        if source is None or source.role(user) is None:
            raise invalid("PullRequest", "head", "invalid")
    needs_write(source or repository, user)
    for field, name, place in (("head", branch, source or repository), ("base", pull.base, repository)):
        if await asyncio.to_thread(git.branch_sha, place.path, name) is None:
            raise invalid("PullRequest", field, "invalid")
    tips = await sandbox.tips(repository, pull.base, branch, source)
    if tips.commits == 0:
        text = f"No commits between {pull.base} and {branch}"
        details = {"resource": "PullRequest", "code": "custom", "message": text}
        raise HttpError(422, "Validation Failed", [details])
    item = sandbox.store.open_change(
        repository,
        user,
        title=pull.title,
        body=pull.body or "",
        head=branch,
        base=pull.base,
        tips=tips,
        draft=pull.draft,
        source=source,
    )
    return render.full_pull(repository, item, sandbox.store.users, user)


@router.get("/pulls/{number}")
async def get_pull(
    repository: InRepository, item: Pull, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """One pull request."""
    return render.full_pull(repository, item, sandbox.store.users, user)


@router.patch("/pulls/{number}")
async def update_pull(
    change: PullUpdate, repository: InRepository, item: Pull, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Edit, close or reopen."""
    if item.author != user:
        needs_write(repository, user)
    sandbox.store.update(
        repository,
        item,
        user,
        title=change.title,
        body=change.body,
        opened=None if change.state is None else change.state == "open",
    )
    return render.full_pull(repository, item, sandbox.store.users, user)
