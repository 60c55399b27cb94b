"""Who is asking: a token in any of the ways that clients of both forges send one."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from coding_agent_testbed.forge.model import User


def token_of(headers: Mapping[str, str]) -> str | None:
    """The token of a request: `Authorization` (Bearer, token, Basic) or `PRIVATE-TOKEN`."""
    private = headers.get("private-token")
    if private:
        return private
    scheme, _, value = headers.get("authorization", "").partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme in ("bearer", "token") and value:
        return value
    if scheme != "basic":
        return None
    try:
        name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password or name or None


def authenticate(headers: Mapping[str, str], users: Iterable[User], now: datetime) -> User | None:
    """The user whose token the request has; `None` if it has no token, or one that is wrong or expired."""
    token = token_of(headers)
    if token is None:
        return None
    for user in users:
        if user.token and hmac.compare_digest(user.token.encode(), token.encode()):
            ends = user.token_expires_at
            return user if ends is None or now.astimezone(UTC).date() < ends else None
    return None
