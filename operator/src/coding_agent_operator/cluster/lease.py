"""Leader election by a Lease: only one of a program's replicas acts in a namespace at a time.

We do not use `kubernetes.aio.leaderelection`: its requests have no timeout, a broken connection ends it, it
does not release the Lease at the end, and it has no fence, so a process that slept would still write.
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
from coding_agent_core.kubernetes.transport import JSON_PATCH, ApiError, ApiServer, Body
from coding_agent_core.task.objects import Metadata

_logger = logging.getLogger("operator.lease")

_WAIT_S = 1.0
"""Seconds between two tries to take the Lease, or to renew it after a failure."""


def elapsed_seconds() -> float:
    """Return the seconds of a clock that nobody sets and that also counts while the machine is suspended.

    `time.monotonic` stops meanwhile on Linux (clock_gettime(2)), so a holder that wakes up would find its
    Lease as young as before, although another replica has taken it.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def lease_path(namespace: str, name: str = "") -> str:
    """Return the path of a Lease; without a name, the path of all Leases of the namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}".rstrip("/")


class LeaseLostError(CodingAgentError):
    """Another replica has taken the Lease."""


@dataclass(frozen=True)
class ObservedLease:
    """The Lease as it was read.

    Attributes:
        version: the Lease's resourceVersion.
        holder: the identity of the holder; empty if the Lease was released.
        duration: seconds for which the Lease is valid after a renewal.
        since: our time (`elapsed_seconds`) at which we first saw this version. So other machines' clocks do
            not matter.
    """

    version: str
    holder: str
    duration: float
    since: float


def seen(body: Mapping[str, Any], before: ObservedLease | None, now: float) -> ObservedLease:
    spec, version = body.get("spec") or {}, Metadata.of(body).version
    since = before.since if before is not None and before.version == version else now
    return ObservedLease(
        version, spec.get("holderIdentity") or "", float(spec.get("leaseDurationSeconds") or 0), since
    )


def free(lease: ObservedLease, me: str, now: float) -> bool:
    """Whether we may take the Lease: nobody holds it, we hold it, or its holder let it expire."""
    return lease.holder in ("", me) or now >= lease.since + lease.duration


def identity(environment: Mapping[str, str]) -> str:
    """Return our identity: the pod's name, so that a restarted container can continue at once."""
    host = environment.get("POD_NAME") or socket.gethostname()
    return host if {"POD_NAME", "KUBERNETES_SERVICE_HOST"} & environment.keys() else f"{host}-{os.getpid()}"


class Lease:
    """Takes, renews and releases a Lease, and fences its holder's writes (`held`).

    Args:
        name: the Lease's name, which is the program's name.
        me: our identity, which `identity` derives from the pod's name.
        duration: seconds after which others may take a Lease that is not renewed.
        acts: called with whether this replica acts, whenever that changes.
        clock: returns seconds that also count while the machine is suspended (`elapsed_seconds`).

    Example:
        lease = Lease(server, "coding-agent", LEASE, identity(os.environ), 30, acts=LEADER.set)
        await lease.acquire()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.keep())
                group.create_task(work())  # it writes only while `lease.held()`
        finally:
            await lease.release()
    """

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        name: str,
        me: str,
        duration: int,
        *,
        acts: Callable[[bool], None],
        clock: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._name = name
        self._me = me
        self._acts = acts
        self._duration = duration
        self._clock = clock
        self._seen: ObservedLease | None = None
        self._until = 0.0
        self._stale = True
        self._acting = False
        self.was_read = False
        """Whether the Lease was read at least once. A replica that waits for it is ready from then on."""

    def held(self) -> bool:
        """Whether we may write: no other replica can hold the Lease before a request sent now arrives."""
        return self._clock() < self._until

    def require(self) -> None:
        """Check that we may write.

        Raises:
            ApiError: we may not. It has no status, so callers conclude nothing from it, as after a request
                without an answer.
        """
        if not self.held():
            raise ApiError(f"This process does not hold the Lease {self._name}, so it writes nothing.", None)

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        waited = ""
        while not await self.renew():
            holder = self._seen.holder if self._seen else ""
            if holder not in ("", waited):
                _logger.info("Waiting: %s acts in this namespace", holder)
                waited = holder
            await asyncio.sleep(min(_WAIT_S, self._duration / 3))
        self._acting = True
        self._acts(True)
        _logger.info("Acting as %s", self._me)

    async def keep(self) -> None:
        """Renew the Lease until cancelled. While renewals fail, the fence keeps the program from writing.

        Raises:
            LeaseLostError: another replica has taken the Lease.
        """
        while True:
            # A Lease is renewed three times before it expires, so that a lost request costs nothing.
            await asyncio.sleep(self._duration / 3 if self.held() else min(_WAIT_S, self._duration / 3))
            if await self.renew():
                continue
            # Only another holder ends the work, because our memory lacks what it did. If only the API server
            # was down, the work continues; otherwise every operator would restart with it.
            if self._seen is not None and self._seen.holder != self._me:
                self._acts(False)
                raise LeaseLostError(f"{self._seen.holder or 'nobody'} holds the Lease {self._name} now.")

    async def release(self) -> None:
        """Release the Lease so that the next replica need not wait. No request may be under way."""
        if self.held():
            self._until = 0.0
            try:
                await self._give_back()
            except ApiError as error:
                _logger.warning("The Lease could not be released: %s", error)
        self._acts(False)

    async def renew(self) -> bool:
        """Try once to take or renew the Lease; return whether it is ours."""
        # The fence is counted from before the request, because a renewal is older than its answer.
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
        # The last third of the duration is left for requests that are under way when the fence closes.
        self._until = asked + self._duration * 2 / 3
        return True

    async def _give_back(self) -> None:
        for last in (False, True):
            if self._seen is None or self._seen.holder != self._me:
                return
            try:
                await self._patch(self._seen.version, {"holderIdentity": ""})
            except ApiError as error:
                if last or not error.conflict:
                    raise
                await self._read()  # a cancelled renewal may have reached the API server
            else:
                return

    async def _taken(self) -> Body | None:
        """Take or renew the Lease and return it; return `None` if another replica has it."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Body = {
            "holderIdentity": self._me,
            "leaseDurationSeconds": self._duration,
            "renewTime": at,
        }
        # While we hold the Lease and our last request was answered, its version is known, and a read is
        # saved.
        if self._stale or self._seen is None or self._seen.holder != self._me:
            await self._read()
            spec["acquireTime"] = at
        if self._seen is None:
            return await self._create(spec)
        if not free(self._seen, self._me, self._clock()) or (
            # If another replica held the Lease after we began to act, we do not know what it did.
            self._acting and self._seen.holder != self._me
        ):
            return None
        return await self._patch(self._seen.version, spec)

    @property
    def _path(self) -> str:
        return lease_path(self._namespace, self._name)

    async def _create(self, spec: Body) -> Body:
        """Create the Lease.

        Raises:
            ApiError: `conflict` if the Lease exists.
        """
        body = {"metadata": {"name": self._name}, "spec": spec}
        return await self._server.request("POST", lease_path(self._namespace), body=body)

    async def _patch(self, version: str, spec: Body) -> Body:
        """Change fields of the Lease if it has not changed since it was read.

        Raises:
            ApiError: `conflict` if it has changed.
        """
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *({"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()),
        ]
        return await self._server.request("PATCH", self._path, body=patch, kind=JSON_PATCH)

    async def _read(self) -> None:
        body = await self._server.get(self._path)
        self.was_read, self._stale = True, False
        self._seen = None if body is None else seen(body, self._seen, self._clock())
