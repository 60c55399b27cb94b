"""Webhooks of a repository, their deliveries, and sending one again."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.access import (
    Actor,
    InRepository,
    Render,
    SandboxOf,
    needs_admin,
    paged,
)
from coding_agent_testbed.forge.github.webhooks import hook_json, ping
from coding_agent_testbed.forge.model import Delivery, Hook, Repository
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import github_time

router = APIRouter(prefix="/repos/{owner}/{repo}/hooks")


class HookConfig(BaseModel):
    """Where and how to deliver."""

    url: str
    content_type: str = "form"
    secret: str = ""


class NewHook(BaseModel):
    """Body of `POST hooks`."""

    config: HookConfig
    events: list[str] = ["push"]
    active: bool = True


def _find(sandbox: Sandbox, repository: Repository, hook_id: int) -> Hook:
    for hook in sandbox.store.hooks:
        if hook.id == hook_id and hook.repository is repository:
            return hook
    raise HttpError(404, "Not Found")


def _delivery(sandbox: Sandbox, hook: Hook, delivery_id: int) -> Delivery:
    for delivery in sandbox.deliveries.of_hook(hook):
        if delivery.id == delivery_id:
            return delivery
    raise HttpError(404, "Not Found")


def _shown(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": github_time(delivery.delivered_at),
        "redelivery": delivery.redelivery,
        "duration": delivery.duration,
        "status": delivery.status,
        "status_code": delivery.status_code,
        "event": delivery.event,
        "action": delivery.action,
        "installation_id": None,
        "repository_id": delivery.repository_id,
        "throttled_at": None,
    }


@router.get("")
async def list_hooks(
    request: Request,
    response: Response,
    repository: InRepository,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
) -> list[dict[str, Any]]:
    """The repository's webhooks."""
    needs_admin(repository, user)
    hooks = [hook for hook in sandbox.store.hooks if hook.repository is repository]
    return [hook_json(hook, render) for hook in paged(hooks, request, response)]


@router.post("", status_code=201)
async def create_hook(
    new: NewHook, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Set a webhook up; a ping is sent to it. The sandbox sends JSON alone."""
    needs_admin(repository, user)
    if new.config.content_type != "json":
        raise HttpError(422, "The sandbox sends JSON alone: set config.content_type to json.")
    hook = sandbox.store.add_hook(
        repository, new.config.url, new.config.secret, new.events, active=new.active
    )
    sandbox.deliveries.send(hook, ping(hook, render, sandbox.store.users))
    return hook_json(hook, render)


@router.get("/{hook_id}/deliveries")
async def deliveries(
    hook_id: int,
    request: Request,
    response: Response,
    repository: InRepository,
    sandbox: SandboxOf,
    user: Actor,
) -> list[dict[str, Any]]:
    """What was sent, newest first, without the payloads. The next page is asked for by `cursor`."""
    needs_admin(repository, user)
    query = request.query_params
    sent = sandbox.deliveries.of_hook(_find(sandbox, repository, hook_id))
    if query.get("status") in ("success", "failure"):
        sent = [one for one in sent if (one.status == "OK") == (query["status"] == "success")]
    if query.get("cursor", "").isdigit():
        sent = [one for one in sent if one.id <= int(query["cursor"])]
    size = min(100, int(query["per_page"])) if query.get("per_page", "").isdigit() else 30
    if len(sent) > size:
        following = request.url.include_query_params(cursor=sent[size].id)
        response.headers["link"] = f'<{following}>; rel="next"'
    return [_shown(delivery) for delivery in sent[:size]]


@router.get("/{hook_id}/deliveries/{delivery_id}")
async def get_delivery(
    hook_id: int, delivery_id: int, repository: InRepository, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """One delivery with what was sent and what came back."""
    needs_admin(repository, user)
    delivery = _delivery(sandbox, _find(sandbox, repository, hook_id), delivery_id)
    return _shown(delivery) | {
        "url": delivery.hook.url,
        "request": {"headers": delivery.headers, "payload": delivery.payload},
        "response": {"headers": delivery.response_headers, "payload": delivery.response_body},
    }


@router.post("/{hook_id}/deliveries/{delivery_id}/attempts", status_code=202)
async def redeliver(
    hook_id: int, delivery_id: int, repository: InRepository, sandbox: SandboxOf, user: Actor
) -> dict[str, Any]:
    """Send a delivery again, with the same `X-GitHub-Delivery`."""
    needs_admin(repository, user)
    sandbox.deliveries.resend(_delivery(sandbox, _find(sandbox, repository, hook_id), delivery_id))
    return {}


@router.post("/{hook_id}/pings", status_code=204)
async def send_ping(
    hook_id: int, repository: InRepository, render: Render, sandbox: SandboxOf, user: Actor
) -> None:
    """Send a ping."""
    needs_admin(repository, user)
    hook = _find(sandbox, repository, hook_id)
    sandbox.deliveries.send(hook, ping(hook, render, sandbox.store.users))
