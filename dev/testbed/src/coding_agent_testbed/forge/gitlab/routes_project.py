"""Who am I, users, projects with their labels, members and webhooks."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from fastapi import APIRouter, Request, Response

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.access import (
    Actor,
    InProject,
    Parameters,
    Render,
    SandboxOf,
    needs_developer,
    paged,
)
from coding_agent_testbed.forge.gitlab.routes_items import PROJECT
from coding_agent_testbed.forge.gitlab.webhooks import KINDS, VERSION
from coding_agent_testbed.forge.model import Delivery, Hook, Repository, Role, User
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import gitlab_time

router = APIRouter()
last_router = APIRouter()


@router.get("/version")
async def version(user: Actor) -> dict[str, Any]:
    """Which GitLab this claims to be."""
    return {"version": VERSION, "revision": "sandbox"}


@router.get("/user")
async def me(user: Actor, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """Whose token this is."""
    return render.me(user, gitlab_time(sandbox.store.now()))


@router.get("/users")
async def users(
    request: Request, response: Response, user: Actor, render: Render, sandbox: SandboxOf, params: Parameters
) -> list[dict[str, Any]]:
    """Users, or the one of a name."""
    name = params.text("username")
    wanted = [one for one in sandbox.store.users if name is None or one.login.casefold() == name.casefold()]
    return [render.user(one) for one in paged(wanted, request, response)]


@router.get(PROJECT + "/uploads/{secret}/{name}")
async def upload(secret: str, name: str, repository: InProject, sandbox: SandboxOf) -> Response:
    """A file that somebody attached to an item of the project."""
    data = sandbox.attachments.get(f"{secret}/{name}")
    if data is None:
        raise HttpError(404, "404 Not found")
    return Response(data, media_type="application/octet-stream")


@router.get(PROJECT + "/members/all/{user_id:int}")
@router.get(PROJECT + "/members/{user_id:int}")
async def member(user_id: int, repository: InProject, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """Somebody as a member; people who merely see a public project are none."""
    for user in sandbox.store.users:
        role = repository.roles.get(user.login, Role.ADMIN if user.admin else None)
        if user.id == user_id and role is not None:
            return render.member(repository, user, role)
    raise HttpError(404, "404 Not found")


@router.get(PROJECT + "/repository/branches/{branch:path}")
async def branch(branch: str, repository: InProject, render: Render, user: Actor) -> dict[str, Any]:
    """One branch, and whether it is the default one or protected."""
    sha = await asyncio.to_thread(git.branch_sha, repository.path, branch)
    if sha is None:
        raise HttpError(404, "404 Branch Not Found")
    commit = await asyncio.to_thread(git.commit_facts, repository.path, sha)
    return render.branch(repository, branch, commit, repository.role(user) or Role.READ)


@router.get("/groups/{group:path}/projects")
async def group_projects(
    group: str,
    request: Request,
    response: Response,
    user: Actor,
    render: Render,
    sandbox: SandboxOf,
    params: Parameters,
) -> list[dict[str, Any]]:
    """The projects of a group and its subgroups that somebody sees."""
    seen = [
        (one, one.role(user) or Role.READ)
        for one in sandbox.store.repositories
        if f"{one.owner}/".startswith(f"{group}/") and not (one.deleted or one.archived)
        if one.role(user) is not None or not one.private
    ]
    if not seen:
        raise HttpError(404, "404 Group Not Found")
    if topic := params.text("topic"):
        seen = [(one, role) for one, role in seen if topic in one.topics]
    return [render.project(one, role) for one, role in paged(seen, request, response)]


@router.get(PROJECT + "/repository/tree")
async def tree(
    repository: InProject, request: Request, response: Response, params: Parameters
) -> list[dict[str, Any]]:
    """A folder of the default branch."""
    where = params.text("path") or ""
    names = await asyncio.to_thread(git.folder, repository.path, repository.default_branch, where)
    if names is None:
        raise HttpError(404, "404 invalid revision or path Not Found")
    return [
        {
            "id": hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(),
            "name": name,
            "type": kind,
            "path": f"{where}/{name}".strip("/"),
            "mode": "040000" if kind == "tree" else "100644",
        }
        for name, kind in paged(names, request, response)
    ]


@router.get(PROJECT + "/repository/files/{file:path}/raw")
async def raw_file(file: str, repository: InProject) -> Response:
    """A file of the default branch."""
    content = await asyncio.to_thread(git.text, repository.path, repository.default_branch, file)
    if content is None:
        raise HttpError(404, "404 File Not Found")
    return Response(content, media_type="text/plain")


@router.get(PROJECT + "/labels")
async def labels(
    request: Request, response: Response, repository: InProject, render: Render
) -> list[dict[str, Any]]:
    """The project's labels."""
    return [render.label(label) for label in paged(repository.labels, request, response)]


@router.post(PROJECT + "/labels", status_code=201)
async def create_label(
    repository: InProject, render: Render, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """Make a label; 409 when there is one of this name."""
    name, color = params.needed("name"), params.needed("color")
    if sandbox.store.label(repository, name) is not None:
        raise HttpError(409, "Label already exists")
    label = sandbox.store.ensure_label(repository, name, color, params.text("description") or "")
    return render.label(label)


@router.delete(PROJECT + "/labels/{name:path}", status_code=204)
async def delete_label(name: str, repository: InProject, sandbox: SandboxOf, user: Actor) -> None:
    """Delete a label, named or by its id, also from the items that carry it."""
    needs_developer(repository, user)
    for label in repository.labels:
        if name in (label.name, str(label.id)):
            sandbox.store.delete_label(repository, label, user)
            return
    raise HttpError(404, "404 Label Not Found")


_FLAGS = {"notes": "note_events", "pipelines": "pipeline_events"}
"""Kinds of events whose switch in a hook's settings has another name."""


def _hook_json(hook: Hook, repository: Repository) -> dict[str, Any]:
    return {
        "id": hook.id,
        "url": hook.url,
        "name": "",
        "description": "",
        "created_at": gitlab_time(hook.created_at),
        "push_events": False,
        **{_FLAGS.get(kind, f"{kind}_events"): hook.wants(kind) for kind in KINDS.values()},
        "enable_ssl_verification": True,
        "alert_status": "executable",
        "disabled_until": None,
        "url_variables": [],
        "project_id": repository.id,
    }


def _find(sandbox: Sandbox, repository: Repository, hook_id: int, user: User) -> Hook:
    if repository.role(user) is not Role.ADMIN:
        raise HttpError(403, "403 Forbidden")
    for hook in sandbox.store.hooks:
        if hook.id == hook_id and hook.repository is repository:
            return hook
    raise HttpError(404, "404 Not found")


@router.get(PROJECT + "/hooks")
async def hooks(
    request: Request, response: Response, repository: InProject, sandbox: SandboxOf, user: Actor
) -> list[dict[str, Any]]:
    """The project's webhooks."""
    needs_developer(repository, user)
    own = [hook for hook in sandbox.store.hooks if hook.repository is repository]
    return [_hook_json(hook, repository) for hook in paged(own, request, response)]


@router.post(PROJECT + "/hooks", status_code=201)
async def create_hook(
    repository: InProject, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """Set a webhook up."""
    if repository.role(user) is not Role.ADMIN:
        raise HttpError(403, "403 Forbidden")
    kinds = [kind for kind in KINDS.values() if params.flag(_FLAGS.get(kind, f"{kind}_events"))]
    hook = sandbox.store.add_hook(repository, params.needed("url"), params.text("token") or "", kinds)
    return _hook_json(hook, repository)


def _event_json(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "url": delivery.hook.url,
        "trigger": f"{KINDS.get(delivery.event, 'push')}_hooks",
        "request_headers": {
            name: "[REDACTED]" if name == "X-Gitlab-Token" else value
            for name, value in delivery.headers.items()
        },
        "request_data": delivery.payload,
        "response_headers": delivery.response_headers,
        "response_body": delivery.response_body,
        "execution_duration": delivery.duration,
        "response_status": str(delivery.status_code) if delivery.response_headers else "internal error",
    }


@router.get(PROJECT + "/hooks/{hook_id:int}/events")
async def hook_events(
    hook_id: int, request: Request, response: Response, repository: InProject, sandbox: SandboxOf, user: Actor
) -> list[dict[str, Any]]:
    """What was sent to a hook, newest first."""
    sent = sandbox.deliveries.of_hook(_find(sandbox, repository, hook_id, user))
    return [_event_json(delivery) for delivery in paged(sent, request, response)]


@router.post(PROJECT + "/hooks/{hook_id:int}/events/{event_id:int}/resend", status_code=201)
async def resend(
    hook_id: int, event_id: int, repository: InProject, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Send an event again and wait for the answer."""
    for delivery in sandbox.deliveries.of_hook(_find(sandbox, repository, hook_id, user)):
        if delivery.id == event_id:
            again = await sandbox.deliveries.finished(sandbox.deliveries.resend(delivery))
            return {"response_status": again.status_code}
    raise HttpError(404, "404 Not found")


@last_router.get(PROJECT)
async def project(repository: InProject, render: Render, user: Actor) -> dict[str, Any]:
    """One project. Its path takes all that is left, so this route comes last."""
    return render.project(repository, repository.role(user) or Role.READ)
