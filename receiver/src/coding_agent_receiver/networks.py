"""The optional allowlist of networks (requirement S11), GitHub's published hook addresses kept current."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from ipaddress import ip_network

import httpx
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import networks

from coding_agent_receiver.address import Address, Network, contains

_logger = logging.getLogger("webhook.networks")

REFRESH_INTERVAL = 3600.0
"""Seconds between two looks at GitHub's meta endpoint; its addresses change a few times a year."""
RETRY_INTERVAL = 120.0
"""Seconds after a failed look; without a token GitHub allows 60 requests an hour."""
_TIMEOUT = 10.0


class Admission(Enum):
    """Whether an address may send."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """GitHub's addresses were asked for but never learnt."""


class Allowlist:
    """Who may send; everyone where `webhook.allowed_networks` is empty."""

    def __init__(self, settings: Settings, *, client: httpx.AsyncClient | None = None) -> None:
        entries = settings.webhook.allowed_networks
        self._open = not entries
        self._fixed = networks(entries)
        self._url = f"{settings.github.api_url.rstrip('/')}/meta"
        self._github: list[Network] | None = [] if "github" not in entries else None
        self.follows_github = "github" in entries
        self._client = client

    def admits(self, address: Address | None) -> Admission:
        """Decide on a client's address; a client without one (a Unix socket) is on this machine."""
        if self._open or address is None or contains(self._fixed, address):
            return Admission.ALLOWED
        if self._github is None:
            return Admission.UNKNOWN
        return Admission.ALLOWED if contains(self._github, address) else Admission.REFUSED

    async def follow_github(
        self, *, refresh: float = REFRESH_INTERVAL, retry: float = RETRY_INTERVAL, rounds: int | None = None
    ) -> None:
        """Learn GitHub's addresses and keep them current until cancelled; the last known stay in force."""
        async with self._client or httpx.AsyncClient(timeout=_TIMEOUT) as client:
            while rounds is None or rounds > 0:
                known = await self._look(client)
                rounds = None if rounds is None else rounds - 1
                if rounds != 0:
                    await asyncio.sleep(refresh if known else retry)

    async def _look(self, client: httpx.AsyncClient) -> bool:
        try:
            response = await client.get(self._url, headers={"Accept": "application/vnd.github+json"})
            response.raise_for_status()
            found = [ip_network(entry) for entry in response.json()["hooks"]]
            if not found:
                raise ValueError("an empty list")  # noqa: TRY301 - handled as any other useless answer
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            state = "none are known" if self._github is None else "the last known stay in force"
            _logger.warning("Cannot learn GitHub's hook addresses from %s (%s); %s", self._url, error, state)
            return False
        if found != self._github:
            _logger.info("GitHub sends webhooks from %d networks", len(found))
        self._github = found
        return True
