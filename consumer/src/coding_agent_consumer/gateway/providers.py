"""Sends requests to a provider with its credential, and to the next provider if the first cannot answer."""

from __future__ import annotations

import contextlib
import logging
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import urlsplit

import aiohttp
from coding_agent_core.runtime.tls import client_context

from coding_agent_consumer.gateway.upstream import TokenError, Upstream
from coding_agent_consumer.gateway.wire_formats import UNREACHABLE, RequestRefusedError, Route

_logger = logging.getLogger("coding_agent.gateway")

_CONNECT_SECONDS = 10.0
_LINE_LIMIT = 64 * 1024
"""The longest line in an answer's head, in bytes."""
_PART = 256 * 1024
"""Bytes of a request that are sent at a time."""
_FALLBACK_STATUS = frozenset({429, 500, 502, 503, 504, 529})


class SilentProviderError(RequestRefusedError):
    """A provider got a request and did not answer; it may charge for the request nevertheless."""

    def __init__(self) -> None:
        super().__init__(504, "The provider does not answer.")


class Providers:
    """The upstreams, and the connections to them.

    aiohttp parses answers in C. For a stream of many small events, httpx2 needs several times the CPU time.
    """

    def __init__(self, upstreams: Sequence[Upstream], session: aiohttp.ClientSession) -> None:
        self._session = session
        self._proxies = {one.base_url: _proxy_of(one.base_url) for one in upstreams}

    async def ask(
        self,
        upstreams: Sequence[Upstream],
        route: Route,
        parameters: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: bytes,
    ) -> aiohttp.ClientResponse:
        """Return the first answer that needs no fallback, or the last upstream's; its body is not read yet.

        Raises:
            SilentProviderError: an upstream got the request, and does not answer in time.
            RequestRefusedError: the last upstream cannot be reached, or there is no token for it.
        """
        for upstream in upstreams:
            last = upstream is upstreams[-1]
            try:
                credential = await upstream.credential()
            except TokenError as error:
                _logger.warning("No token for a provider: %s", error)
                if last:
                    raise RequestRefusedError(502, f"There is no token for the provider: {error}.") from None
                continue
            kind = {"content-type": "application/json", "content-length": str(len(body))} if body else {}
            try:
                response = await self._session.request(
                    "POST" if body else "GET",
                    upstream.url(route),
                    params=parameters,
                    headers={**headers, **kind, **credential, "accept-encoding": "identity"},
                    data=_parts(body) if body else None,
                    allow_redirects=False,
                    proxy=self._proxies[upstream.base_url],
                )
            except aiohttp.SocketTimeoutError:
                _logger.warning("A provider does not answer")
                # It may work on the request, and charge for it, so no fallback is asked the same.
                raise SilentProviderError from None
            except (aiohttp.ClientError, TimeoutError) as error:
                _logger.warning("A provider cannot be reached: %s", type(error).__name__)
                if last:
                    status = 504 if isinstance(error, TimeoutError) else 502
                    raise RequestRefusedError(status, UNREACHABLE) from None
                continue
            if last or response.status not in _FALLBACK_STATUS:
                return response
            _logger.warning("A provider answered HTTP %d; asking the next", response.status)
            response.close()
        raise AssertionError


@contextlib.asynccontextmanager
async def open_providers(upstreams: Sequence[Upstream], timeout: float) -> AsyncIterator[Providers]:
    """Open the providers, whose connections are kept for the next request.

    Args:
        timeout: seconds without a byte from the provider.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=client_context()),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=timeout),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=_LINE_LIMIT,
        max_field_size=_LINE_LIMIT,
        skip_auto_headers=("accept", "content-type", "user-agent"),
    ) as session:
        yield Providers(upstreams, session)


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    """Yield the body in parts: for plain bytes, aiohttp warns that a large body blocks, and copies it."""
    for at in range(0, len(body), _PART):
        yield body[at : at + _PART]


def _proxy_of(url: str) -> str | None:
    """Return the environment's proxy for a URL. aiohttp would look it up in a thread for each request."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
