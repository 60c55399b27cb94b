"""The requests that the operator itself sends, and its Lease: one operator at a time acts in a namespace.

We do not use `kubernetes.aio.leaderelection`: its requests have no timeout, a broken connection ends it, it
does not release the Lease at the end, and it has no fence, so a process that slept would still write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.agenttask import GROUP, LABEL_ACTIVE, PLURAL, VERSION
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import JSON_PATCH, ApiError, ApiServer, Body
from coding_agent_core.objects import Metadata

from coding_agent_operator.metrics import LEADER
from coding_agent_operator.observed import ACTIVE, MANAGER, WORKLOADS, Job, Pod, read_job, read_pod, read_pods

_logger = logging.getLogger("operator.cluster")

LEASE = "coding-agent-operator"
"""Name of the Lease, in the namespace of the AgentTasks."""
_WAIT_S = 1.0
"""Seconds between two tries to take the Lease, or to renew it after a failure."""


async def namespaces_with_tasks(server: ApiServer, fields: str = "", page: int = 200) -> set[str]:
    """Return the namespaces with matching AgentTasks, reading `page` tasks at a time to save memory.

    Args:
        fields: a field selector.

    Raises:
        ApiError: the API server did not answer, or refused to list the whole cluster.
    """
    query = [("fieldSelector", fields)] if fields else []
    path = f"/apis/{GROUP}/{VERSION}/{PLURAL}"
    return {
        Metadata.of(body).namespace async for part in server.pages(path, query, page) for body in part.items
    }


class Cluster:
    """The operator's requests to one namespace of a cluster.

    Attributes:
        may_write: the fence. While it returns `False`, nothing is created, changed or deleted except the
            Lease itself.
    """

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self.may_write: Callable[[], bool] = lambda: True
        self.tasks = AgentTasks(server, namespace, MANAGER, fence=self._require_lease)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self._core = f"/api/v1/namespaces/{namespace}"
        self._volume_claims = f"{self._core}/persistentvolumeclaims"
        group, version, plural = WORKLOADS
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._workloads = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}"

    async def probe(self) -> None:
        """Check the operator's rights with small requests of the kinds that it sends regularly.

        Raises:
            ApiError: this namespace cannot be served.
        """
        await self.tasks.probe()
        await self._server.request("GET", self._jobs, query=[("labelSelector", ACTIVE), ("limit", "1")])
        await self._server.request("GET", f"{self._core}/pods", query=[("limit", "1")])
        await self.get_lease()

    async def has_tasks(self) -> bool:
        """Whether the namespace has any AgentTask, ended or not; `True` if the API server does not say."""
        try:
            return bool(await anext(self.tasks.pages("", 1)))
        except ApiError:
            return True

    async def list_jobs(self, labels: str) -> tuple[list[Job], int]:
        """Return a consistent list of Jobs and its resourceVersion."""
        found = await self._server.list(self._jobs, [("labelSelector", labels)])
        return [read_job(body) for body in found.items], int(found.version)

    async def get_job(self, name: str) -> Job | None:
        body = await self._server.get(f"{self._jobs}/{name}")
        return None if body is None else read_job(body)

    async def pods_of(self, job: str) -> tuple[Pod, ...]:
        """Return the pods of a Job, oldest first."""
        query = [("labelSelector", f"batch.kubernetes.io/job-name={job}"), ("limit", "100")]
        return read_pods((await self._server.list(f"{self._core}/pods", query)).items)

    async def mount_failures(self, pod: str) -> list[str]:
        """Return the kubelet's messages about volumes that it cannot set up for a pod; the newest is last."""
        selector = f"involvedObject.kind=Pod,involvedObject.name={pod},reason=FailedMount"
        return [message for _, message in await self._events(selector)]

    async def volume_claim_events(self, uid: str) -> list[tuple[str, str]]:
        """Return reasons and messages of the Events about a PersistentVolumeClaim; the newest is last."""
        return await self._events(f"involvedObject.kind=PersistentVolumeClaim,involvedObject.uid={uid}")

    async def _events(self, selector: str) -> list[tuple[str, str]]:
        query = [("fieldSelector", selector), ("limit", "50")]
        found = await self._server.list(f"{self._core}/events", query)
        events = sorted(found.items, key=lambda event: event.get("lastTimestamp") or "")
        return [(str(event.get("reason") or ""), str(event.get("message") or "")) for event in events]

    async def list_running_pods(self, labels: str) -> tuple[Sequence[Pod], str]:
        """Return the pods that have not ended and the list's resourceVersion."""
        fields = "status.phase!=Succeeded,status.phase!=Failed"
        query = [("labelSelector", labels), ("fieldSelector", fields)]
        found = await self._server.list(f"{self._core}/pods", query)
        return read_pods(found.items), found.version

    async def watch_pods(self, labels: str, version: str, seconds: int) -> AsyncIterator[tuple[str, Pod]]:
        """Yield the type and the pod of each watch event since a resourceVersion, for some seconds.

        Raises:
            ApiError: the watch was refused or broke off.
        """
        query = [("labelSelector", labels), ("resourceVersion", version)]
        async for change in self._server.watch(f"{self._core}/pods", query, seconds):
            yield change["type"], read_pod(change["object"])

    async def list_workloads(self) -> list[Body]:
        """Return Kueue's Workloads. They may be slightly outdated, because that is cheaper to read.

        Raises:
            ApiError: 404 if Kueue is not installed.
        """
        return (await self._server.list(self._workloads, [("resourceVersion", "0")])).items

    async def create_job(self, manifest: Body) -> Job:
        """Create a Job.

        Raises:
            ApiError: 409 if its name is taken; status `None` if it is unknown whether the Job was created.
        """
        return read_job(await self._create(self._jobs, manifest))

    async def get_volume_claim(self, name: str) -> Body | None:
        """Read a PersistentVolumeClaim."""
        return await self._server.get(f"{self._volume_claims}/{name}")

    async def create_volume_claim(self, manifest: Body) -> Body:
        """Create a PersistentVolumeClaim.

        Raises:
            ApiError: 409 if its name is taken.
        """
        return await self._create(self._volume_claims, manifest)

    async def delete_job(self, job: Job) -> Job | None:
        """Delete exactly this Job in the foreground, so that it stays until its pods are gone.

        Returns:
            The Job, which is now being deleted; `None` if it is gone.
        """
        self._require_lease()
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": job.uid}}
        try:
            answer = await self._server.request("DELETE", f"{self._jobs}/{job.name}", body=options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return None
        return read_job(answer) if answer.get("kind") == "Job" else None  # a Status: the Job is gone

    async def release_job(self, job: Job, keep_seconds: int) -> Job | None:
        """Stop watching an ended Job, to be deleted after `keep_seconds`; return `None` if it is gone."""
        self._require_lease()
        patch = {
            "metadata": {"labels": {LABEL_ACTIVE: None}, "uid": job.uid},
            "spec": {"ttlSecondsAfterFinished": keep_seconds},
        }
        body = await self._server.merge(f"{self._jobs}/{job.name}", patch)
        return None if body is None else read_job(body)

    async def get_lease(self) -> Body | None:
        return await self._server.get(f"{self._leases}/{LEASE}")

    async def create_lease(self, spec: Body) -> Body:
        """Create the Lease.

        Raises:
            ApiError: `conflict` if the Lease exists.
        """
        return await self._server.request(
            "POST", self._leases, body={"metadata": {"name": LEASE}, "spec": spec}
        )

    async def patch_lease(self, version: str, spec: Body) -> Body:
        """Change fields of the Lease if it has not changed since it was read.

        Raises:
            ApiError: `conflict` if it has changed.
        """
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            *({"op": "add", "path": f"/spec/{field}", "value": value} for field, value in spec.items()),
        ]
        return await self._server.request("PATCH", f"{self._leases}/{LEASE}", body=patch, kind=JSON_PATCH)

    async def _create(self, path: str, manifest: Body) -> Body:
        self._require_lease()
        return await self._server.request("POST", path, body=manifest, query=[("fieldManager", MANAGER)])

    def _require_lease(self) -> None:
        if not self.may_write():
            # Without a status, callers conclude nothing from it, as after a request without an answer.
            raise ApiError("This operator does not hold its Lease, so it writes nothing.", None)


class LeaseLostError(CodingAgentError):
    """Another operator has taken the Lease."""


@dataclass(frozen=True)
class Seen:
    """The Lease as it was read.

    Attributes:
        version: the Lease's resourceVersion.
        holder: the identity of the holder; empty if the Lease was released.
        duration: seconds for which the Lease is valid after a renewal.
        since: monotonic time at which we first saw this version. So other machines' clocks do not matter.
    """

    version: str
    holder: str
    duration: float
    since: float


def seen(body: Mapping[str, Any], before: Seen | None, now: float) -> Seen:
    spec, version = body.get("spec") or {}, Metadata.of(body).version
    since = before.since if before is not None and before.version == version else now
    return Seen(
        version, spec.get("holderIdentity") or "", float(spec.get("leaseDurationSeconds") or 0), since
    )


def free(lease: Seen, me: str, now: float) -> bool:
    """Whether we may take the Lease: nobody holds it, we hold it, or its holder let it expire."""
    return lease.holder in ("", me) or now >= lease.since + lease.duration


def identity(environment: Mapping[str, str]) -> str:
    """Return our identity: the pod's name, so that a restarted container can continue at once."""
    host = environment.get("POD_NAME") or socket.gethostname()
    return host if {"POD_NAME", "KUBERNETES_SERVICE_HOST"} & environment.keys() else f"{host}-{os.getpid()}"


class Lease:
    """Takes, renews and releases the Lease of a namespace, and fences its writes (`held`)."""

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
        """Whether the Lease was read at least once. A replica that waits for it is ready from then on."""

    def held(self) -> bool:
        """Whether we may write: no other operator can hold the Lease before a request sent now arrives."""
        return self._clock() < self._until

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
        LEADER.labels(self._cluster.namespace).set(1)
        _logger.info("Acting as %s", self._me)

    async def keep(self) -> None:
        """Renew the Lease until cancelled. While renewals fail, the fence keeps the operator from writing.

        Raises:
            LeaseLostError: another operator has taken the Lease.
        """
        while True:
            await asyncio.sleep(self._duration / 3 if self.held() else min(_WAIT_S, self._duration / 3))
            if await self.renew():
                continue
            if self._seen is not None and self._seen.holder != self._me:
                LEADER.labels(self._cluster.namespace).set(0)
                raise LeaseLostError(f"{self._seen.holder or 'nobody'} holds the Lease {LEASE} now.")

    async def release(self) -> None:
        """Release the Lease so that the next operator need not wait. No request may be under way."""
        if self.held():
            self._until = 0.0
            try:
                await self._give_back()
            except ApiError as error:
                _logger.warning("The Lease could not be released: %s", error)
        LEADER.labels(self._cluster.namespace).set(0)

    async def renew(self) -> bool:
        """Try once to take or renew the Lease; return whether it is ours."""
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
                await self._cluster.patch_lease(self._seen.version, {"holderIdentity": ""})
            except ApiError as error:
                if last or not error.conflict:
                    raise
                await self._read()  # a cancelled renewal may have reached the API server
            else:
                return

    async def _taken(self) -> Body | None:
        """Take or renew the Lease and return it; return `None` if another operator has it."""
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
            return await self._cluster.create_lease(spec)
        if not free(self._seen, self._me, self._clock()) or (
            # If another operator held the Lease after we began to act, we do not know what it did.
            self._acting and self._seen.holder != self._me
        ):
            return None
        return await self._cluster.patch_lease(self._seen.version, spec)

    async def _read(self) -> None:
        body = await self._cluster.get_lease()
        self.was_read, self._stale = True, False
        self._seen = None if body is None else seen(body, self._seen, self._clock())
