"""The token of a GitHub App as attempts and programs get it: from the token service, and renewed in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from pydantic import Field, ValidationError

from coding_agent_core.errors import ForgeError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.calls import ResponseModel
from coding_agent_core.retry import Clock

PATH = "/v1/token"
TIMEOUT = 60.0
"""Seconds for one request. The service sends up to three requests to GitHub, and may repeat them."""
RENEW_BEFORE = 300.0
"""A token with fewer seconds left is replaced. The service gives tokens that have at least ten minutes left,
unless GitHub is not available."""


class TokenAnswer(ResponseModel):
    """The token service's answer.

    Attributes:
        expires_in: the seconds for which the token is valid.
        login: the App's account.
    """

    token: str = Field(min_length=1, repr=False)
    expires_in: float
    login: str


@dataclass
class ServiceToken:
    """Asks the token service for the token of one repository; a `TokenSource`.

    Attributes:
        url: the service's base URL.
        repository: `owner/name`; empty for the poll of an installation.
        credential: returns what identifies us now, e.g. the content of a projected token's file.
        place: where a person sets the App, for messages.
        learned: is told each new token, so that no log and no transcript shows it.
        transport: replaces the network in tests.
    """

    url: str
    repository: str
    credential: Callable[[], str] = field(repr=False)
    clock: Clock
    learned: Callable[[str], None] = field(repr=False)
    place: str = "`github.app`"
    transport: httpx.AsyncBaseTransport | None = None
    _answer: TokenAnswer | None = field(default=None, repr=False)
    _expires: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def current(self) -> str:
        return (await self._current()).token

    async def identity(self) -> str:
        return (await self._current()).login

    async def _current(self) -> TokenAnswer:
        async with self._lock:
            left = self._expires - self.clock.monotonic()
            if self._answer is None or left <= RENEW_BEFORE:
                try:
                    answer = await self._ask()
                except ForgeUnavailableError:
                    if self._answer is None or left <= 0:
                        raise
                else:
                    self.learned(answer.token)
                    self._answer, self._expires = answer, self.clock.monotonic() + answer.expires_in
            return self._answer

    async def _ask(self) -> TokenAnswer:
        try:
            # A connection for each request: there is one in an hour.
            async with httpx.AsyncClient(
                base_url=self.url, timeout=TIMEOUT, transport=self.transport, trust_env=False
            ) as client:
                answer = await client.post(
                    PATH,
                    json={"repository": self.repository},
                    headers={"Authorization": f"Bearer {self.credential()}"},
                )
        except httpx.HTTPError as error:
            raise _unavailable(
                f"The token service cannot be reached: {str(error)[:200] or type(error).__name__}"
            ) from None
        if answer.status_code != 200:
            raise service_error(answer.status_code, answer.headers.get("retry-after", ""), answer.content)
        try:
            return TokenAnswer.model_validate_json(answer.content)
        except ValidationError:
            raise _unavailable(
                "The token service gave an unexpected answer."
            ) from None  # it quotes the token


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
