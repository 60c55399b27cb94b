"""Rate limits for each client address (requirement S10), with slowapi.

Only what fails verification is counted, after it failed: an authentic event that is answered 429 would be
lost, for GitHub does not send it again. `webhook.rate_limit.verified` limits those too, for who wants that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.forges import RateLimit
from limits import parse_many
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from starlette.requests import Request
from starlette.responses import Response

_BUCKETS = 65_536
"""Clients that fail share this many counters, so that many addresses cannot take much memory. Two that meet
in one can at worst get 429 where they would have got 401."""

Check = Callable[[Request], Awaitable[Response]]


class RateLimits:
    """The two limits of one receiver.

    Args:
        client: the client of a request, see `address.client_group`.

    Raises:
        SettingsError: a limit is not in slowapi's notation.
    """

    def __init__(self, settings: RateLimit, client: Callable[[Request], str]) -> None:
        for name, notation in (("failed", settings.failed), ("verified", settings.verified)):
            _require_notation(name, notation)

        # slowapi hands over the request where the parameter has this name.
        def group(request: Request) -> str:
            return client(request)

        def bucket(request: Request) -> str:
            return _bucket(client(request))

        self._limiter = Limiter(key_func=bucket)
        self._failed: Check = self._limiter.shared_limit(settings.failed, scope="failed")(_failed_requests)
        self._verified: Check | None = None
        if settings.verified is not None:
            limit = self._limiter.shared_limit(settings.verified, scope="verified", key_func=group)
            self._verified = limit(_verified_requests)

    async def failed(self, request: Request) -> int | None:
        """Count a request that failed verification; seconds to wait if there were too many, else `None`."""
        return await self._count(self._failed, request)

    async def verified(self, request: Request) -> int | None:
        """Count an authentic request; seconds to wait if there were too many, else `None`."""
        return None if self._verified is None else await self._count(self._verified, request)

    async def _count(self, check: Check, request: Request) -> int | None:
        try:
            await check(request)
        except RateLimitExceeded:
            limit, key = request.state.view_rate_limit
            reset = self._limiter.limiter.get_window_stats(limit, *key).reset_time
            return max(1, round(reset - time.time()))
        return None


# slowapi counts calls of decorated functions and knows them by name; these two stand for such a request.
async def _failed_requests(request: Request) -> Response:
    return Response()


async def _verified_requests(request: Request) -> Response:
    return Response()


def _require_notation(name: str, notation: str | None) -> None:
    if notation is None:
        return
    try:
        parse_many(notation)
    except ValueError as error:
        raise SettingsError(
            f"webhook.rate_limit.{name}: {notation!r} is no rate limit; write for example 100/minute"
        ) from error


def _bucket(client: str) -> str:
    digest = hashlib.sha256(client.encode()).digest()
    return str(int.from_bytes(digest[:4]) % _BUCKETS)
