"""All of the GitHub flavour put together."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github import (
    graphql,
    routes_app,
    routes_checks,
    routes_hooks,
    routes_issues,
    routes_pulls,
    routes_reactions,
    routes_repository,
    routes_reviews,
)
from coding_agent_testbed.forge.github.render_reviews import ReviewRenderer
from coding_agent_testbed.forge.github.webhooks import check_messages, messages
from coding_agent_testbed.forge.identity import authenticate, token_of
from coding_agent_testbed.forge.model import CheckHappening, Happening
from coding_agent_testbed.forge.sandbox import Sandbox

PREFIX = "/api/v3"
_OLD, _NEW = "2022-11-28", "2026-03-10"
"""The versions of the REST API. GitHub Enterprise Server has the new one since 3.21; this one has both."""
_REMOVED = frozenset(
    {
        "assignee",
        "merge_commit_sha",
        "has_downloads",
        "use_squash_pr_title_as_default",
        "master_branch",
        "rate",
    }
)
"""Fields that the new version lacks (GitHub's documentation, *Breaking changes*), wherever they are."""


def router() -> APIRouter:
    """Every route of the API, and of the store of logs beside it."""
    api = APIRouter(prefix=PREFIX)
    for module in (
        routes_app,
        routes_repository,
        routes_issues,
        routes_reactions,
        routes_pulls,
        routes_reviews,
        routes_checks,
        routes_hooks,
    ):
        api.include_router(module.router)
    everything = APIRouter()
    for router in (
        api,
        graphql.router,
        routes_app.pages,
        routes_checks.storage,
        routes_repository.attachments,
    ):
        everything.include_router(router)
    return everything


def new_guid() -> str:
    """A delivery's guid."""
    return str(uuid.uuid4())


def tell(sandbox: Sandbox, happening: Happening) -> None:
    """Send what happened to the hooks of its repository."""
    hooks = [hook for hook in sandbox.store.hooks if hook.repository is happening.repository]
    if not hooks:
        return
    renderer = ReviewRenderer(sandbox.base_url)
    listed = sandbox.deliveries.settings.unlabeled_lists_label
    for message in messages(happening, renderer, sandbox.store.users, unlabeled_lists_label=listed):
        for hook in hooks:
            if hook.wants(message.event):
                sandbox.deliveries.tell(hook, message, happening)


def tell_check(sandbox: Sandbox, happening: CheckHappening) -> None:
    """Send what became of a check to the hooks of its repository."""
    hooks = [hook for hook in sandbox.store.hooks if hook.repository is happening.repository]
    if not hooks:
        return
    renderer = ReviewRenderer(sandbox.base_url)
    for message in check_messages(happening, renderer, sandbox.store.users):
        for hook in hooks:
            if hook.wants(message.event):
                sandbox.deliveries.tell(hook, message, happening)


def refused(refusal: HttpError) -> Response:
    """A refusal in GitHub's words."""
    body: dict[str, object] = {
        "message": refusal.message,
        "documentation_url": "https://docs.github.com/rest",
        "status": str(refusal.status),
    }
    if refusal.errors:
        body["errors"] = list(refusal.errors)
    return JSONResponse(body, refusal.status, refusal.headers)


def _token_headers(request: Request, sandbox: Sandbox) -> dict[str, str]:
    """What an answer says of the personal token of its request: the scopes of a classic one, and its end."""
    user = authenticate(request.headers, sandbox.store.accounts(), sandbox.clock())
    shown: dict[str, str] = {}
    if user is not None and user.scopes is not None:
        shown["x-oauth-scopes"] = ", ".join(user.scopes)
    if user is not None and user.token_expires_at is not None:
        shown["github-authentication-token-expiration"] = f"{user.token_expires_at} 00:00:00 UTC"
    return shown


def version_of(request: Request) -> str:
    """The version of the API that a request names.

    Raises:
        HttpError: 400, there is no such version.
    """
    version = request.headers.get("x-github-api-version", _OLD)
    if version not in (_OLD, _NEW):
        raise HttpError(400, f'"{version}" is not a valid value for X-GitHub-Api-Version')
    return version


async def _without_removed(response: Response) -> Response:
    """The same answer in the new version."""
    if response.headers.get("content-type", "").partition(";")[0] != "application/json":
        return response
    stream: Any = response  # what `call_next` returns is streamed
    body = b"".join([part async for part in stream.body_iterator])
    if body:
        body = json.dumps(_kept(json.loads(body))).encode()
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(body, response.status_code, headers)


def _kept(node: object) -> object:
    if isinstance(node, list):
        return [_kept(entry) for entry in node]
    if isinstance(node, dict):
        return {key: _kept(value) for key, value in node.items() if key not in _REMOVED}
    return node


_BY_NAME = re.compile(rf"{PREFIX}/repos/([^/]+/[^/]+)(/.*)?")
_BY_ID = re.compile(rf"{PREFIX}/repositories/(\d+)(/.*)?")


def redirection(request: Request, sandbox: Sandbox) -> Response | None:
    """Redirect a request for a renamed repository to its id, as GitHub does; a request by id finds its name.

    https://docs.github.com/rest/using-the-rest-api/best-practices-for-using-the-rest-api#follow-redirects
    """
    path = request.url.path
    if by_id := _BY_ID.fullmatch(path):
        found = next((one for one in sandbox.store.repositories if one.id == int(by_id[1])), None)
        if found is not None:
            raw = request.scope["raw_path"].decode("latin-1").partition(f"/repositories/{by_id[1]}")[2]
            request.scope["path"] = f"{PREFIX}/repos/{found.full_name}{by_id[2] or ''}"
            request.scope["raw_path"] = f"{PREFIX}/repos/{found.full_name}{raw}".encode("latin-1")
        return None
    by_name = _BY_NAME.fullmatch(path)
    moved = sandbox.store.by_old_name(by_name[1]) if by_name else None
    if by_name is None or moved is None:
        return None
    rest = request.scope["raw_path"].decode("latin-1").partition(f"/repos/{by_name[1]}")[2]
    query = f"?{request.url.query}" if request.url.query else ""
    target = f"{sandbox.base_url}{PREFIX}/repositories/{moved.id}{rest}{query}"
    permanent = request.method in ("GET", "HEAD")
    message = "Moved Permanently" if permanent else "Temporary Redirect"
    return JSONResponse(
        {"message": message, "url": target, "documentation_url": "https://docs.github.com/rest"},
        301 if permanent else 307,
        {"location": target},
    )


async def limit_rate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Count the requests of each token or installation, and refuse what its hour does not allow.

    Answers show both in headers, as GitHub's do.

    https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    if not request.url.path.startswith(PREFIX):
        return await call_next(request)
    sandbox: Sandbox = request.app.state.sandbox
    resource = "search" if "/search/" in request.url.path else "core"
    hour = sandbox.hour_of(token_of(request.headers), resource)
    if hour.used >= hour.limit:
        response: Response = refused(HttpError(403, "API rate limit exceeded for user ID 1."))
    else:
        hour.used += 1
        # GitHub reads a body as JSON whatever its type says, e.g. that of `curl -d '{"labels": […]}'`.
        kept = [header for header in request.scope["headers"] if header[0] != b"content-type"]
        request.scope["headers"] = [*kept, (b"content-type", b"application/json")]
        try:
            version = version_of(request)
        except HttpError as unknown:
            return refused(unknown)
        response = redirection(request, sandbox) or await call_next(request)
        if version == _NEW and not isinstance(response, JSONResponse):
            response = await _without_removed(response)
    response.headers.update(_token_headers(request, sandbox))
    response.headers.update(
        {
            "x-ratelimit-limit": str(hour.limit),
            "x-ratelimit-remaining": str(hour.limit - hour.used),
            "x-ratelimit-used": str(hour.used),
            "x-ratelimit-reset": str(int(hour.reset)),
            "x-ratelimit-resource": resource,
            "x-github-request-id": secrets.token_hex(8).upper(),
            "x-github-enterprise-version": routes_repository.GHES_VERSION,
            "x-github-media-type": "github.v3; format=json",
        }
    )
    return response
