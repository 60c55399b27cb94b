"""The token of a GitHub App as attempts and programs get it: from the token service, and renewed in time."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from pydantic import Field, ValidationError

from coding_agent_core.errors import (
    ForgeError,
    ForgeRefusedError,
    ForgeUnavailableError,
    TokenMissingError,
)
from coding_agent_core.forge.calls import ResponseModel, User
from coding_agent_core.forge.issued_tokens import remember_token
from coding_agent_core.retry import Clock
from coding_agent_core.settings.section import Secrets

TOKEN_PATH = "/v1/token"  # noqa: S105 - a path
ACCOUNT_PATH = "/v1/account"
TIMEOUT = 60.0
"""Seconds for one request. The service sends up to three requests to GitHub, and may repeat them."""
RENEW_BEFORE = 300.0
"""A token with fewer seconds left is replaced. The service gives tokens that have at least ten minutes left,
unless GitHub is not available."""
MISSING = (
    "Nothing identifies this program at the token service: `github.token_credential` is not set, or "
    "its file is absent or empty."
)
_Model = TypeVar("_Model", bound=ResponseModel)


class TokenAnswer(ResponseModel):
    """The token service's answer.

    Attributes:
        expires_in: the seconds for which the token is valid.
    """

    token: str = Field(min_length=1, repr=False)
    expires_in: float


@dataclass
class _Kept:
    token: str = field(default="", repr=False)
    expires: float = 0.0
    """Seconds of our monotonic clock."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


@dataclass
class ServiceTokens:
    """Asks the token service for tokens, each for one repository; a `TokenSource`.

    Attributes:
        url: the service's base URL.
        credential: what identifies us now, e.g. a projected token of our ServiceAccount.
        only: an attempt's repository, for which alone it gets a token. It sends this token with all requests,
            also with those about another repository, which the token opens if that is public. Empty for a
            program that works on all repositories.
        place: where a person sets the App, for messages.
        transport: replaces the network in tests.
    """

    url: str
    credential: Secrets = field(repr=False)
    clock: Clock
    only: str = ""
    place: str = "`github.app`"
    transport: httpx.AsyncBaseTransport | None = None
    _kept: defaultdict[str, _Kept] = field(default_factory=lambda: defaultdict(_Kept), repr=False)
    _account: User | None = field(default=None, repr=False)

    async def current(self, repository: str) -> str:
        repository = self.only or repository
        kept = self._kept[repository.lower()]
        async with kept.lock:
            left = kept.expires - self.clock.monotonic()
            if left <= RENEW_BEFORE:
                try:
                    content = await self._ask("POST", TOKEN_PATH, {"repository": repository})
                    answer = _parsed(TokenAnswer, content)
                except ForgeUnavailableError:
                    if left <= 0:
                        raise
                else:
                    remember_token(answer.token)
                    kept.token, kept.expires = answer.token, self.clock.monotonic() + answer.expires_in
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
        """Send one request and return the content of its answer."""
        credential = self.credential.first()
        if credential is None:
            raise TokenMissingError(MISSING)
        try:
            # A connection for each request, because there is one in an hour. Only attempts may have to go
            # through a proxy: with the egress proxy, they reach nothing else.
            async with httpx.AsyncClient(
                base_url=self.url, timeout=TIMEOUT, transport=self.transport, trust_env=bool(self.only)
            ) as client:
                headers = {"Authorization": f"Bearer {credential}"}
                answer = await client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
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
    """Return the error for a refusal of the token service, which has a sentence for a person."""
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
