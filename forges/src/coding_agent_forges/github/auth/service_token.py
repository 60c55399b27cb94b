"""The client of the token service, from which attempts and programs get tokens of the GitHub App."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import httpx2
from coding_agent_core.errors import (
    ForgeError,
    ForgeRefusedError,
    ForgeUnavailableError,
    TokenMissingError,
)
from coding_agent_core.runtime.retry import Clock, Shared
from coding_agent_core.settings.section import Secrets
from pydantic import Field, ValidationError

from coding_agent_forges.github.auth.app import ACCOUNT_PATH, TOKEN_PATH, token_hash
from coding_agent_forges.rest.calls import ResponseModel, User
from coding_agent_forges.rest.client import remember_token

TIMEOUT = 60.0
"""Seconds for one request. The service sends up to three requests to GitHub, and may repeat them."""
RENEW_BEFORE = 300.0
"""A token with fewer seconds left is replaced. The service gives tokens that have at least ten minutes left,
unless GitHub is not available."""
AGAIN_AFTER = 30.0
"""Seconds until the service is asked again for a token that it could not renew."""
MISSING = (
    "Nothing identifies this program at the token service: `github.token_credential` is not set, or "
    "its file is absent or empty."
)
_Model = TypeVar("_Model", bound=ResponseModel)


class TokenResponse(ResponseModel):
    """The token service's response.

    Attributes:
        expires_in: the seconds for which the token is valid.
    """

    token: str = Field(min_length=1, repr=False)
    expires_in: float


@dataclass(frozen=True)
class _Kept:
    """A token, and when it expires and is to be renewed, in seconds of our monotonic clock."""

    token: str = field(default="", repr=False)
    expires: float = 0.0
    renew: float = 0.0


@dataclass
class ServiceTokens:
    """The token source that asks the token service, for each repository separately.

    Attributes:
        url: the service's base URL.
        credential: returns our current credential, e.g. a projected token of our ServiceAccount.
        only: the only repository for which an attempt gets a token. It sends this token with all requests,
            even about another repository, which the token opens if that repository is public. Empty for a
            program that works on all repositories.
        place: where a person sets the App, for messages.
        transport: replaces the network in tests.
    """

    url: str
    credential: Secrets = field(repr=False)
    clock: Clock
    only: str = ""
    place: str = "`github.app`"
    transport: httpx2.AsyncBaseTransport | None = None
    _kept: dict[str, _Kept] = field(default_factory=dict, repr=False)
    _renewals: Shared[str, str] = field(default_factory=Shared, repr=False)
    _account: User | None = field(default=None, repr=False)

    async def current(self, repository: str, refused: str = "") -> str:
        repository = self.only or repository
        kept = self._kept.get(repository.lower(), _Kept())
        if refused and refused == kept.token:
            del self._kept[repository.lower()]
        elif self.clock.monotonic() < kept.renew:
            return kept.token
        return await self._renewals.run(repository.lower(), lambda: self._renew(repository, refused))

    async def _renew(self, repository: str, refused: str) -> str:
        """Renew a token. While the service does not respond, the old token is used until it expires."""
        wanted = {"repository": repository, **({"refused": token_hash(refused)} if refused else {})}
        kept = self._kept.get(repository.lower(), _Kept())
        try:
            answer = _parsed(TokenResponse, await self._ask("POST", TOKEN_PATH, wanted))
        except ForgeUnavailableError:
            now = self.clock.monotonic()
            if kept.expires <= now:
                raise
            kept = replace(kept, renew=min(now + AGAIN_AFTER, kept.expires))
        else:
            remember_token(answer.token)
            now = self.clock.monotonic()
            expires = now + answer.expires_in
            kept = _Kept(answer.token, expires, max(expires - RENEW_BEFORE, min(now + AGAIN_AFTER, expires)))
        self._kept[repository.lower()] = kept
        return kept.token

    async def account(self) -> User:
        if self._account is None:
            self._account = _parsed(User, await self._ask("GET", ACCOUNT_PATH))
        return self._account

    async def identity(self) -> str:
        return (await self.account()).login

    async def aclose(self) -> None:
        pass

    async def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> bytes:
        """Send one request and return the body of the response."""
        credential = self.credential.first()
        if credential is None:
            raise TokenMissingError(MISSING)
        try:
            # A connection for each request, because there is one in an hour. Only attempts may have to go
            # through a proxy: with the egress proxy, they reach nothing else.
            async with httpx2.AsyncClient(
                base_url=self.url, timeout=TIMEOUT, transport=self.transport, trust_env=bool(self.only)
            ) as client:
                headers = {"Authorization": f"Bearer {credential}"}
                answer = await client.request(method, path, json=body, headers=headers)
        except httpx2.HTTPError as error:
            raise _unavailable(
                f"The token service cannot be reached: {str(error)[:200] or type(error).__name__}"
            ) from None
        if answer.status_code != 200:
            raise service_error(answer.status_code, answer.headers.get("retry-after", ""), answer.content)
        return answer.content


def _parsed(type_: type[_Model], content: bytes) -> _Model:
    try:
        return type_.model_validate_json(content)
    except ValidationError:
        raise _unavailable("The token service gave an unexpected answer.") from None  # it quotes the token


def service_error(status: int, retry_after: str, content: bytes) -> ForgeError:
    """Return the error for a refusal of the token service, with the service's sentence for people."""
    try:
        said = str(json.loads(content)["message"])[:1000]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = f"The token service answered {status}."
    if status in (401, 403):
        return ForgeRefusedError(said, status=status)
    return _unavailable(said, float(retry_after) if retry_after.isdecimal() else None)


def _unavailable(message: str, retry_after: float | None = None) -> ForgeUnavailableError:
    error = ForgeUnavailableError(message, retry_after=retry_after)
    error.repeatable = True  # nothing was sent to the forge
    return error
