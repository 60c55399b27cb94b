"""When Jobs appear: from a watch of the benchmark's own, never from the operator's word."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from coding_agent_core.kubernetes.transport import Access
from kubernetes.aio import client, watch

from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.plane import Plane

_WATCH_SECONDS = 900


class JobWatch:
    """Follows the Jobs of one namespace for the length of a block."""

    def __init__(self, plane: Plane, namespace: str) -> None:
        self._access = Access(str(plane.kubeconfig))
        self._jobs = ("batch", "v1", namespace, "jobs")
        self._seen: dict[str, asyncio.Future[float]] = {}
        self._api: Any = None
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> JobWatch:
        settings = client.Configuration()
        settings.client_session_kwargs = {"trust_env": False}
        await self._access.load(settings)
        self._api = client.ApiClient(configuration=settings)
        custom: Any = client.CustomObjectsApi(self._api)
        listed = await custom.list_namespaced_custom_object(*self._jobs, _request_timeout=30)
        version = listed["metadata"]["resourceVersion"]
        self._following = asyncio.create_task(self._follow(custom, version))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._api.close()

    async def appeared(self, name: str, seconds: float = 60.0) -> float:
        """The moment (of `time.perf_counter`) at which the Job was seen.

        Raises:
            BenchError: it was not within so many seconds, or the watch has ended.
        """
        if self._following is None or self._following.done():
            raise BenchError("the watch of Jobs has ended")
        try:
            return await asyncio.wait_for(asyncio.shield(self._moment(name)), seconds)
        except TimeoutError:
            raise BenchError(f"no Job {name} after {seconds:.0f} s") from None

    async def _follow(self, custom: Any, version: str) -> None:
        async with watch.Watch() as jobs:  # type: ignore[no-untyped-call]
            async for event in jobs.stream(
                custom.list_namespaced_custom_object,
                *self._jobs,
                resource_version=version,
                timeout_seconds=_WATCH_SECONDS,
            ):
                moment = self._moment(event["object"]["metadata"]["name"])
                if not moment.done():
                    moment.set_result(time.perf_counter())

    def _moment(self, name: str) -> asyncio.Future[float]:
        return self._seen.setdefault(name, asyncio.get_running_loop().create_future())
