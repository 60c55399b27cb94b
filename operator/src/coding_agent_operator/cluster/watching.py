"""Watches, lists, probes and metrics, which the programs of operator and reporter share.

kopf watches, and its handlers only feed an object cache. Event handlers add no finalizer and no annotation to
an object. kopf does not repeat a failed handler, and a watch can stop unnoticed: `Relist` covers both.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import kopf
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.http_server import PAGE_LIMITS, ClientLimits, Page, listen, pages_served
from coding_agent_core.runtime.metrics import REGISTRY, metrics_page

from coding_agent_operator.cluster.controller import NamespacedName, ObjectCache

_logger = logging.getLogger("operator.watching")

Resource = tuple[str, str, str]
"""Group, version and plural. (As one string, 'batch/v1/jobs', it would match nothing in kopf.)"""
Observe = Callable[[Resource, str | None, Mapping[str, Any]], None]
"""Takes a watch event: the resource, the event's type (`None` in the initial list), and the object."""


_LIST_SHARE, _LONGEST_PAUSE_S = 0.05, 600.0
_RELIST_RETRY_S = 1.0
PROBES = ("0.0.0.0", 8080)  # noqa: S104 - the kubelet and Prometheus connect from outside of the pod
"""Address and port of `/livez`, `/readyz` and `/metrics`. Each pod has addresses of its own, so nothing can
have taken the port."""


class WatchError(CodingAgentError):
    """kopf ended, although nobody stopped it."""


class Selector(NamedTuple):
    """Selects the objects to watch; the API server filters them."""

    labels: str
    fields: str = ""


async def watch(
    selectors: Mapping[Resource, Selector],
    observe: Observe,
    *,
    namespaces: Collection[str],
    stop: asyncio.Event,
    restart: asyncio.Event | None = None,
) -> None:
    """Watch until `stop` is set or until cancelled. SIGTERM and SIGINT set `stop`.

    Args:
        selectors: the selector of each watched resource.
        namespaces: the namespaces to watch; if empty, the whole cluster.
        restart: when this is set, all watches start again with a list.

    Raises:
        WatchError: kopf cannot continue.
    """
    restart = restart or asyncio.Event()
    while not stop.is_set():
        restart.clear()
        ended = asyncio.Event()
        operator = asyncio.create_task(_operate(selectors, observe, namespaces, ended, stop))
        waiting = [asyncio.create_task(event.wait()) for event in (stop, restart)]
        try:
            await asyncio.wait([operator, *waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.set()
            for task in waiting:
                task.cancel()
            await operator


async def _operate(
    selectors: Mapping[Resource, Selector],
    observe: Observe,
    namespaces: Collection[str],
    ended: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    tasks = await kopf.spawn_tasks(
        registry=_registry(selectors, observe),
        settings=_settings(selectors),
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=True,
        stop_flag=ended,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # These replace kopf's own handlers, which would only end the current watches.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await kopf.run_tasks(tasks, ignored=_Everything())
    except Exception as error:
        raise WatchError(f"The watches have ended: {error}") from error


class _Everything(frozenset[Any]):
    """A set that contains every task, so that kopf, when it ends, cancels no task of ours."""

    def __contains__(self, _: object) -> bool:
        return True


class _Backoffs:
    """kopf's retry delays in seconds, without end, so that one refused namespace does not end all watches."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 2.0, 4.0, 8.0, 15.0), itertools.repeat(30.0))


def _registry(selectors: Mapping[Resource, Selector], observe: Observe) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    def register(resource: Resource) -> None:
        @kopf.on.event(*resource, registry=registry)
        async def event(event: kopf.RawEvent, **_: Any) -> None:
            observe(resource, event["type"], event["object"])

    for resource in selectors:
        register(resource)
    return registry


class _NoDiffBase(kopf.DiffBaseStorage):
    """Disables kopf's copy of each object, which only handlers of changes need, and we have none."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored in objects."""


class _NoProgress(kopf.ProgressStorage):
    """Disables kopf's record of progress, which only handlers of changes need, and we have none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored in objects."""

    def purge(self, **_: Any) -> None:
        """Nothing is removed, because nothing was stored."""

    def touch(self, **_: Any) -> None:
        """Nothing is written, because a dummy change would only trigger handlers that we do not have."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _settings(selectors: Mapping[Resource, Selector]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    # kopf's Events about itself would be written to our objects.
    settings.posting.enabled = False
    # kopf's peering is priority and not a lock: two equal replicas would pause each other. The Lease
    # decides.
    settings.peering.standalone = True
    # Looking for new kinds needs rights in the whole cluster, and ours are known.
    settings.scanning.disabled = True
    for resource, selector in selectors.items():
        settings.watching.label_selectors[resource] = selector.labels
        if selector.fields:
            settings.watching.field_selectors[resource] = selector.fields
    # Without limits, kopf notices a dead connection only after minutes.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Backoffs()
    # Each object has a worker until then, and our events are processed at once.
    settings.queueing.idle_timeout = 1.0
    settings.process.ultimate_exiting_timeout = None  # it would kill the process when watches start again
    for name in ("kopf.objects", "kopf.activities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return settings


Lists = Callable[[], Awaitable[tuple[list[Any], int]]]
"""Returns the objects that a cache selects, and the list's resourceVersion. It may raise `ApiError`."""


class Relist:
    """Lists a namespace at every interval, whatever the watches have shown, and notices a dead watch.

    Args:
        sources: each cache, with the function that lists the objects for it.
        listed: called after every list with the keys that changed.
        interval: the seconds between two lists.
        behind: called with the number of object versions that the last list showed and no watch has shown
            since. If it is more than 0, a watch is dead.
    """

    def __init__(
        self,
        namespace: str,
        sources: Sequence[tuple[ObjectCache[Any], Lists]],
        interval: float,
        *,
        listed: Callable[[set[NamespacedName]], Awaitable[None]],
        behind: Callable[[int], None],
    ) -> None:
        self._namespace = namespace
        self._sources = sources
        self._interval = interval
        self._listed = listed
        self._behind = behind
        self._dead = False
        self.synced = asyncio.Event()
        """Set once everything was listed. Until then, an object missing from a cache may exist."""

    @property
    def watch_dead(self) -> bool:
        """Whether a watch has missed existing versions for a whole interval and still misses them."""
        return self._dead and any(cache.behind(self._namespace) for cache, _ in self._sources)

    async def run(self) -> None:
        """List now and at every interval; try again sooner while the API server does not answer."""
        await forever("relist", self._listed_once)

    async def _listed_once(self) -> float:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            behind = await self.once()
        except ApiError as error:
            _logger.warning("The cluster cannot be listed: %s", error)
            return min(_RELIST_RETRY_S, self._interval)
        return pause_after(clock() - began, self._interval, behind)

    async def once(self) -> int:
        """List everything once; return the number of versions that no watch has shown.

        Raises:
            ApiError: the API server did not answer.
        """
        # All lists come before the caches change, so a task and its Jobs are of about one moment.
        lists = [await lists_all() for _, lists_all in self._sources]
        # This is asked before the new lists replace the old ones: the watches had a whole interval for
        # those.
        behind = sum(cache.behind(self._namespace) for cache, _ in self._sources)
        changed: set[NamespacedName] = set()
        for (cache, _), (objects, version) in zip(self._sources, lists, strict=True):
            changed |= cache.replace(self._namespace, objects, version)
        if behind and not self._dead:
            _logger.error("A watch is dead: %d objects have versions that it never showed", behind)
        self._dead = bool(behind)
        self._behind(behind)
        if not self.synced.is_set():
            _logger.info("Listed %d objects", sum(len(objects) for objects, _ in lists))
            self.synced.set()
        await self._listed(changed)
        return behind


def pause_after(took: float, interval: float, behind: int) -> float:
    """Return the seconds until the next list.

    A list of thousands of tasks costs the API server tens of megabytes. While the watches show everything, it
    is only a precaution, so lists take a twentieth of the time at most, but come every ten minutes.

    Args:
        took: the seconds that the last list took.
        interval: the usual pause in seconds.
        behind: the number of versions that no watch has shown.
    """
    return interval if behind else max(interval, min(_LONGEST_PAUSE_S, took / _LIST_SHARE))


@asynccontextmanager
async def probes_served(
    host: str,
    port: int,
    *,
    alive: Callable[[], str | None],
    ready: Callable[[], str | None],
    limits: ClientLimits = PAGE_LIMITS,
) -> AsyncIterator[None]:
    """Serve `/livez`, `/readyz` and `/metrics` during the `with` block.

    Args:
        alive: returns the problem that only a restart can fix, or `None`.
        ready: returns why the program does not work yet, or `None` if it works.

    Raises:
        SettingsError: the address is not available.
    """

    def probe(check: Callable[[], str | None]) -> Page:
        def page(_: Mapping[bytes, bytes]) -> tuple[int, str, bytes]:
            problem = check()
            return 503 if problem else 200, "text/plain; charset=utf-8", (problem or "ok").encode()

        return page

    listener = listen(host, port)
    _logger.info("Probes and metrics are at %s, port %d", *listener.getsockname()[:2])
    pages = {"/livez": probe(alive), "/readyz": probe(ready), "/metrics": metrics_page(REGISTRY)}
    async with pages_served(listener, pages, limits):
        yield
