"""The token of a request: when it expires, and its rotation.

https://docs.gitlab.com/api/personal_access_tokens/. The tokens of projects and groups are personal access
tokens of bot users, and answer here too.
"""

from __future__ import annotations

import secrets
from datetime import date, timedelta
from typing import Any

from fastapi import APIRouter

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.access import Actor, Parameters, SandboxOf
from coding_agent_testbed.forge.model import User
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import gitlab_time

router = APIRouter(prefix="/personal_access_tokens/self")
_ROTATED = timedelta(days=7)
"""How long a rotated token lives if the request does not say it."""
_LONGEST = timedelta(days=365)


def _token_json(sandbox: Sandbox, user: User) -> dict[str, Any]:
    return {
        "id": user.token_id,
        "name": "coding agent",
        "revoked": False,
        "created_at": gitlab_time(sandbox.store.now()),
        "description": None,
        "scopes": ["api"] if user.scopes is None else list(user.scopes),
        "user_id": user.id,
        "last_used_at": gitlab_time(sandbox.store.now()),
        "active": True,
        "expires_at": user.token_expires_at.isoformat() if user.token_expires_at else None,
    }


@router.get("")
async def own_token(user: Actor, sandbox: SandboxOf) -> dict[str, Any]:
    """The token of the request."""
    return _token_json(sandbox, user)


@router.post("/rotate")
async def rotate(user: Actor, sandbox: SandboxOf, params: Parameters) -> dict[str, Any]:
    """Replace the token of the request by a new one; the old one is void at once."""
    today, wanted = sandbox.clock().date(), params.text("expires_at")
    try:
        ends = date.fromisoformat(wanted) if wanted else today + _ROTATED
    except ValueError:
        raise HttpError(400, "expires_at is invalid") from None
    if not today < ends <= today + _LONGEST:
        raise HttpError(400, "Expiration date must be between tomorrow and a year from now")
    user.token, user.token_expires_at = f"glpat-{secrets.token_urlsafe(15)}", ends
    user.token_id += 1
    return _token_json(sandbox, user) | {"token": user.token}
