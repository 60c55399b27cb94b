"""An operator of several namespaces (`operator.namespaces`): each is served by itself.

Each has the Lease, the limits and the engine that an operator of its own would have, so such an operator and
this one keep out of each other's way. Connections, probes and metrics are shared; with `"*"` the watches too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import signal
from collections.abc import Mapping
from typing import Any

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.logs import bound

from coding_agent_operator import everywhere, gauges, http, metrics
from coding_agent_operator.cluster import connect
from coding_agent_operator.kopf_thread import Watch
from coding_agent_operator.observed import ACTIVE
from coding_agent_operator.place import Place, cancelled
from coding_agent_operator.settings import OperatorSettings
from coding_agent_operator.watching import Resource

_logger = logging.getLogger("operator.places")
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0
_LOOK_EACH = 3
"""So many intervals are between two looks whether the rights are still there."""


class PlaceError(CodingAgentError):
    """A namespace cannot be served as it is; it is begun anew."""


async def serve(settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Serve the namespaces until `stop` is set, or until SIGTERM or SIGINT.

    Raises:
        SettingsError: this process has no way to a cluster.
    """
    operator = settings.operator
    stop = stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await connect(operator.request_limit)
    places = Places(server, settings)
    probes = await http.serve(operator.http_host, operator.http_port, alive=places.alive, ready=places.ready)
    work = [asyncio.create_task(places.run()), asyncio.create_task(_until(stop))]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        await cancelled(work)
        await probes.cleanup()
        await server.aclose()


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


class Places:
    """The served namespaces."""

    def __init__(self, server: ApiServer, settings: OperatorSettings) -> None:
        self._server = server
        self._settings = settings
        self._everywhere = settings.operator.everywhere
        self._places: dict[str, Place] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._tried: set[str] = set()
        """Those that were looked at once, with success or without."""
        self._recalled: set[str] = set()
        """Of which something happened while their serving was ended."""
        self._watch: asyncio.Task[None] | None = None
        self._found = asyncio.Event()

    def alive(self) -> str | None:
        """Nothing is wrong with the process; what is wrong with a namespace is begun anew without it."""
        return None

    def ready(self) -> str | None:
        """Why it is not known yet what is to be served."""
        if self._everywhere:
            return None if self._found.is_set() else "the cluster was not listed yet"
        missing = sorted(set(self._settings.operator.namespaces) - self._tried)
        return f"not looked at yet: {', '.join(missing[:10])}" if missing else None

    async def run(self) -> None:
        """Serve until cancelled; then every Lease is given back."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._everywhere:
                    group.create_task(self._watch_forever())
                    group.create_task(self._find_forever())
                    group.create_task(self._close_forever())
                else:
                    for namespace in self._settings.operator.namespaces:
                        self._open(namespace)
                    await asyncio.Event().wait()
        finally:
            self._recalled.clear()
            await cancelled(list(self._serving.values()))

    def _open(self, namespace: str) -> Place:
        """Begin to serve a namespace that is not."""
        place = self._places[namespace] = Place(self._server, namespace, self._settings)
        task = self._serving[namespace] = asyncio.create_task(self._serve(place))
        task.add_done_callback(lambda _: self._closed(namespace))
        return place

    def _close(self, place: Place) -> None:
        """End it if it is still served and nothing has happened in it meanwhile."""
        if self._places.get(place.namespace) is place and not _busy(place):
            del self._places[place.namespace]
            self._serving[place.namespace].cancel()

    def _closed(self, namespace: str) -> None:
        del self._serving[namespace]
        self._places.pop(namespace, None)
        self._tried.discard(namespace)
        if namespace in self._recalled:
            self._recalled.discard(namespace)
            self._open(namespace)
            self._list_again()

    async def _serve(self, place: Place) -> None:
        """Serve a namespace, ever again if that fails, until cancelled or (with `"*"`) nothing is there."""
        namespace, failures, delay = place.namespace, 0, _RETRY_FIRST_S
        loop = asyncio.get_running_loop()
        with bound(namespace=namespace), gauges.serving(namespace):
            metrics.FAILING.labels(namespace).set(0)
            try:
                while True:
                    began = loop.time()
                    try:
                        await self._attend(place)
                    except Exception as error:
                        failures = 1 if loop.time() - began > _RETRY_MAX_S else failures + 1
                        delay = _delay(error, failures)
                        _tell(error, delay)
                    metrics.FAILING.labels(namespace).set(1)
                    saw = place.acting
                    place = self._places[namespace] = Place(self._server, namespace, self._settings)
                    if saw:
                        self._list_again()
                    await asyncio.sleep(delay)
                    if self._everywhere and not await self._anything(namespace):
                        return
            finally:
                metrics.FAILING.remove(namespace)

    async def _attend(self, place: Place) -> None:
        """One try.

        Raises:
            Exception: why it failed.
        """
        try:
            await place.look()
        finally:
            self._tried.add(place.namespace)
        metrics.FAILING.labels(place.namespace).set(0)
        work = [asyncio.create_task(place.run()), asyncio.create_task(self._mind(place))]
        if not self._everywhere:
            work.append(asyncio.create_task(Watch(place.namespace, place.observe).run()))
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            await place.stop(*work)
            metrics.forget_served()

    async def _mind(self, place: Place) -> None:
        """See regularly whether it is still served.

        Raises:
            PlaceError: it is not, although the API server answers.
            ApiError: a right was taken away.
        """
        for turn in itertools.count(1):
            await asyncio.sleep(self._settings.operator.resync_interval)
            doubtful = place.acting and not place.lease.held()
            if doubtful or turn % _LOOK_EACH == 0:
                try:
                    await place.look()
                except ApiError as error:
                    if error.status in (401, 403, 404):
                        raise
                    continue  # no answer, or not now: the regular looks go on trying
                if doubtful and not place.lease.held():
                    raise PlaceError("its Lease cannot be renewed")
            if not place.resync.watch_alive:
                if not self._everywhere:
                    raise PlaceError("its watch is dead")
                self._list_again()

    def _observe(self, resource: Resource, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of the whole cluster's watch; the first of a namespace begins to serve it."""
        namespace = body["metadata"]["namespace"]
        place = self._places.get(namespace)
        if place is None:
            if kind == "DELETED":
                return
            if namespace in self._serving:
                self._recalled.add(namespace)
                return
            place = self._open(namespace)
        with bound(namespace=namespace):
            place.observe(resource, kind, body)

    async def _watch_forever(self) -> None:
        """Watch the whole cluster; begin anew, with a list, when that fails or is asked for."""
        while True:
            began = asyncio.get_running_loop().time()
            self._watch = asyncio.create_task(Watch(None, self._observe).run())
            try:
                await asyncio.wait([self._watch])
            finally:
                await cancelled([self._watch])
            if not self._watch.cancelled() and (error := self._watch.exception()) is not None:
                lasted = asyncio.get_running_loop().time() - began
                delay = _RETRY_FIRST_S if lasted > _RETRY_MAX_S else _RETRY_MAX_S / 6
                _logger.warning("%s; again in %.0f s", error, delay)
                await asyncio.sleep(delay)

    def _list_again(self) -> None:
        """Have the whole cluster's watch show everything once more, to an engine that has not seen it."""
        if self._watch is not None:
            self._watch.cancel()

    async def _find_forever(self) -> None:
        """Find namespaces with active tasks that no watch has shown."""
        while True:
            try:
                for namespace in await everywhere.namespaces(self._server, ACTIVE):
                    if namespace not in self._serving:
                        self._open(namespace)
                self._found.set()
                # In one that goes away the Lease cannot be made any more.
                for place in [each for each in self._places.values() if not (each.acting or _busy(each))]:
                    if not await self._anything(place.namespace):
                        self._close(place)
            except ApiError as error:
                _logger.warning("The cluster cannot be looked at: %s", error)
            await asyncio.sleep(self._settings.operator.resync_interval)

    async def _close_forever(self) -> None:
        """Close namespaces that have no task any more; open those with ended tasks alone, to sweep them."""
        while True:
            empty = [each for each in self._places.values() if not _busy(each)]
            try:
                known = await everywhere.namespaces(self._server)
            except ApiError as error:
                _logger.warning("The cluster cannot be looked at: %s", error)
            else:
                for namespace in known - self._serving.keys():
                    self._open(namespace)
                for place in empty:
                    if place.namespace not in known:
                        self._close(place)
            await asyncio.sleep(self._settings.operator.sweep_interval)

    async def _anything(self, namespace: str) -> bool:
        """Whether a namespace has tasks; in doubt it has."""
        try:
            return await everywhere.has_tasks(self._server, namespace)
        except ApiError:
            return True


def _busy(place: Place) -> bool:
    return bool(len(place.engine.tasks) or len(place.engine.jobs))


def _delay(error: Exception, failures: int) -> float:
    """Seconds until the next try."""
    if isinstance(error, ApiError) and error.status is None:
        return _RETRY_FIRST_S  # the API server is away, for all
    return min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)


def _tell(error: Exception, delay: float) -> None:
    why: BaseException = error
    while isinstance(why, BaseExceptionGroup):
        why = why.exceptions[0]
    if isinstance(why, CodingAgentError):
        _logger.warning("Cannot be served: %s; again in %.0f s", why, delay)
    else:
        _logger.error("Cannot be served: %r; again in %.0f s", why, delay, exc_info=error)
