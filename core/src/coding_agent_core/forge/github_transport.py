"""GitHub's wire, by githubkit: authentication, base URL, throttling and pooled connections.

githubkit's own retry, HTTP cache and redirects are off: retries are `retrying`'s alone, a cache would keep
private answers as long as the process lives, and a redirect must not carry the token elsewhere. Its generated
REST methods are not used: they put path parameters into URLs unquoted (a label `a/b` would be another path),
and their models are those of github.com today, which an older GitHub Enterprise does not fill.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
from githubkit import GitHub
from githubkit.auth import BaseAuthStrategy
from githubkit.core import GitHubCore
from githubkit.exception import RequestError, RequestFailed

from coding_agent_core.forge.calls import TIMEOUT, Call
from coding_agent_core.forge.errors import retry_after
from coding_agent_core.forge.token import Token

API_VERSION = "2022-11-28"
"""The REST API version that github.com and every supported GitHub Enterprise Server answer."""
_HEADERS = {"X-GitHub-Api-Version": API_VERSION}


class _Auth(httpx.Auth):
    def __init__(self, token: Token) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token.current()}"
        yield request


class _AuthStrategy(BaseAuthStrategy):
    """The token as it is now, read for each request (githubkit's own keeps it, and shows it in its repr)."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def get_auth_flow(self, github: GitHubCore[Any]) -> httpx.Auth:
        return _Auth(self._token)


class _Pooled(GitHub[_AuthStrategy]):
    """githubkit with one connection pool for all tasks: its own lives in a context variable of one task."""

    _pool: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def get_async_client(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        if self._pool is None:
            self._pool = await self._create_async_client()
        yield self._pool

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None


def _plain_headers(now: Callable[[], datetime]) -> Callable[[httpx.Response], Awaitable[None]]:
    """Makes the headers that githubkit reads with `int()` numbers: RFC 9110 allows a date in Retry-After."""

    async def hook(response: httpx.Response) -> None:
        if "retry-after" in response.headers:
            response.headers["retry-after"] = str(int(retry_after(response.headers, now()) or 0))
        if not response.headers.get("x-ratelimit-reset", "0").isdigit():
            del response.headers["x-ratelimit-reset"]

    return hook


class GitHubSender:
    """Sends calls through githubkit."""

    def __init__(
        self,
        api_url: str,
        token: Token,
        *,
        now: Callable[[], datetime],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = token
        self._github = _Pooled(
            _AuthStrategy(token),
            base_url=api_url,
            user_agent="coding-agent",
            follow_redirects=False,
            timeout=TIMEOUT,
            ssl_verify=True,
            async_transport=transport,
            async_event_hooks={"response": [_plain_headers(now)]},
            http_cache=False,
            auto_retry=False,
        )

    async def send(self, call: Call) -> httpx.Response:
        """Send it once."""
        self._token.current()  # before githubkit, which would take its absence for a failed connection
        try:
            answer = await self._github.arequest(
                call.method, call.path, params=call.params or None, json=call.json, headers=_HEADERS
            )
        except RequestFailed as failed:
            return failed.response.raw_response
        except RequestError as error:
            if isinstance(error.exc, httpx.HTTPError):
                raise error.exc from None
            raise
        return answer.raw_response

    async def aclose(self) -> None:
        """Close connections."""
        await self._github.aclose()
