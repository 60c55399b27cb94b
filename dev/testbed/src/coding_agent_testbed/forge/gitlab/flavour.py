"""All of the GitLab flavour put together."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab import (
    routes_discussions,
    routes_items,
    routes_project,
    routes_reactions,
    routes_tokens,
)
from coding_agent_testbed.forge.gitlab.access import item_renderer
from coding_agent_testbed.forge.gitlab.webhooks import KINDS, message, pipeline_message
from coding_agent_testbed.forge.model import CheckHappening, Happening
from coding_agent_testbed.forge.sandbox import Sandbox

PREFIX = "/api/v4"
MINUTE_QUOTA = 2000


def router() -> APIRouter:
    """Every route of the API."""
    api = APIRouter(prefix=PREFIX)
    for entry in (
        routes_discussions.router,
        routes_items.router,
        routes_reactions.router,
        routes_tokens.router,
        routes_project.router,
        routes_project.last_router,
    ):
        api.include_router(entry)
    return api


def new_guid() -> str:
    """A delivery's idempotency key."""
    return str(uuid.uuid4())


def tell(sandbox: Sandbox, happening: Happening) -> None:
    """Send what happened to the hooks of its project, and to those of the whole instance."""
    hooks = [hook for hook in sandbox.store.hooks if hook.repository in (None, happening.repository)]
    if not hooks:
        return
    told = message(happening, item_renderer(sandbox))
    for hook in hooks:
        if hook.wants(KINDS[told.event]):
            sandbox.deliveries.tell(hook, told, happening)


def tell_check(sandbox: Sandbox, happening: CheckHappening) -> None:
    """Send what became of a pipeline to the hooks of its project: only a new status is told."""
    if happening.status == happening.previous_status:
        return
    told = pipeline_message(happening, item_renderer(sandbox))
    for hook in sandbox.store.hooks:
        if hook.repository is happening.repository and hook.wants(KINDS[told.event]):
            sandbox.deliveries.tell(hook, told, happening)


def refused(refusal: HttpError) -> Response:
    """A refusal in GitLab's words: `error` for parameters, `message` for the rest, a list at conflicts."""
    if refusal.status == 400 and refusal.message.endswith(("missing", "invalid", "valid value")):
        return JSONResponse({"error": refusal.message}, 400, refusal.headers)
    if refusal.message == "Not Found":
        return JSONResponse({"error": "404 Not Found"}, 404, refusal.headers)
    several = refusal.status in (400, 409) and "Label" not in refusal.message
    message_ = [refusal.message] if several else refusal.message
    return JSONResponse({"message": message_}, refusal.status, refusal.headers)


async def headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """The headers that every answer of GitLab's API shows."""
    response = await call_next(request)
    if request.url.path.startswith(PREFIX):
        response.headers.update(
            {
                "ratelimit-limit": str(MINUTE_QUOTA),
                "ratelimit-remaining": str(MINUTE_QUOTA - 1),
                "x-request-id": secrets.token_hex(13).upper(),
            }
        )
    return response
