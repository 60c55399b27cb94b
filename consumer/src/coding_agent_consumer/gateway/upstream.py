"""How a provider is asked: which one, through which proxy, and what happens if it cannot answer."""

from __future__ import annotations

import contextlib
import logging
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import httpx

from coding_agent_consumer.gateway.identity import TokenError, WorkloadIdentity
from coding_agent_consumer.gateway.request import RequestRefusedError
from coding_agent_consumer.gateway.wire import Route, WireFormat, credential_header

_logger = logging.getLogger("coding_agent.gateway")

_CONNECT_SECONDS = 10.0
_LINE_LIMIT = 64 * 1024
"""Bytes of a line in the head of an answer."""
_FALLBACK_STATUS = frozenset({429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Upstream:
    """A provider.

    Attributes:
        base_url: as the vendor's own SDK takes it: with `/v1` for OpenAI's format, without for the others.
        key: the real credential; `None` sends none.
        identity: gives the credential in place of `key`.
    """

    format: WireFormat
    base_url: str
    key: str | None = field(default=None, repr=False)
    identity: WorkloadIdentity | None = None

    def url(self, route: Route) -> str:
        """Where a request goes."""
        # Vertex AI has its version before the project, which is in the base URL.
        path = route.path.removeprefix("/v1beta") if self.identity else route.path
        return self.base_url.rstrip("/") + path

    async def credential(self) -> dict[str, str]:
        """The header with the credential, if there is one.

        Raises:
            TokenError: the cloud gives none.
        """
        if self.identity is not None:
            return {"authorization": f"Bearer {await self.identity.token()}"}
        return dict([credential_header(self.format, self.key)]) if self.key else {}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no client may read in an answer."""
        return tuple(filter(None, (self.key, self.identity.current if self.identity else None)))


class Providers:
    """The upstreams, and the connections to them.

    aiohttp parses answers in C: of a stream of many small events, httpx takes several times the CPU time.
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
        """The answer of the first upstream that has one, not read yet; else that of the last.

        Raises:
            RequestRefusedError: the last one cannot be reached.
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
            length = {"content-length": str(len(body))} if body else {}
            try:
                response = await self._session.request(
                    "POST" if body else "GET",
                    upstream.url(route),
                    params=parameters,
                    headers={**headers, **credential, **length, "accept-encoding": "identity"},
                    data=_whole(body) if body else None,
                    allow_redirects=False,
                    proxy=self._proxies[upstream.base_url],
                )
            except (aiohttp.ClientError, TimeoutError) as error:
                _logger.warning("A provider cannot be reached: %s", type(error).__name__)
                if last:
                    status = 504 if isinstance(error, TimeoutError) else 502
                    raise RequestRefusedError(status, "The provider cannot be reached.") from None
                continue
            if last or response.status not in _FALLBACK_STATUS:
                return response
            _logger.warning("A provider answered HTTP %d; asking the next", response.status)
            response.close()
        raise AssertionError


@contextlib.asynccontextmanager
async def open_providers(upstreams: Sequence[Upstream], timeout: float) -> AsyncIterator[Providers]:
    """Connections are kept for the next request.

    Args:
        timeout: seconds without a byte from the provider.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=httpx.create_ssl_context()),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=timeout),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=_LINE_LIMIT,
        max_field_size=_LINE_LIMIT,
        skip_auto_headers=("accept", "content-type", "user-agent"),
    ) as session:
        yield Providers(upstreams, session)


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    """For bytes themselves, aiohttp warns that a large body blocks."""
    yield body


def _proxy_of(url: str) -> str | None:
    """As the environment names it; looked up once, which aiohttp would do in a thread for each request."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
