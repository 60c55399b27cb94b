"""The credential with which an attempt asks the token service for a token of its repository. Pure.

A credential is a JWT (HS256), signed by the operator with a key that operator and token service share. It
says for which repository and purpose its bearer gets tokens, so the service keeps no state about attempts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import jwt
from pydantic import BaseModel, Field, ValidationError

from coding_agent_forges.github.app_settings import Purpose

_AUDIENCE = "coding-agent-tokens"
_ALGORITHM = "HS256"
CREDENTIAL_VARIABLE = "CODING_AGENT_TOKEN_CREDENTIAL"
"""The environment variable with an attempt's credential."""
SHORTEST_KEY = 32
"""Bytes. RFC 7518, section 3.2: a key for HS256 is at least as long as its hash."""


class TokenCredential(BaseModel, frozen=True, extra="forbid"):
    """The claims of a credential.

    Attributes:
        job: the name of the attempt's Job, for the service's log.
        repository: `owner/name`.
        expires: the end of the Job's time limit.
        namespace: the Job's namespace, which may have tokens for some repositories only; empty in credentials
            of operators before this was added.
    """

    job: str = Field(min_length=1, max_length=63)
    host: str = Field(min_length=1, max_length=253)
    repository: str = Field(pattern=r"^[^/\s]+/[^/\s]+$", max_length=200)
    purpose: Purpose
    expires: datetime
    namespace: str = Field(default="", max_length=63)


def signed(credential: TokenCredential, key: str) -> str:
    """Return the signed credential, which the attempt sends.

    Raises:
        ValueError: the key is too short.
    """
    if len(key.encode()) < SHORTEST_KEY:
        raise ValueError(f"the key of the token service has fewer than {SHORTEST_KEY} bytes")
    claims = {
        "aud": _AUDIENCE,
        "sub": credential.job,
        "exp": int(credential.expires.timestamp()),
        "host": credential.host,
        "repository": credential.repository,
        "purpose": credential.purpose.value,
        "namespace": credential.namespace,
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read_credential(text: str, keys: Iterable[str], now: datetime) -> TokenCredential | None:
    """Return a credential's claims; `None` if no key has signed it, or if it has expired.

    Args:
        keys: during a rotation, the old and the new one. Keys that are too short are ignored.
    """
    options = {"require": ["aud", "sub", "exp", "host", "repository", "purpose"], "verify_exp": False}
    for key in keys:
        if len(key.encode()) < SHORTEST_KEY:
            continue
        try:
            claims = jwt.decode(
                text,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options=options,  # type: ignore[arg-type]
            )
            credential = TokenCredential(
                job=claims["sub"],
                host=claims["host"],
                repository=claims["repository"],
                purpose=claims["purpose"],
                expires=datetime.fromtimestamp(claims["exp"], UTC),
                namespace=claims.get("namespace", ""),
            )
        except (jwt.PyJWTError, ValidationError, TypeError, ValueError, OverflowError, OSError):
            continue
        return credential if now < credential.expires else None
    return None
