"""What tests control and see: faults, the clock, the logs of events and requests, the state.

No vendor has this, and no token is asked for it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from coding_agent_testbed.forge.delivery_settings import DeliverySettings
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.history import HistorySettings
from coding_agent_testbed.forge.model import Item, Repository
from coding_agent_testbed.forge.sandbox import Sandbox

router = APIRouter(prefix="/_sandbox")


def _sandbox(request: Request) -> Sandbox:
    sandbox = request.app.state.sandbox
    assert isinstance(sandbox, Sandbox)
    return sandbox


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the server is up."""
    return {"status": "ok"}


@router.post("/faults", status_code=201)
async def plant(fault: Fault, request: Request) -> dict[str, Any]:
    """Plant a fault; 409 if there was one of its id."""
    if any(planted.id == fault.id for planted in _sandbox(request).faults):
        raise HttpError(409, f"There is a fault {fault.id!r} already: give this one another id.")
    _sandbox(request).faults.append(fault)
    return shown(fault)


def shown(fault: Fault) -> dict[str, Any]:
    """A fault as JSON, with how many requests it has hit and whether it has ended."""
    return fault.model_dump() | {"hits": fault.hits, "ended": fault.ended}


@router.get("/faults")
async def planted(request: Request) -> list[dict[str, Any]]:
    """Faults that have not all happened yet."""
    return [shown(fault) for fault in _sandbox(request).faults if not fault.ended]


@router.get("/faults/{identifier}")
async def get_fault(identifier: str, request: Request) -> dict[str, Any]:
    """One fault, ended or not."""
    return shown(_fault(request, identifier))


@router.delete("/faults/{identifier}")
async def end(identifier: str, request: Request) -> dict[str, Any]:
    """End one fault, which stays readable."""
    fault = _fault(request, identifier)
    fault.end()
    return shown(fault)


def _fault(request: Request, identifier: str) -> Fault:
    for fault in _sandbox(request).faults:
        if fault.id == identifier:
            return fault
    raise HttpError(404, f"There is no fault {identifier!r}")


@router.delete("/faults", status_code=204)
async def clear(request: Request) -> None:
    """Take all faults back."""
    _sandbox(request).faults.clear()


class ClockSetting(BaseModel):
    """How the forge's clock is set: seconds ahead of the machine's; negative: behind."""

    ahead_seconds: float = Field(ge=-1e8, le=1e8)


@router.put("/clock")
async def set_clock(setting: ClockSetting, request: Request) -> dict[str, str]:
    """Set the forge's clock; what has happened keeps its time. The answer is the time that it shows now."""
    clock = _sandbox(request).clock
    clock.ahead = timedelta(seconds=setting.ahead_seconds)
    return {"now": clock().isoformat()}


@router.put("/delivery-settings")
async def set_deliveries(settings: DeliverySettings, request: Request) -> DeliverySettings:
    """Say how webhooks are delivered from now on: late, twice, out of order or not at all."""
    _sandbox(request).deliveries.settings = settings
    return settings


@router.put("/history-settings")
async def set_history(settings: HistorySettings, request: Request) -> HistorySettings:
    """Set how far the lists of items' events are behind from now on."""
    _sandbox(request).history.settings = settings
    return settings


@router.get("/events")
async def events(request: Request, after: int = 0) -> list[dict[str, Any]]:
    """What people and programs did, oldest first; with `after`, only what is newer than that event."""
    return [event.as_dict() for event in _sandbox(request).store.log.after(after)]


@router.get("/requests")
async def requests(request: Request) -> list[dict[str, Any]]:
    """API requests since the start, or since they were last deleted."""
    return [entry.as_dict() for entry in _sandbox(request).requests]


@router.delete("/requests", status_code=204)
async def forget(request: Request) -> None:
    """Empty the log of requests."""
    _sandbox(request).requests.clear()


@router.get("/state")
async def state(request: Request) -> dict[str, Any]:
    """Everything that tests like to assert on, in one flavourless shape."""
    sandbox = _sandbox(request)
    return {
        "flavour": sandbox.store.flavour.value,
        "repositories": {
            repository.full_name: {
                "id": repository.id,
                "default_branch": repository.default_branch,
                "labels": [label.name for label in repository.labels],
                "items": [item_state(sandbox, repository, item) for item in repository.items],
            }
            for repository in sandbox.store.repositories
        },
        "deliveries": [
            {
                "id": delivery.id,
                "guid": delivery.guid,
                "hook": delivery.hook.id,
                "event": delivery.event,
                "action": delivery.action,
                "redelivery": delivery.redelivery,
                "status": delivery.status,
                "status_code": delivery.status_code,
                "response": delivery.response_body,
            }
            for delivery in sandbox.deliveries.log
        ],
    }


def item_state(sandbox: Sandbox, repository: Repository, item: Item) -> dict[str, Any]:
    """An item as `state` shows it."""
    return {
        "id": item.id,
        "kind": item.kind.value,
        "number": item.number,
        "title": item.title,
        "body": item.body,
        "url": sandbox.url_of(repository, item),
        "author": item.author.login,
        "open": item.open,
        "merged": item.merged_at is not None,
        "labels": [label.name for label in item.labels],
        "comments": [
            {
                "id": comment.id,
                "author": comment.author.login,
                "body": comment.body,
                "system": comment.system,
                "edited": comment.updated_at != comment.created_at,
                "reactions": [
                    {"user": reaction.user.login, "name": reaction.name} for reaction in comment.reactions
                ],
            }
            for comment in item.comments
        ],
        "history": [
            {
                "event": event.event,
                "label": event.label.name if event.label else None,
                "actor": event.actor.login,
            }
            for event in item.events
        ],
        "head": item.head,
        "base": item.base,
        "head_sha": item.tips.head_sha,
    }
