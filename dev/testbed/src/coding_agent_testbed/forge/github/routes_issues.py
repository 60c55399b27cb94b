"""Issues, their labels, comments and history; pull requests too, where GitHub counts them as issues."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import (
    Actor,
    AnyItem,
    InRepository,
    Render,
    SandboxOf,
    invalid,
    needs_triage,
    needs_write,
    paged,
)
from coding_agent_testbed.forge.github.search import by_query
from coding_agent_testbed.forge.model import Comment, Item, Repository
from coding_agent_testbed.forge.timestamps import github_time

router = APIRouter(prefix="/repos/{owner}/{repo}")


class NamedLabel(BaseModel):
    """A label in its long form."""

    name: str


class NewIssue(BaseModel):
    """Body of `POST issues`."""

    title: str
    body: str | None = None
    labels: list[str | NamedLabel] = []
    assignees: list[str] = []


class IssueUpdate(BaseModel):
    """Body of `PATCH issues/{number}`."""

    title: str | None = None
    body: str | None = None
    state: Literal["open", "closed"] | None = None
    labels: list[str | NamedLabel] | None = None


class Text(BaseModel):
    """Body of a comment."""

    body: str


class Labels(BaseModel):
    """Body of `POST issues/{number}/labels`, in the form that GitHub recommends."""

    labels: list[str]


def names(labels: list[str] | list[str | NamedLabel] | list[NamedLabel]) -> list[str]:
    """Names of labels given in either form."""
    return [label if isinstance(label, str) else label.name for label in labels]


@router.get("/issues")
async def list_issues(
    request: Request, response: Response, repository: InRepository, render: Render, user: Actor
) -> list[dict[str, Any]]:
    """List issues, pull requests among them."""
    query = dict(request.query_params)
    items = by_query(repository.items, query)
    return [render.issue(repository, item) for item in paged(items, request, response)]


@router.post("/issues", status_code=201)
async def create_issue(
    issue: NewIssue, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Open an issue; labels of who may only read are silently left out, as on GitHub."""
    if not issue.title.strip():
        raise invalid("Issue", "title")
    role = repository.role(user)
    labels = names(issue.labels) if role and role.may_label else []
    people = [person for person in map(sandbox.store.user, issue.assignees) if person]
    item = sandbox.store.open_item(
        repository, user, title=issue.title, body=issue.body or "", labels=labels, assignees=people
    )
    return render.issue(repository, item)


@router.get("/issues/{number}")
async def get_issue(repository: InRepository, item: AnyItem, render: Render) -> dict[str, Any]:
    """One issue, with what only this call shows."""
    return render.issue(repository, item) | {"closed_by": None}


@router.patch("/issues/{number}")
async def update_issue(
    change: IssueUpdate,
    repository: InRepository,
    item: AnyItem,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """Edit, close or reopen; `labels` replaces the whole list."""
    if item.author is not user or change.labels is not None:
        needs_write(repository, user)
    wanted = None if change.labels is None else names(change.labels)
    here = [label.name for label in item.labels]
    sandbox.store.update(
        repository,
        item,
        user,
        title=change.title,
        body=change.body,
        add=wanted or (),
        remove=[] if wanted is None else [name for name in here if name not in wanted],
        opened=None if change.state is None else change.state == "open",
    )
    return render.issue(repository, item) | {"closed_by": None}


@router.get("/issues/{number}/labels")
async def item_labels(
    request: Request, response: Response, repository: InRepository, item: AnyItem, render: Render
) -> list[dict[str, Any]]:
    """Labels on an issue."""
    return [render.label(repository, label) for label in paged(item.labels, request, response)]


@router.post("/issues/{number}/labels")
async def add_labels(
    labels: Annotated[Labels | list[str] | list[NamedLabel], Body()],
    repository: InRepository,
    item: AnyItem,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
) -> list[dict[str, Any]]:
    """Put labels on, leaving those there alone."""
    needs_triage(repository, user)
    given = labels.labels if isinstance(labels, Labels) else names(labels)
    sandbox.store.update(repository, item, user, add=given)
    return [render.label(repository, label) for label in item.labels]


@router.delete("/issues/{number}/labels/{name:path}")
async def remove_label(
    name: str, repository: InRepository, item: AnyItem, render: Render, sandbox: SandboxOf, user: Actor
) -> list[dict[str, Any]]:
    """Take one label off; 404 when it is not on."""
    needs_triage(repository, user)
    label = sandbox.store.label(repository, name)
    if label is None or label not in item.labels:
        raise HttpError(404, "Label does not exist")
    sandbox.store.update(repository, item, user, remove=[label.name])
    return [render.label(repository, entry) for entry in item.labels]


@router.get("/issues/{number}/comments")
async def comments(
    request: Request, response: Response, repository: InRepository, item: AnyItem, render: Render
) -> list[dict[str, Any]]:
    """Comments, oldest first."""
    since = request.query_params.get("since", "")
    shown = [comment for comment in item.comments if github_time(comment.updated_at) >= since]
    return [render.comment(repository, item, comment) for comment in paged(shown, request, response)]


@router.post("/issues/{number}/comments", status_code=201)
async def create_comment(
    text: Text, repository: InRepository, item: AnyItem, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Write a comment: everybody who can read may."""
    if not text.body.strip():
        raise invalid("IssueComment", "body")
    comment = sandbox.store.comment(repository, item, user, text.body)
    return render.comment(repository, item, comment)


def find_comment(repository: Repository, comment_id: int) -> tuple[Item, Comment]:
    """A comment of a repository, with its item."""
    for item in repository.items:
        for comment in item.comments:
            if comment.id == comment_id:
                return item, comment
    raise HttpError(404, "Not Found")


@router.get("/issues/comments/{comment_id}")
async def get_comment(comment_id: int, repository: InRepository, render: Render) -> dict[str, Any]:
    """One comment."""
    return render.comment(repository, *find_comment(repository, comment_id))


@router.patch("/issues/comments/{comment_id}")
async def edit_comment(
    comment_id: int, text: Text, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Edit a comment: one's own, or with write access."""
    item, comment = find_comment(repository, comment_id)
    if comment.author != user:
        needs_write(repository, user)
    sandbox.store.edit_comment(repository, item, user, comment, text.body)
    return render.comment(repository, item, comment)


@router.get("/issues/{number}/events")
@router.get("/issues/{number}/timeline")
async def events(
    request: Request,
    response: Response,
    repository: InRepository,
    item: AnyItem,
    render: Render,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """What happened to an issue, oldest first."""
    shown = sandbox.history.shown(item.events, first_page=request.query_params.get("page", "1") == "1")
    return [render.item_event(repository, event) for event in paged(shown, request, response)]
