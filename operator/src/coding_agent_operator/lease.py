"""One operator at a time: a Lease (coordination.k8s.io) that whoever acts must hold.

`kubernetes.aio.leaderelection` is not used: its requests have no timeout, a broken connection ends it, it
does not release the Lease at the end, and it has no fence, so that a process that slept would go on writing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import ApiError, Body

from coding_agent_operator.cluster import Cluster
from coding_agent_operator.metrics import LEADER

_logger = logging.getLogger("operator.lease")

NAME = "coding-agent-operator"
"""Of the Lease, in the namespace of the AgentTasks."""
_WAIT_S = 1.0
"""Between two tries of one that waits for the Lease, or whose renewal failed."""


class LeaseLostError(CodingAgentError):
    """Another operator has taken over."""


@dataclass(frozen=True)
class Seen:
    """The Lease as it was read.

    Attributes:
        holder: empty: it was given back.
        duration: seconds for which it holds after it was renewed.
        since: monotonic time at which this version of it was first seen; clocks of machines do not matter.
    """

    version: str
    holder: str
    duration: float
    since: float


def seen(body: Mapping[str, Any], before: Seen | None, now: float) -> Seen:
    """What a Lease tells."""
    spec, version = body.get("spec") or {}, str(body["metadata"]["resourceVersion"])
    since = before.since if before is not None and before.version == version else now
    return Seen(
        version, spec.get("holderIdentity") or "", float(spec.get("leaseDurationSeconds") or 0), since
    )


def free(lease: Seen, me: str, now: float) -> bool:
    """Whether it may be taken: nobody's, our own, or silent for its whole duration."""
    return lease.holder in ("", me) or now >= lease.since + lease.duration


def identity(environment: Mapping[str, str]) -> str:
    """Who we are: the pod, so that a container that was killed and starts again goes on at once."""
    host = environment.get("POD_NAME") or socket.gethostname()
    return host if {"POD_NAME", "KUBERNETES_SERVICE_HOST"} & environment.keys() else f"{host}-{os.getpid()}"


class Lease:
    """The Lease of one namespace."""

    def __init__(
        self, cluster: Cluster, me: str, duration: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._me = me
        self._duration = duration
        self._clock = clock
        self._seen: Seen | None = None
        self._until = 0.0
        self._stale = True
        self._acting = False
        self.was_read = False
        """It was read at least once, so a replica that waits for it is ready."""

    def held(self) -> bool:
        """The fence of every write: nobody else can have it yet, with time for a request to arrive."""
        return self._clock() < self._until

    async def acquire(self) -> None:
        """Wait until it is ours."""
        waited = ""
        while not await self.renew():
            holder = self._seen.holder if self._seen else ""
            if holder not in ("", waited):
                _logger.info("Waiting: %s acts in this namespace", holder)
                waited = holder
            await asyncio.sleep(min(_WAIT_S, self._duration / 3))
        self._acting = True
        LEADER.labels(self._cluster.namespace).set(1)
        _logger.info("Acting as %s", self._me)

    async def keep(self) -> None:
        """Renew it for ever. While that fails nothing is written; nobody's having taken it, work goes on.

        Raises:
            LeaseLostError: another has it.
        """
        while True:
            await asyncio.sleep(self._duration / 3 if self.held() else min(_WAIT_S, self._duration / 3))
            if await self.renew():
                continue
            if self._seen is not None and self._seen.holder != self._me:
                LEADER.labels(self._cluster.namespace).set(0)
                raise LeaseLostError(f"{self._seen.holder or 'nobody'} has the Lease {NAME} now.")

    async def release(self) -> None:
        """Give it back, so that the next need not wait; only when no request is under way any more."""
        if self.held() and self._seen is not None:
            self._until = 0.0
            try:
                await self._cluster.patch_lease(NAME, self._seen.version, {"holderIdentity": ""})
            except ApiError as error:
                _logger.warning("The Lease could not be given back: %s", error)
        LEADER.labels(self._cluster.namespace).set(0)

    async def renew(self) -> bool:
        """Take or renew it once; whether it is ours."""
        asked = self._clock()
        try:
            async with asyncio.timeout(self._duration / 3):
                body = await self._taken()
        except TimeoutError:
            self._stale = True
            _logger.warning("The Lease cannot be taken or renewed in time")
            return False
        except ApiError as error:
            if error.conflict or error.status == 404:
                self._stale = True
            else:
                _logger.warning("The Lease cannot be taken or renewed: %s", error)
            return False
        if body is None:
            return False
        self._seen = seen(body, self._seen, self._clock())
        # A third of it is left for requests that are under way when the fence closes.
        self._until = asked + self._duration * 2 / 3
        return True

    async def _taken(self) -> Body | None:
        """The Lease as we wrote it; `None` if another has it."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Body = {
            "holderIdentity": self._me,
            "leaseDurationSeconds": self._duration,
            "renewTime": at,
        }
        if self._stale or self._seen is None or self._seen.holder != self._me:
            await self._read()
            spec["acquireTime"] = at
        if self._seen is None:
            return await self._cluster.create_lease(NAME, spec)
        if not free(self._seen, self._me, self._clock()) or (
            # What another did meanwhile is not known to one that acts.
            self._acting and self._seen.holder != self._me
        ):
            return None
        return await self._cluster.patch_lease(NAME, self._seen.version, spec)

    async def _read(self) -> None:
        body = await self._cluster.get_lease(NAME)
        self.was_read, self._stale = True, False
        self._seen = None if body is None else seen(body, self._seen, self._clock())
