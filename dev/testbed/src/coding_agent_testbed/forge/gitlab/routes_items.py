"""Issues and merge requests: lists, one, create, update, their notes and label history."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from coding_agent_testbed.forge import git, markup
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.access import (
    NOUNS,
    Actor,
    AnItem,
    InProject,
    Parameters,
    Params,
    Render,
    SandboxOf,
    needs_developer,
    paged,
)
from coding_agent_testbed.forge.gitlab.filters import Placed, chosen
from coding_agent_testbed.forge.gitlab.render_discussions import DiscussionRenderer, head_pipeline
from coding_agent_testbed.forge.model import STATE_EVENTS, Item, Kind, Repository, User
from coding_agent_testbed.forge.sandbox import Sandbox

router = APIRouter()
PROJECT = "/projects/{project:path}"
ITEM = PROJECT + "/{noun:noun}/{iid:int}"


def _visible(sandbox: Sandbox, user: User, kind: Kind, group: str | None = None) -> list[Placed]:
    return [
        (repository, item)
        for repository in sandbox.store.repositories
        if repository.role(user) is not None
        if group is None or f"{repository.owner}/".casefold().startswith(f"{group}/".casefold())
        for item in repository.items
        if item.kind is kind
    ]


@router.get("/{noun:noun}")
async def instance_items(
    noun: str,
    request: Request,
    response: Response,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> list[dict[str, Any]]:
    """Everywhere; without `scope=all` only what the caller created."""
    kind = NOUNS[noun]
    found = chosen(_visible(sandbox, user, kind), params, user, scope="created_by_me")
    return [render.item(*placed) for placed in paged(found, request, response)]


@router.get("/groups/{group:path}/{noun:noun}")
async def group_items(
    group: str,
    noun: str,
    request: Request,
    response: Response,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> list[dict[str, Any]]:
    """In a group and its subgroups."""
    owners = {f"{one.owner}/".casefold() for one in sandbox.store.repositories if one.role(user)}
    if not any(owner.startswith(f"{group}/".casefold()) for owner in owners):
        raise HttpError(404, "404 Group Not Found")
    kind = NOUNS[noun]
    found = chosen(_visible(sandbox, user, kind, group), params, user, scope="all")
    return [render.item(*placed) for placed in paged(found, request, response)]


@router.get(PROJECT + "/{noun:noun}")
async def project_items(
    noun: str,
    request: Request,
    response: Response,
    repository: InProject,
    render: Render,
    user: Actor,
    params: Parameters,
) -> list[dict[str, Any]]:
    """In one project."""
    kind = NOUNS[noun]
    placed = [(repository, item) for item in repository.items if item.kind is kind]
    found = chosen(placed, params, user, scope="all")
    return [render.item(*entry) for entry in paged(found, request, response)]


@router.post(PROJECT + "/issues", status_code=201)
async def create_issue(
    repository: InProject, render: Render, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """Open an issue."""
    item = sandbox.store.open_item(
        repository,
        user,
        title=params.needed("title"),
        body=params.text("description") or "",
        labels=params.names("labels") or (),
        confidential=params.flag("confidential"),
    )
    return render.issue(repository, item)


@router.post(PROJECT + "/merge_requests", status_code=201)
async def create_merge_request(
    repository: InProject, render: Render, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """Open a merge request from the project's branch; 409 when one between these branches is open.

    With `target_project_id` the project is a fork, and the merge request belongs to the target.
    """
    needs_developer(repository, user)
    title, source = params.needed("title"), params.needed("source_branch")
    target, place = params.needed("target_branch"), _target(repository, sandbox, user, params)
    for side, name, where in (("Source", source, repository), ("Target", target, place)):
        if await asyncio.to_thread(git.branch_sha, where.path, name) is None:
            raise HttpError(400, f'{side} branch "{name}" does not exist')
    if (repository, source) == (place, target):
        raise HttpError(400, "You can't use same project/branch for source and target")
    fork = None if place is repository else repository
    item = sandbox.store.open_change(
        place,
        user,
        title=title,
        body=params.text("description") or "",
        head=source,
        base=target,
        tips=await sandbox.tips(place, target, source, fork),
        labels=params.names("labels") or (),
        draft=markup.is_draft(title),
        source=fork,
    )
    return render.full_merge_request(place, item)


def _target(repository: Repository, sandbox: Sandbox, user: User, params: Params) -> Repository:
    wanted = params.text("target_project_id") or str(repository.id)
    related = (repository, repository.fork_of)
    found = next((one for one in related if one is not None and str(one.id) == wanted), None)
    if found is None or found.role(user) is None:
        raise HttpError(404, "404 Project Not Found")
    return found


def _one(repository: Repository, item: Item, render: Render, sandbox: Sandbox) -> dict[str, Any]:
    if item.kind is Kind.CHANGE:
        shown = render.full_merge_request(repository, item)
        return shown | {"head_pipeline": head_pipeline(sandbox, repository, item)}
    return render.issue(repository, item)


@router.get(ITEM)
async def get_item(repository: InProject, item: AnItem, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """One issue or merge request."""
    return _one(repository, item, render, sandbox)


@router.put(ITEM)
async def update_item(
    repository: InProject, item: AnItem, render: Render, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """Change an item: `add_labels` and `remove_labels` leave the others alone, `labels` replaces all.

    A Reporter may label issues, merge requests need a Developer (or their author).
    """
    if item.kind is Kind.CHANGE and item.author != user:
        needs_developer(repository, user)
    add, remove = _label_changes(item, params)
    ids = params.names("reviewer_ids")
    if ids is not None:
        item.reviewers = [one for one in sandbox.store.users if str(one.id) in ids]
    event = params.text("state_event")
    if event not in (None, "close", "reopen"):
        raise HttpError(400, "state_event does not have a valid value")
    sandbox.store.update(
        repository,
        item,
        user,
        title=params.text("title"),
        body=params.text("description"),
        add=add,
        remove=remove,
        opened=None if event is None else event == "reopen",
    )
    return _one(repository, item, render, sandbox)


def _label_changes(item: Item, params: Params) -> tuple[list[str], list[str]]:
    whole = params.names("labels")
    if whole is not None:
        return whole, [label.name for label in item.labels if label.name not in whole]
    return params.names("add_labels") or [], params.names("remove_labels") or []


@router.get(ITEM + "/notes")
async def notes(
    request: Request,
    response: Response,
    repository: InProject,
    item: AnItem,
    sandbox: SandboxOf,
    params: Parameters,
) -> list[dict[str, Any]]:
    """Notes, the system's and those of threads among them; newest first unless `sort=asc`."""
    render = DiscussionRenderer(sandbox.base_url)
    threads = {note.id: thread for thread in sandbox.reviews.threads(item) for note in thread.comments}
    by_update = params.text("order_by") == "updated_at"
    ordered = sorted(
        [*item.comments, *(note for thread in sandbox.reviews.threads(item) for note in thread.comments)],
        key=lambda note: (note.updated_at if by_update else note.created_at, note.id),
        reverse=params.text("sort") != "asc",
    )
    return [
        render.diff_note(repository, item, threads[note.id], note)
        if note.id in threads
        else render.note(repository, item, note)
        for note in paged(ordered, request, response)
    ]


@router.post(ITEM + "/notes", status_code=201)
async def create_note(
    response: Response,
    repository: InProject,
    item: AnItem,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> dict[str, Any]:
    """Write a note. A text of quick actions alone is executed, and makes no note."""
    body = params.needed("body")
    if not sandbox.store.kept(body).strip():
        sandbox.store.execute(repository, item, user, body)
        response.status_code = 202
        return {
            "commands_changes": {},
            "summary": [f"Executed /{one.name}." for one in markup.commands(body)],
        }
    comment = sandbox.store.comment(repository, item, user, body)
    return render.note(repository, item, comment)


@router.get(ITEM + "/notes/{note_id:int}")
async def get_note(note_id: int, repository: InProject, item: AnItem, render: Render) -> dict[str, Any]:
    """One note."""
    for note in item.comments:
        if note.id == note_id:
            return render.note(repository, item, note)
    raise HttpError(404, "404 Note Not Found")


@router.put(ITEM + "/notes/{note_id:int}")
async def edit_note(
    note_id: int,
    repository: InProject,
    item: AnItem,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
    params: Parameters,
) -> dict[str, Any]:
    """Edit one's own note."""
    for note in item.comments:
        if note.id == note_id:
            if note.author != user or note.system:
                raise HttpError(403, "403 Forbidden")
            sandbox.store.edit_comment(repository, item, user, note, params.needed("body"))
            return render.note(repository, item, note)
    raise HttpError(404, "404 Note Not Found")


@router.get(ITEM + "/resource_label_events")
async def label_events(
    request: Request,
    response: Response,
    repository: InProject,
    item: AnItem,
    render: Render,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """When labels were put on and taken off, oldest first."""
    events = [event for event in item.events if event.label is not None]
    shown = sandbox.history.shown(events, first_page=request.query_params.get("page", "1") == "1")
    return [render.label_event(repository, item, event) for event in paged(shown, request, response)]


@router.get(ITEM + "/resource_state_events")
async def state_events(
    request: Request,
    response: Response,
    repository: InProject,
    item: AnItem,
    render: Render,
    sandbox: SandboxOf,
) -> list[dict[str, Any]]:
    """When the item was closed, opened again or merged, oldest first."""
    events = [event for event in item.events if event.event in STATE_EVENTS]
    shown = sandbox.history.shown(events, first_page=request.query_params.get("page", "1") == "1")
    return [render.state_event(item, event) for event in paged(shown, request, response)]
