"""What an App asks with its JWT: itself, its installations, and tokens for them."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from coding_agent_testbed.forge.apps import REVOKE, App, Installation, Manifest
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import Actor, Render, SandboxOf, paged
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.github.render import node_id
from coding_agent_testbed.forge.identity import token_of
from coding_agent_testbed.forge.model import Role
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import github_time

router = APIRouter()
pages = APIRouter()
_EVENTS = ["issue_comment", "issues", "pull_request"]


def app_of(request: Request, sandbox: SandboxOf) -> App:
    """The App whose JWT the request has."""
    return sandbox.store.apps.authenticate(token_of(request.headers))


Asking = Annotated[App, Depends(app_of)]


def installation_of(installation_id: int, app: Asking, sandbox: SandboxOf) -> Installation:
    """The App's installation of the path."""
    for one in sandbox.store.apps.installations:
        if one.id == installation_id and one.app is app:
            return one
    raise HttpError(404, "Not Found")


Installed = Annotated[Installation, Depends(installation_of)]


class TokenRequest(BaseModel):
    """Body of `POST access_tokens`."""

    repositories: list[str] | None = None
    repository_ids: list[int] | None = None
    permissions: dict[str, str] | None = None


@router.post("/app-manifests/{code}/conversions", status_code=201)
async def convert(code: str, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """Create the App of a manifest; this is the only answer that contains the App's secrets."""
    app, private_key, webhook_secret = sandbox.store.apps.convert(code)
    return _app(app, render, sandbox) | {
        "client_secret": secrets.token_hex(20),
        "webhook_secret": webhook_secret,
        "pem": private_key,
    }


@router.get("/app")
async def get_app(app: Asking, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """The App itself."""
    return _app(app, render, sandbox)


def _app(app: App, render: ItemRenderer, sandbox: Sandbox) -> dict[str, Any]:
    return {
        "id": app.id,
        "slug": app.slug,
        "node_id": node_id("App", app.id),
        "client_id": f"Iv1.{app.id:016x}",
        "owner": render.user(app.owner),
        "name": app.slug,
        "description": None,
        "external_url": render.base,
        "html_url": f"{render.base}/apps/{app.slug}",
        "created_at": github_time(app.created_at),
        "updated_at": github_time(app.created_at),
        "permissions": dict(app.permissions),
        "events": _EVENTS,
        "installations_count": sum(one.app is app for one in sandbox.store.apps.installations),
    }


@router.get("/app/installations")
async def installations(
    request: Request, response: Response, app: Asking, render: Render, sandbox: SandboxOf
) -> list[dict[str, Any]]:
    """The App's installations."""
    found = [one for one in sandbox.store.apps.installations if one.app is app]
    return [_installation(one, render, sandbox) for one in paged(found, request, response)]


@router.get("/app/installations/{installation_id}")
async def get_installation(installation: Installed, render: Render, sandbox: SandboxOf) -> dict[str, Any]:
    """One installation."""
    return _installation(installation, render, sandbox)


@router.get("/repos/{owner}/{repo}/installation")
async def repository_installation(
    owner: str, repo: str, app: Asking, render: Render, sandbox: SandboxOf
) -> dict[str, Any]:
    """The installation that reaches a repository."""
    repository = sandbox.store.repository(f"{owner}/{repo}")
    for one in sandbox.store.apps.installations:
        if repository is not None and one.app is app and one.includes(repository):
            return _installation(one, render, sandbox)
    raise HttpError(404, "Not Found")


@router.post("/app/installations/{installation_id}/access_tokens", status_code=201)
async def create_token(
    installation: Installed, render: Render, sandbox: SandboxOf, wanted: TokenRequest | None = None
) -> dict[str, Any]:
    """A token for an hour."""
    wanted = wanted or TokenRequest()
    reached = [one for one in sandbox.store.repositories if installation.includes(one)]
    names = None if wanted.repositories is None else {name.casefold() for name in wanted.repositories}
    chosen = names if wanted.repository_ids is None else wanted.repository_ids
    if chosen is not None:
        reached = [one for one in reached if one.name.casefold() in chosen or one.id in chosen]
        if len(reached) < len(chosen):
            raise HttpError(
                422,
                "There is at least one repository that does not exist or is not accessible to the parent "
                "installation.",
            )
    token = sandbox.store.apps.exchange(installation, reached, wanted.permissions)
    assert token.actor.grant is not None
    shown: dict[str, Any] = {
        "token": token.actor.token,
        "expires_at": github_time(token.expires_at),
        "permissions": dict(token.actor.grant.permissions),
        "repository_selection": "all" if chosen is None and installation.repositories is None else "selected",
    }
    if names is not None:
        users = sandbox.store.users
        shown["repositories"] = [render.full_repository(one, users, Role.WRITE) for one in reached]
    return shown


@router.delete(REVOKE, status_code=204)
async def revoke_token(actor: Actor, sandbox: SandboxOf) -> None:
    """Revoke the token that the request has."""
    if actor.grant is None:
        raise HttpError(403, "Resource not accessible by personal access token")
    sandbox.store.apps.revoke(actor.token)


def _installation(one: Installation, render: ItemRenderer, sandbox: Sandbox) -> dict[str, Any]:
    api = f"{render.api}/app/installations/{one.id}"
    account = next(repository for repository in sandbox.store.repositories if repository.owner == one.owner)
    owner = render.owner(account, sandbox.store.users)
    return {
        "id": one.id,
        "account": owner,
        "repository_selection": "all" if one.repositories is None else "selected",
        "access_tokens_url": f"{api}/access_tokens",
        "repositories_url": f"{render.api}/installation/repositories",
        "html_url": f"{render.base}/organizations/{one.owner}/settings/installations/{one.id}",
        "app_id": one.app.id,
        "app_slug": one.app.slug,
        "target_id": owner["id"],
        "target_type": owner["type"],
        "permissions": dict(one.permissions),
        "events": _EVENTS,
        "created_at": github_time(one.created_at),
        "updated_at": github_time(one.created_at),
        "single_file_name": None,
        "has_multiple_single_files": False,
        "single_file_paths": [],
        "suspended_by": None if one.suspended_at is None else render.user(one.app.owner),
        "suspended_at": None if one.suspended_at is None else github_time(one.suspended_at),
    }


@pages.post("/settings/apps/new")
@pages.post("/organizations/{organization}/settings/apps/new")
async def new_app(
    manifest: Annotated[str, Form()], sandbox: SandboxOf, organization: str = "", state: str = ""
) -> RedirectResponse:
    """The page to which a form sends a manifest. Here, the first person confirms every manifest at once.

    https://docs.github.com/apps/sharing-github-apps/registering-a-github-app-from-a-manifest
    """
    asked = json.loads(manifest)
    owner = sandbox.store.users[0]
    code = sandbox.store.apps.plan(Manifest(asked["name"], owner, asked.get("default_permissions", {})))
    return RedirectResponse(f"{asked['redirect_url']}?code={code}&state={state}", status_code=302)
