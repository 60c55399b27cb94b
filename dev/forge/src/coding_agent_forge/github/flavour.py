"""All of the GitHub flavour put together."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from coding_agent_forge.errors import HttpError
from coding_agent_forge.github import (
    graphql,
    routes_checks,
    routes_hooks,
    routes_issues,
    routes_pulls,
    routes_reactions,
    routes_repository,
    routes_reviews,
)
from coding_agent_forge.github.render_reviews import ReviewRenderer
from coding_agent_forge.github.webhooks import check_messages, messages
from coding_agent_forge.model import CheckHappening, Happening
from coding_agent_forge.sandbox import Sandbox

PREFIX = "/api/v3"
HOURLY_QUOTA = 5000


def router() -> APIRouter:
    """Every route of the API, and of the store of logs beside it."""
    api = APIRouter(prefix=PREFIX)
    for module in (
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
    for router in (api, graphql.router, routes_checks.storage, routes_repository.attachments):
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


async def rate_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Count down the quota that every answer of GitHub's API shows."""
    response = await call_next(request)
    if request.url.path.startswith(PREFIX):
        used = request.app.state.quota_used = getattr(request.app.state, "quota_used", 0) + 1
        sandbox: Sandbox = request.app.state.sandbox
        resource = "search" if "/search/" in request.url.path else "core"
        response.headers.update(
            {
                "x-ratelimit-limit": str(HOURLY_QUOTA),
                "x-ratelimit-remaining": str(max(0, HOURLY_QUOTA - used % HOURLY_QUOTA)),
                "x-ratelimit-used": str(used % HOURLY_QUOTA),
                "x-ratelimit-reset": str(int(sandbox.clock().timestamp()) + 3600),
                "x-ratelimit-resource": resource,
                "x-github-request-id": secrets.token_hex(8).upper(),
                "x-github-enterprise-version": routes_repository.GHES_VERSION,
                "x-github-media-type": "github.v3; format=json",
            }
        )
    return response
