"""Who am I, repositories, their labels and people, the search, the meta endpoint."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import (
    Actor,
    InRepository,
    Render,
    SandboxOf,
    invalid,
    needs_write,
    paged,
)
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.github.render import permissions
from coding_agent_testbed.forge.github.search import found, parse
from coding_agent_testbed.forge.identity import authenticate
from coding_agent_testbed.forge.model import Repository, Role
from coding_agent_testbed.forge.timestamps import github_time

router = APIRouter()
attachments = APIRouter()

GHES_VERSION = "3.19.0"


class NewLabel(BaseModel):
    """Body of `POST labels`."""

    name: str
    color: str = "ededed"
    description: str = ""


class NewReference(BaseModel):
    """Body of `POST git/refs`."""

    ref: str
    sha: str


@router.get("/meta")
async def meta() -> dict[str, Any]:
    """Addresses that webhooks come from: here, this machine alone."""
    return {
        "verifiable_password_authentication": True,
        "installed_version": GHES_VERSION,
        "hooks": ["127.0.0.0/8", "::1/128"],
    }


@router.get("/user")
async def me(user: Actor, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """Whose token this is."""
    return render.public_user(user, github_time(sandbox.store.now()))


@router.get("/users/{login}")
async def get_user(login: str, user: Actor, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """Somebody."""
    found = sandbox.store.user(login)
    if found is None:
        raise HttpError(404, "Not Found")
    return render.public_user(found, github_time(sandbox.store.now()))


@router.get("/repos/{owner}/{repo}")
async def get_repository(
    repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """One repository."""
    role = repository.role(user) or Role.READ
    return render.full_repository(repository, sandbox.store.users, role)


@router.get("/user/repos")
async def own_repositories(
    request: Request, response: Response, user: Actor, render: Render, sandbox: SandboxOf
) -> list[dict[str, Any]]:
    """The repositories in which the account has a role."""
    roles = [(one, one.role(user)) for one in sandbox.store.repositories if not one.deleted]
    mine = [(one, role) for one, role in roles if role is not None]
    return [
        render.full_repository(one, sandbox.store.users, role) for one, role in paged(mine, request, response)
    ]


@router.get("/repos/{owner}/{repo}/contents")
@router.get("/repos/{owner}/{repo}/contents/{where:path}")
async def contents(
    repository: InRepository, render: Render, where: str = ""
) -> list[dict[str, Any]] | dict[str, Any]:
    """A folder of the default branch, or a file of it."""
    branch = repository.default_branch
    names = await asyncio.to_thread(git.folder, repository.path, branch, where)
    if names is not None:
        kinds = {"blob": "file", "tree": "dir"}
        return [
            _entry(render, repository, kinds.get(kind, kind), f"{where}/{name}".strip("/"), 0)
            for name, kind in names
        ]
    content = await asyncio.to_thread(git.text, repository.path, branch, where)
    if content is None:
        raise HttpError(404, "Not Found")
    encoded = base64.encodebytes(content.encode()).decode()
    entry = _entry(render, repository, "file", where, len(content.encode()))
    return {**entry, "encoding": "base64", "content": encoded}


def _entry(render: ItemRenderer, repository: Repository, kind: str, path: str, size: int) -> dict[str, Any]:
    url = f"{render.repository_url(repository)}/contents/{path}"
    return {
        "type": kind,
        "name": path.rpartition("/")[2],
        "path": path,
        "size": size,
        "sha": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
        "url": url,
        "git_url": url,
        "html_url": url,
        "download_url": url if kind == "file" else None,
        "_links": {"self": url, "git": url, "html": url},
    }


@router.get("/repos/{owner}/{repo}/branches/{branch:path}")
async def get_branch(branch: str, repository: InRepository, render: Render) -> dict[str, Any]:
    """One branch, and whether it is protected."""
    sha = await asyncio.to_thread(git.branch_sha, repository.path, branch)
    if sha is None:
        raise HttpError(404, "Branch not found")
    return render.branch(repository, branch, await asyncio.to_thread(git.commit_facts, repository.path, sha))


@router.post("/repos/{owner}/{repo}/git/refs", status_code=201)
async def create_reference(
    new: NewReference, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Make a branch at a commit; 422 when there is one of this name."""
    needs_write(repository, user)
    kind, _, branch = new.ref.partition("refs/heads/")
    if kind or not branch:
        raise HttpError(422, "Reference name must start with 'refs/heads/'.")
    if await asyncio.to_thread(git.branch_sha, repository.path, branch) is not None:
        raise HttpError(422, "Reference already exists")
    if not await asyncio.to_thread(git.has_commit, repository.path, new.sha):
        raise HttpError(422, "Object does not exist")
    await asyncio.to_thread(git.set_branch, repository.path, branch, new.sha)
    await sandbox.push(repository, user, branch, "0" * 40, new.sha)
    return render.reference(repository, branch, new.sha)


@router.get("/repos/{owner}/{repo}/activity")
async def activity(
    request: Request, response: Response, repository: InRepository, render: Render
) -> list[dict[str, Any]]:
    """Who moved which branch when, newest first. The next page is asked for by `after`."""
    query = request.query_params
    branch = query.get("ref", "").removeprefix("refs/heads/")
    found = [one for one in reversed(repository.pushes) if branch in ("", one.branch)]
    if query.get("after", "").isdigit():
        found = [one for one in found if one.id < int(query["after"])]
    size = min(100, int(query["per_page"])) if query.get("per_page", "").isdigit() else 30
    if len(found) > size:
        following = request.url.include_query_params(after=found[size - 1].id)
        response.headers["link"] = f'<{following}>; rel="next"'
    return [render.activity(push) for push in found[:size]]


@router.get("/repos/{owner}/{repo}/labels")
async def labels(
    request: Request, response: Response, repository: InRepository, render: Render
) -> list[dict[str, Any]]:
    """The repository's labels."""
    return [render.label(repository, label) for label in paged(repository.labels, request, response)]


@router.get("/repos/{owner}/{repo}/labels/{name:path}")
async def get_label(
    name: str, repository: InRepository, render: Render, sandbox: SandboxOf
) -> dict[str, Any]:
    """One label."""
    label = sandbox.store.label(repository, name)
    if label is None:
        raise HttpError(404, "Not Found")
    return render.label(repository, label)


@router.post("/repos/{owner}/{repo}/labels", status_code=201)
async def create_label(
    new: NewLabel, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Make a label; 422 when there is one of this name."""
    needs_write(repository, user)
    if sandbox.store.label(repository, new.name) is not None:
        raise invalid("Label", "name", "already_exists")
    label = sandbox.store.ensure_label(repository, new.name, new.color, new.description)
    return render.label(repository, label)


@router.delete("/repos/{owner}/{repo}/labels/{name:path}", status_code=204)
async def delete_label(name: str, repository: InRepository, sandbox: SandboxOf, user: Actor) -> None:
    """Delete a label, also from the items that carry it."""
    needs_write(repository, user)
    label = sandbox.store.label(repository, name)
    if label is None:
        raise HttpError(404, "Not Found")
    sandbox.store.delete_label(repository, label, user)


@router.get("/repos/{owner}/{repo}/collaborators/{username}/permission")
async def permission(
    username: str, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """What somebody may do here; GitHub answers `none` for people without access to a private repository."""
    needs_write(repository, user)
    person = sandbox.store.user(username)
    if person is None:
        raise HttpError(404, f"{username} is not a user")
    role = repository.role(person)
    name = "none" if role is None else role.value
    shown = render.user(person) | {"role_name": name}
    if role is not None:
        shown["permissions"] = permissions(role)
    return {"permission": "read" if role is Role.TRIAGE else name, "role_name": name, "user": shown}


@router.get("/search/issues")
async def search(
    request: Request, response: Response, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Find issues and pull requests in what the caller can see."""
    query = request.query_params.get("q", "")
    if not query.strip():
        raise HttpError(422, "Validation Failed", [{"resource": "Search", "field": "q", "code": "missing"}])
    visible = [one for one in sandbox.store.repositories if one.role(user) is not None]
    _places_exist(query, {one.full_name.casefold() for one in visible}, sandbox)
    sort = request.query_params.get("sort")
    if sort:
        query += f" sort:{sort}-{request.query_params.get('order', 'desc')}"
    hits = found(visible, query, me=user.login)
    shown = paged(hits, request, response)
    return {
        "total_count": len(hits),
        "incomplete_results": False,
        "search_type": "lexical",
        "items": [render.issue(repository, item) | {"score": 1.0} for repository, item in shown],
    }


def _places_exist(query: str, visible: set[str], sandbox: SandboxOf) -> None:
    owners = {name.partition("/")[0] for name in visible}
    owners |= {user.login.casefold() for user in sandbox.store.users}
    places = [term for term in parse(query) if term.name in ("repo", "user", "org") and not term.negated]
    known = [term.value.casefold() in (visible if term.name == "repo" else owners) for term in places]
    if places and not any(known):
        text = (
            "The listed users and repositories cannot be searched either because the resources do not exist "
            "or you do not have permission to view them."
        )
        details = {"resource": "Search", "field": "q", "code": "invalid", "message": text}
        raise HttpError(422, "Validation Failed", [details])


@attachments.get("/user-attachments/assets/{name}")
async def attachment(name: str, request: Request, sandbox: SandboxOf) -> Response:
    """A file that somebody attached; to strangers none is there."""
    data = sandbox.attachments.get(name)
    if data is None or authenticate(request.headers, sandbox.store.accounts(), sandbox.clock()) is None:
        raise HttpError(404, "Not Found")
    return Response(data, media_type="application/octet-stream")
