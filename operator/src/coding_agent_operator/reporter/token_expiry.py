"""Shows when the forges' tokens expire: as a metric and, while little time is left, as a daily Event.

The Event is about the reporter's own pod, where `kubectl describe` shows it. `kubectl describe` shows no
Events of a Secret, and there may be no task at the time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.metrics import Gauge
from coding_agent_core.task.agenttask import Event
from coding_agent_forges.rest.forge import Forge

_logger = logging.getLogger("reporter")

EXPIRES = Gauge(
    "coding_agent_forge_token_expiry_timestamp_seconds",
    "When the reporter's token expires, in seconds since the epoch, by host. There is no series for a token "
    "that never expires, for the renewed tokens of a GitHub App, or if the forge cannot say it.",
    ["host"],
)
NOTICE = timedelta(days=14)
"""How long before the expiry Events begin. The alert of the chart has the same time."""
_REMIND = timedelta(days=1)
"""Time between two Events. The API server deletes an Event after an hour, so one would not be seen."""
_LOOK_S = 60.0
"""Seconds between two reads of the token's file, which may have been replaced."""
_ASK_S = 3600.0
"""Seconds between two requests about the same token: somebody may revoke it or change its expiry."""
_AGAIN_S = 300.0
"""Seconds until the next request if the forge gave no answer."""
_QUIET_S = 3600.0
"""Seconds between two log lines about a host whose token cannot be read or asked about."""


class ReporterPod(NamedTuple):
    """The pod in which this program runs, as an Event names it."""

    name: str
    namespace: str
    uid: str
    version: str = ""

    @staticmethod
    def here(namespace: str) -> ReporterPod | None:
        """Return this pod; `None` outside of a cluster."""
        name, uid = os.environ.get("POD_ID"), os.environ.get("POD_UID")
        return ReporterPod(name, namespace, uid) if name and uid else None


def expiry_event(host: str, platform: Platform, place: str, expires: datetime, now: datetime) -> Event | None:
    """Return the Event about a token that has expired or expires within `NOTICE`; `None` if it lasts longer.

    Args:
        place: where a person sets the token.
        expires: a time in UTC; the message does not convert it.
    """
    left = expires - now
    if left > NOTICE:
        return None
    at = f"{expires:%Y-%m-%d %H:%M} UTC"
    if left <= timedelta():
        return Event(
            "Warning",
            "TokenExpired",
            f"The token for {host} expired at {at}, so no task can read or write there. Create a new token "
            f"and set {place}.",
        )
    days = left.days
    when = f"in {days} day{'s' if days != 1 else ''}" if days else "in less than a day"
    return Event(
        "Warning",
        "TokenExpiresSoon",
        f"The token for {host} expires at {at}, {when}. {FACTS[platform].how_to_renew}, and set {place} to "
        "the new token.",
    )


@dataclass
class TokenExpiry:
    """Asks each forge when its token expires.

    Args:
        emit: writes an Event.
        monotonic: seconds of a clock that is never set.
    """

    forges: Mapping[str, Forge]
    emit: Callable[[Event], Awaitable[None]]
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    _next: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The identity of each host's token, and when to ask about it again."""
    _expires: dict[str, datetime | None] = field(default_factory=dict)
    _emitted: dict[str, datetime] = field(default_factory=dict)
    _quiet_until: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Check until cancelled. An error with one forge does not stop the checks of the others."""

        async def once(host: str) -> float:
            await self.check(host)
            return _LOOK_S

        async with asyncio.TaskGroup() as group:
            for host in self.forges:
                group.create_task(forever("token expiry", partial(once, host)))

    async def check(self, host: str) -> None:
        """Query the expiry of a host's token if it is new or was queried an hour ago, and show the result."""
        token = self.forges[host].client.token
        try:
            identity = await token.identity()
            known, due = self._next.get(host, ("", 0.0))
            if identity != known or self.monotonic() >= due:
                await self._ask(host, identity)
                self._quiet_until.pop(host, None)
        except CodingAgentError as error:
            if self.monotonic() >= self._quiet_until.get(host, 0.0):
                self._quiet_until[host] = self.monotonic() + _QUIET_S
                _logger.warning("It is not known when the token for %s expires: %s", host, error)
        expires = self._expires.get(host)
        if expires is None:
            EXPIRES.remove_by_labels({"host": host})
            return
        EXPIRES.labels(host).set(expires.timestamp())
        now = self.clock()
        event = expiry_event(host, Platform(self.forges[host].platform), token.place, expires, now)
        last = self._emitted.get(host)
        if event is not None and (last is None or now - last >= _REMIND):
            self._emitted[host] = now
            _logger.warning("%s", event.message)
            await self.emit(event)

    async def _ask(self, host: str, identity: str) -> None:
        """Query the forge. While it does not answer, the last known expiry of the same token stays."""
        known, _ = self._next.get(host, ("", 0.0))
        self._next[host] = (identity, self.monotonic() + _AGAIN_S)
        if identity != known:
            self._expires.pop(host, None)
            self._emitted.pop(host, None)
        self._expires[host] = await self.forges[host].token_expiry()
        self._next[host] = (identity, self.monotonic() + _ASK_S)
