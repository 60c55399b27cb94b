"""How a forge is asked: one HTTP client for all of them.

Authentication, pace, retries within the policy, no redirect to another host, errors translated, answers
validated field by field.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, SettingsError
from coding_agent_core.forge.errors import message_of, rate_limited, translate
from coding_agent_core.forge.pacing import Pace
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.retry import Clock, RetryPolicy
from coding_agent_core.secrets import Secrets
from coding_agent_core.text import first_problem

_logger = logging.getLogger("coding_agent.forge")
_T = TypeVar("_T")

TIMEOUT = 10.0
"""Seconds to connect, and between two parts of an answer."""
TOTAL_TIMEOUT = 30.0
"""Seconds for one request from first to last byte, however slowly an answer trickles in."""
PAGE_SIZE = 100
"""Entries a page: the most that GitHub and GitLab give."""
_REDIRECTS = 3
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Answered(BaseModel):
    """Base of what is read from answers: the fields we use, whatever else the forge sends."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Repeat(Enum):
    """What repeating a request does."""

    SAFE = "safe"
    """Its effect and its answer are the same however often it is sent."""
    UNLESS_PROCESSED = "unless processed"
    """Only after a failure in which the forge certainly did nothing: no connection, or rate-limited."""


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        path: below the API's base URL, with segments quoted; or an absolute URL of the same host.
        what: for error sentences, e.g. `reading owner/repo#7`.
    """

    method: str
    path: str
    what: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    repeat: Repeat = Repeat.SAFE


def path(*values: str | int) -> str:
    """A path of quoted segments: slashes, spaces and the dots of `.` and `..` are encoded."""
    texts = [quote(str(value), safe="") for value in values]
    return "/" + "/".join(text.replace(".", "%2E") if text in (".", "..") else text for text in texts)


@dataclass
class Token:
    """The token of one platform's configured installation, read again when its file changes."""

    platform: Platform
    secrets: Secrets = field(repr=False)

    def current(self) -> str:
        """The value to send now.

        Raises:
            SettingsError: none is configured, or its file is absent or empty.
        """
        value = self.secrets.first()
        if value is None:
            facts = FACTS[self.platform]
            files = ", ".join(str(file) for file in self.secrets.settings.files)
            unreadable = f" ({files} cannot be read or is empty)" if files else ""
            raise SettingsError(
                f"No token for {facts.title}{unreadable}: set `{self.platform}.personal_access_token` in the "
                f"configuration file or the variable {facts.credential_variable}."
            )
        return value

    def fingerprint(self) -> str:
        """Tells whether the token is still the same one, without keeping it."""
        return hashlib.sha256(self.current().encode()).hexdigest()


@dataclass
class ForgeClient:
    """Sends calls to one forge.

    Attributes:
        host: for error sentences.
        api_url: the API's base URL.
        headers: of every request.
        pace: when each request may be sent, repeated and redirected ones included.
        transport: instead of the network, for tests.
    """

    host: str
    api_url: str
    token: Token
    headers: Mapping[str, str]
    policy: RetryPolicy
    clock: Clock
    pace: Pace
    transport: httpx.AsyncBaseTransport | None = None

    def __post_init__(self) -> None:
        self._pool: httpx.AsyncClient | None = None

    async def get(self, type_: type[_T], call: Call) -> _T:
        """Send it and read the answer as `type_`.

        Raises:
            ForgeError: as translated from the answer; `ForgeUnavailableError` also for an answer of another
                shape, with the field named.
        """
        return self.parse(type_, await self.send(call), call)

    async def send(self, call: Call) -> httpx.Response:
        """Send it, again where that is safe and can help.

        Raises:
            ForgeError: what the last answer, or its absence, means.
        """
        began = self.clock.monotonic()
        tried = 0
        while True:
            tried += 1
            outcome = await self._try(call)
            if isinstance(outcome, httpx.Response):
                return outcome
            error, repeatable = outcome
            wait = self.policy.next_wait(
                tried=tried,
                elapsed=self.clock.monotonic() - began,
                chance=self.clock.chance(),
                retry_after=error.retry_after,
            )
            if not repeatable or wait is None:
                raise error
            _logger.info("%s; trying again in %.1f s (%d of %d)", error, wait, tried + 1, self.policy.tries)
            await self.clock.sleep(wait)

    async def pages(
        self, type_: type[_T], call: Call, *, limit: int, first: int = 1
    ) -> AsyncIterator[tuple[_T, httpx.Response]]:
        """The pages of a list from page `first` on, as long as there is a next, `limit` of them at most."""
        for number in range(first, first + limit):
            numbered = replace(call, params={**call.params, "per_page": PAGE_SIZE, "page": number})
            response = await self.send(numbered)
            yield self.parse(type_, response, numbered), response
            if "next" not in response.links:
                return

    async def newest_first(self, type_: type[_T], call: Call, *, limit: int) -> AsyncIterator[_T]:
        """Pages of a list that the forge sorts oldest first, from the last one backwards."""
        first: _T | None = None
        last = 1
        async for page, response in self.pages(type_, call, limit=1):
            first, last = page, last_page(response)
        for number in range(last, max(1, last - limit), -1):
            async for page, _ in self.pages(type_, call, limit=1, first=number):
                yield page
        if first is not None and last <= limit:
            yield first

    def parse(self, type_: type[_T], response: httpx.Response, call: Call) -> _T:
        """Read an answer as `type_`.

        Raises:
            ForgeUnavailableError: it has another shape; the first wrong field is named.
        """
        try:
            return TypeAdapter(type_).validate_json(response.content)
        except ValidationError as error:
            raise ForgeUnavailableError(
                f"{self.host} gave an answer of an unknown shape while {call.what}: {first_problem(error)}",
                status=response.status_code,
            ) from None  # the validation error quotes the answer

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def _try(self, call: Call) -> httpx.Response | tuple[ForgeError, bool]:
        """One try: the answer, or the error and whether another try is safe and may help."""
        safe = call.repeat is Repeat.SAFE
        try:
            response = await self._following(call)
        except ForgeUnavailableError as error:  # our own pace: it says itself when to come back
            return error, False
        except TimeoutError:
            return self._unreachable(call, f"no whole answer within {TOTAL_TIMEOUT:.0f} s"), safe
        except httpx.HTTPError as error:
            problem = self._unreachable(call, str(error) or type(error).__name__)
            return problem, safe or isinstance(error, _NOT_SENT)
        if response.is_success:
            return response
        translated = translate(
            response.status_code,
            response.headers,
            response.content,
            what=call.what,
            host=self.host,
            now=self.clock.now(),
        )
        limited = rate_limited(response.status_code, response.headers, message_of(response.content))
        return translated, isinstance(translated, ForgeUnavailableError) and (safe or limited)

    async def _following(self, call: Call) -> httpx.Response:
        """Send it, following redirects on the same host: a renamed repository answers with one.

        A redirect elsewhere is an error as it stands: the token must not go there.
        """
        response = await self._sent(call)
        for _ in range(_REDIRECTS):
            target = response.next_request.url if response.next_request else None
            permitted = call.method == "GET" or response.status_code in (307, 308)
            if target is None or not permitted or _origin(str(target)) != _origin(self.api_url):
                break
            # A Location is a whole address: its query is given, ours must not be appended again.
            response = await self._sent(replace(call, path=str(target), params={}))
        return response

    async def _sent(self, call: Call) -> httpx.Response:
        """One request on the wire, when its turn has come. Any status is an answer."""
        # `Bearer` takes tokens of all kinds on both forges, and is a header that HTTP libraries keep secret.
        headers = {**self.headers, "Authorization": f"Bearer {self.token.current()}"}
        await self.pace.turn(call.method)
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                response = await self._client().request(
                    call.method, call.path, params=call.params or None, json=call.json, headers=headers
                )
        except (TimeoutError, httpx.HTTPError):
            self.pace.answered(call.method, None, {}, b"")
            raise
        self.pace.answered(call.method, response.status_code, response.headers, response.content)
        return response

    def _client(self) -> httpx.AsyncClient:
        """One pool of connections, opened at the first request; `SSL_CERT_FILE` names other authorities."""
        if self._pool is None:
            self._pool = httpx.AsyncClient(
                base_url=self.api_url.rstrip("/"),
                headers={"User-Agent": "coding-agent"},
                timeout=TIMEOUT,
                follow_redirects=False,
                verify=True,
                transport=self.transport,
            )
        return self._pool

    def _unreachable(self, call: Call, reason: str) -> ForgeUnavailableError:
        return ForgeUnavailableError(f"{self.host} cannot be reached while {call.what}: {reason[:200]}")


def last_page(response: httpx.Response) -> int:
    """The number of a list's last page, from the `Link` header; 1 where there is none."""
    url = response.links.get("last", {}).get("url", "")
    numbers = parse_qs(urlsplit(url).query).get("page", [])
    return int(numbers[0]) if numbers and numbers[0].isdigit() else 1


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
