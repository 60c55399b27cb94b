"""GitLab's wire: one pooled httpx client."""

from __future__ import annotations

import httpx

from coding_agent_core.forge.calls import TIMEOUT, Call
from coding_agent_core.forge.token import Token


class GitLabSender:
    """Sends calls with httpx. TLS is always verified (`SSL_CERT_FILE` names other authorities)."""

    def __init__(
        self, api_url: str, token: Token, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._transport = transport
        self._pool: httpx.AsyncClient | None = None

    async def send(self, call: Call) -> httpx.Response:
        """Send it once.

        `Authorization: Bearer` takes access tokens of all kinds as `PRIVATE-TOKEN` does, and is the header
        that HTTP libraries know to be secret.
        """
        headers = {"Authorization": f"Bearer {self._token.current()}"}
        return await self._client().request(
            call.method, call.path, params=call.params or None, json=call.json, headers=headers
        )

    async def aclose(self) -> None:
        """Close connections."""
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    def _client(self) -> httpx.AsyncClient:
        if self._pool is None:
            self._pool = httpx.AsyncClient(
                base_url=self._api_url,
                headers={"User-Agent": "coding-agent", "Accept": "application/json"},
                timeout=TIMEOUT,
                follow_redirects=False,
                verify=True,
                transport=self._transport,
            )
        return self._pool
