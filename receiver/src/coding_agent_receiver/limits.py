"""Limits for senders: allowed networks, rate limits, and bytes of bodies in memory."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from ipaddress import ip_network

import httpx2
from coding_agent_core.platforms.addresses import Address, Network, contains
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.receiver import Rate, RateLimit, networks, rates_of

_logger = logging.getLogger("webhook.networks")

REFRESH_INTERVAL = 3600.0
"""Seconds between two reads of GitHub's meta endpoint, whose addresses change a few times a year."""
RETRY_INTERVAL = 120.0
"""Seconds after a failed read. Without a token, GitHub allows 60 requests per hour."""
_TIMEOUT = 10.0

_BUCKETS = 65_536
"""All failing clients share this many counters, so that many addresses cannot take much memory. If two
clients share a counter, the worst result is 429 instead of 401."""

SMALL_BODY = 512 * 1024
"""Maximum number of bytes of a small body. Nearly all webhooks are small; they never wait for larger ones."""
SMALL_BODIES = 16 * 1024 * 1024
"""Maximum number of bytes of all small bodies in memory."""
LARGE_BODIES = 40 * 1024 * 1024
"""Maximum number of announced bytes of all larger bodies in memory. One of the largest always has room."""
LARGE_WAIT = 5.0
"""Maximum number of seconds that a larger body waits for room."""


class AddressCheck(Enum):
    """The result of the check whether an address may send webhooks."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The decision is not possible, because GitHub's addresses have never been read."""


class Allowlist:
    """The networks that may send webhooks; if `webhook.allowed_networks` is empty, all may."""

    def __init__(self, settings: Settings, *, client: httpx2.AsyncClient | None = None) -> None:
        entries = settings.webhook.allowed_networks
        self._open = not entries
        self._fixed = networks(entries)
        self._url = f"{settings.forge(Platform.GITHUB).api_url.rstrip('/')}/meta"
        self._github: list[Network] | None = [] if "github" not in entries else None
        self.follows_github = "github" in entries
        self._client = client

    def check(self, address: Address | None) -> AddressCheck:
        """Check a client's address. A client without an address (a Unix socket) is on this machine."""
        if self._open or address is None or contains(self._fixed, address):
            return AddressCheck.ALLOWED
        if self._github is None:
            return AddressCheck.UNKNOWN
        return AddressCheck.ALLOWED if contains(self._github, address) else AddressCheck.REFUSED

    async def follow_github(
        self, *, refresh: float = REFRESH_INTERVAL, retry: float = RETRY_INTERVAL, rounds: int | None = None
    ) -> None:
        """Read GitHub's addresses again and again until cancelled. After a failure, the old ones stay."""
        async with self._client or httpx2.AsyncClient(timeout=_TIMEOUT) as client:
            while rounds is None or rounds > 0:
                known = await self._read(client)
                rounds = None if rounds is None else rounds - 1
                if rounds != 0:
                    await asyncio.sleep(refresh if known else retry)

    async def _read(self, client: httpx2.AsyncClient) -> bool:
        try:
            response = await client.get(self._url, headers={"Accept": "application/vnd.github+json"})
            response.raise_for_status()
            found = [ip_network(entry) for entry in response.json()["hooks"]]
            if not found:
                raise ValueError("an empty list")  # noqa: TRY301 - handled as any other useless answer
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            state = "none are known" if self._github is None else "the last known ones stay in force"
            _logger.warning("Cannot read GitHub's hook addresses from %s (%s); %s", self._url, error, state)
            return False
        if found != self._github:
            _logger.info("GitHub sends webhooks from %d networks", len(found))
        self._github = found
        return True


class RateLimits:
    """The rate limits of one receiver.

    An authentic event that is answered 429 is lost, because GitHub does not send it again. So only requests
    that fail verification count, unless `webhook.rate_limit.verified` is set.
    """

    def __init__(self, settings: RateLimit) -> None:
        self._failed = rates_of(settings.failed)
        self._verified = rates_of(settings.verified) if settings.verified else ()
        self._windows: dict[tuple[Rate, str], tuple[float, int]] = {}

    def failed(self, client: str) -> int | None:
        """Count a request that failed verification; return the seconds to wait if there were too many."""
        digest = hashlib.blake2b(client.encode(), digest_size=4).digest()
        return self._count(self._failed, f"failed/{int.from_bytes(digest) % _BUCKETS}")

    def verified(self, client: str) -> int | None:
        """Count an authentic request; return the seconds to wait if there were too many."""
        return self._count(self._verified, f"verified/{client}")

    def _count(self, limits: tuple[Rate, ...], key: str) -> int | None:
        now, wait = time.time(), 0.0
        for limit in limits:
            end, count = self._windows.get((limit, key), (0.0, 0))
            if end <= now:
                end, count = now + limit.seconds, 0
            self._windows[limit, key] = end, count + 1
            if count >= limit.amount:
                wait = max(wait, end - now)
        return max(1, round(wait)) if wait else None


class NoRoomError(Exception):
    """The error if other bodies take too much memory."""


class BodyRoom:
    """The limit on the bytes of bodies in memory. One client can use at most half of them.

    The bytes of small bodies count as they arrive, so that slow senders use little. If the limit is reached,
    the body that has been arriving for the longest time is dropped, because an authentic body is complete
    within milliseconds. A larger body waits until its announced size is free before any of it is read.
    """

    def __init__(self, largest: int) -> None:
        self._small = _Bytes(SMALL_BODIES, SMALL_BODIES // 2)
        large = max(LARGE_BODIES, largest)
        self._large = _Bytes(large, max(large // 2, largest))

    def reserve(self, client: str, size: int) -> Reservation:
        """Return a reservation for a body of at most `size` bytes, to be held while its context is open."""
        small = size <= SMALL_BODY
        return Reservation(self._small if small else self._large, client, None if small else size)


class Reservation:
    """The memory of one body, which is released at the end of the context.

    Args:
        announced: the bytes to reserve at once; `None` if bytes count as they arrive.

    Attributes:
        evicted: whether the memory was taken for another body.
        on_eviction: a function that must end the reading of this body.

    Raises:
        NoRoomError: on entry, if too little memory becomes free for a larger body within the time limit.
    """

    def __init__(self, room: _Bytes, client: str, announced: int | None) -> None:
        self._room, self.client, self._announced = room, client, announced
        self._held = 0
        self.evicted = False
        self.on_eviction: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Reservation:
        if self._announced is not None:
            await self._room.wait(self.client, self._announced)
            self._held = self._announced
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    def arrived(self, count: int) -> None:
        """Count bytes that are kept in memory. If the limit is reached, the oldest body is dropped.

        Raises:
            NoRoomError: this body was dropped.
        """
        if self._announced is not None:
            return
        while not self.evicted and not self._room.take(self.client, count):
            (self._room.oldest_in_the_way(self.client, count) or self).evict()
        if self.evicted:
            raise NoRoomError
        self._held += count
        self._room.small[self] = None

    def evict(self) -> None:
        """Drop the body before it is complete, and release its memory."""
        self.evicted = True
        self._give_back()
        self.on_eviction()

    def _give_back(self) -> None:
        if self._held:
            self._room.small.pop(self, None)
            self._room.give_back(self.client, self._held)
            self._held = 0


class _Bytes:
    """A number of bytes, of which clients take some and give them back.

    Attributes:
        small: the reservations that hold bytes of small bodies; the oldest is first.
    """

    def __init__(self, total: int, per_client: int) -> None:
        self._free, self._per_client = total, per_client
        self._held: Counter[str] = Counter()
        self.small: dict[Reservation, None] = {}
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []

    def take(self, client: str, size: int) -> bool:
        if size > self._free or self._held[client] + size > self._per_client:
            return False
        self._free -= size
        self._held[client] += size
        return True

    def oldest_in_the_way(self, client: str, size: int) -> Reservation | None:
        """Return the oldest small body of this client if its share is used up, or of the largest client."""
        has_its_share = self._held[client] + size > self._per_client
        owner = client if has_its_share else max(self._held, key=self._held.__getitem__)
        return next((holder for holder in self.small if holder.client == owner), None)

    async def wait(self, client: str, size: int) -> None:
        if self.take(client, size):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (client, size, granted)
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(LARGE_WAIT):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self.give_back(client, size)
            else:
                self._waiting.remove(waiting)
            if isinstance(error, TimeoutError):
                raise NoRoomError from error
            raise

    def give_back(self, client: str, size: int) -> None:
        self._free += size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]
        for waiting in list(self._waiting):
            owner, wanted, granted = waiting
            if not granted.done() and self.take(owner, wanted):
                self._waiting.remove(waiting)
                granted.set_result(None)
