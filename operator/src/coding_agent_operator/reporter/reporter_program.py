"""The reporter's program: a watch and a regular list of AgentTasks feed one worker for each forge.

If there are several replicas, the holder of a Lease works, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from math import inf

from coding_agent_core.errors import TokenMissingError
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.task_sink import KubernetesSink, StoreSink
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer
from coding_agent_core.platforms.facts import web_base
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.reporting.comment import Links
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.metrics import Counter, Gauge
from coding_agent_core.runtime.retry import Clock, RetryPolicy, first_of, pause_until
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.operator import Reporter
from coding_agent_core.task.agenttask import (
    GROUP,
    LABEL_REPORTED,
    PLURAL,
    RESCAN,
    UNREPORTED,
    VERSION,
    AgentTask,
    Event,
)
from coding_agent_core.task.commands import next_command
from coding_agent_core.task.round_record import RerunEntry
from coding_agent_core.task.runs import stored_rescan
from coding_agent_core.task.task_store import TaskStore
from coding_agent_forges.connect import connect_all, connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.pacing import Paced, RequestRate

from coding_agent_operator.cluster.controller import NamespacedName, ObjectCache, Requeue
from coding_agent_operator.cluster.lease import Lease, identity
from coding_agent_operator.cluster.watching import PROBES, Relist, Selector, probes_served, watch
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.forge_worker import ForgeWorker, ReconcileTask, rank_of
from coding_agent_operator.reporter.reconcile_item import NotConfiguredError, reconcile
from coding_agent_operator.reporter.report import TaskMemory
from coding_agent_operator.reporter.round_scans import ReporterScans
from coding_agent_operator.reporter.token_expiry import ReporterPod, TokenExpiry
from coding_agent_operator.reporter.under_way import UnderWay

_logger = logging.getLogger("reporter")

FORGE_REQUESTS = Counter(
    "coding_agent_reporter_forge_requests",
    "Requests to forges, by host, kind (read, write) and status.",
    ["host", "kind", "status"],
)
API_REQUESTS = Counter(
    "coding_agent_reporter_api_requests",
    "Requests to the API server, by verb and status.",
    ["verb", "status"],
)
PENDING = Gauge(
    "coding_agent_reporter_pending", "Tasks whose item does not show their state yet, by host.", ["host"]
)
OLDEST = Gauge(
    "coding_agent_reporter_oldest_pending_seconds",
    "Age of the oldest change that its item does not show yet, by host.",
    ["host"],
)
UNAVAILABLE = Gauge(
    "coding_agent_reporter_forge_unavailable_seconds",
    "How long the forge has not answered, by host.",
    ["host"],
)
LEADER = Gauge("coding_agent_reporter_leader", "1: this replica works; 0: it waits for the Lease.")
WATCH_BEHIND = Gauge(
    "coding_agent_reporter_watch_behind", "Tasks whose newest version the watch has not delivered."
)

_MANAGER = "coding-agent-reporter"
"""The field manager of the reporter's writes, and the name of its Lease."""
_ROLE = "operator/deploy/reporter-role.yaml"
_POLICY = RetryPolicy(tries=2, total=10.0, first_wait=0.5, longest_wait=2.0, longest_retry_after=2.0)
"""One retry covers a single lost answer; later reconciles retry everything else."""
_TICK_S = 1.0
_BURST = 40 / 3
"""Requests at once after a quiet time: 10 at the usual share of 3/4, as many as an item needs. GitHub permits
100 at a time."""
_KEEP_REMAINING = 200
"""Requests that are left to attempts and polls if the forge says how many remain: about as many as an attempt
makes."""
_ENDING_S = 20.0
"""Seconds for which a stop waits for the work under way: as long as a request waits for its turn and then for
an answer, and less than the 30 seconds after which Kubernetes kills the container."""
_TOKEN_S = 2.0
"""Seconds between two checks for a missing token."""


class _CountingPace(Paced):
    """A pace that also counts the requests."""

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        kind = "read" if method == "GET" else "write"
        FORGE_REQUESTS.labels(self.host, kind, str(status) if status else "none").inc()
        super().answered(method, status, headers, content)


def rate_for(settings: Reporter, platform: Platform, host: str) -> RequestRate:
    """Return a host's rate limits: our share of the vendor's documented ones."""
    facts = FACTS[platform]
    known = facts.web_limits if host == facts.web_host else facts.limits

    def share(documented: int | None) -> float:
        return inf if documented is None else documented * settings.forge_share

    return RequestRate(
        per_second=settings.requests_per_second,
        burst=max(1, round(_BURST * settings.forge_share)),
        per_hour=share(known.per_hour),
        hourly_share=None if known.per_hour is None else settings.forge_share,
        writes_per_minute=share(known.writes_per_minute),
        creates_per_minute=share(known.creates_per_minute),
        creates_per_hour=share(known.creates_per_hour),
        keep=_KEEP_REMAINING,
    )


def connect_forges(settings: Settings) -> dict[str, tuple[Forge, Paced]]:
    """Return a rate-limited client of each platform that has a token here, by host.

    Raises:
        SettingsError: no token can be used, or two platforms are configured on the same host.
    """
    paces: dict[str, Paced] = {}

    def connect_paced(settings: Settings, platform: Platform) -> Forge:
        host = settings.forge(platform).host
        limited = settings.development.forge_limits
        rate = rate_for(settings.reporter, platform, host) if limited else RequestRate(inf, burst=1)
        paces[host] = _CountingPace(host, rate, Clock())
        return connect_forge(settings, platform, policy=_POLICY, pace=paces[host])

    return {host: (forge, paces[host]) for host, forge in connect_all(settings, connect_paced).items()}


class ReporterController:
    """Passes every AgentTask of a namespace to the worker of its forge."""

    def __init__(
        self,
        tasks: TaskStore,
        sink: StoreSink,
        forges: Mapping[str, tuple[Forge, Paced]],
        settings: Settings,
    ) -> None:
        self._tasks = tasks
        self._settings = settings
        self._cache: ObjectCache[AgentTask] = ObjectCache(AgentTask.compact)
        self.relist = Relist(
            tasks.namespace,
            [(self._cache, self._list)],
            settings.relist_interval,
            listed=self._listed,
            behind=WATCH_BEHIND.set,
        )
        self._under_way = UnderWay()
        self._workers = {}
        self._scans: dict[str, ReporterScans] = {}
        for host, (forge, pace) in forges.items():
            context = ForgeContext(
                forge=forge,
                labels=settings.labels(forge.platform),
                links=Links(
                    web_base(settings.forge(forge.platform).api_url), settings.consumer.branch_prefix
                ),
                tasks=tasks,
                sink=sink,
                clocks=settings.development,
                clock=_clock,
                monotonic=asyncio.get_running_loop().time,
                notes=partial(self._notes, host),
                reruns=partial(self._reruns, host),
                change_rounds=partial(self._change_rounds, host),
                under_way=self._under_way,
                commands=settings.webhook.commands.accepted,
            )
            if settings.rounds.enabled:
                self._scans[host] = ReporterScans(
                    context, settings.rounds, settings.consumer.branch_prefix, self._notes_changed
                )
            self._workers[host] = self._new_worker(host, partial(self._reconcile, context), pace)
        self._unconfigured = self._new_worker("", self._not_configured, None)
        self._pod = ReporterPod.here(tasks.namespace)
        self._expiry = TokenExpiry(
            {host: forge for host, (forge, _) in forges.items()},
            self._emit,
            _clock,
            asyncio.get_running_loop().time,
        )

    async def scanned(self) -> None:
        """Wait until the open changes of every forge were scanned once, if they are scanned at all."""
        for scans in self._scans.values():
            await scans.scanned.wait()

    def observe(self, kind: str | None, task: AgentTask) -> None:
        """Process a watch event; `kind` is its type, or `None` in the initial list."""
        if self._cache.observe(kind, task):
            self._changed(task.name)

    async def ended(self) -> bool:
        """Start no more work; return whether all that was under way has ended, so that no write is left.

        It still ends only while `run` does, which the caller cancels afterwards.
        """
        return await self._under_way.ended(_ENDING_S)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.relist.run())
            await self.relist.synced.wait()
            for worker in (*self._workers.values(), self._unconfigured):
                group.create_task(worker.run())
            for scans in self._scans.values():
                group.create_task(scans.run())
            group.create_task(self._expiry.run())
            for worker in self._workers.values():
                group.create_task(forever("outages", partial(self._tick, worker)))

    async def _reconcile(self, context: ForgeContext, task: AgentTask, memory: TaskMemory) -> Requeue | None:
        async with self._under_way.one():
            return await reconcile(context, task, memory)

    async def _list(self) -> tuple[list[AgentTask], int]:
        try:
            return await self._tasks.list(UNREPORTED)
        except ApiError as error:
            if error.status == 401:
                await self._tasks.renew()
            raise

    async def _listed(self, changed: set[NamespacedName]) -> None:
        for key in changed:
            self._changed(key.name)

    def _changed(self, name: str) -> None:
        task = self._task(name)
        if task is None:
            for worker in (*self._workers.values(), self._unconfigured):
                worker.forget(name)
        else:
            host = task.spec.source.host.lower()
            scans, worker = self._scans.get(host), self._workers.get(host, self._unconfigured)
            rescan = stored_rescan(task)
            if scans is not None and rescan is not None and rescan.changes:
                scans.ask(task)
                reads_item = rescan.labels or next_command(task) is not None
                if task.metadata.labels.get(LABEL_REPORTED) == RESCAN and not reads_item:
                    return  # its item shows the end already
            worker.add(task, rank_of(task))

    async def _emit(self, event: Event) -> None:
        if self._pod is not None:
            await self._tasks.emit(event, self._pod, _clock(), kind="Pod")

    def _notes(self, host: str, item: str) -> tuple[str, ...]:
        scans = self._scans.get(host)
        return scans.notes.get(item, ()) if scans is not None else ()

    def _reruns(self, host: str, item: str) -> tuple[RerunEntry, ...]:
        scans = self._scans.get(host)
        return scans.reruns(item) if scans is not None else ()

    def _change_rounds(self, host: str, issue: str, change: str) -> str:
        scans = self._scans.get(host)
        return scans.change_rounds(issue, change) if scans is not None else ""

    def _notes_changed(self, item: str) -> None:
        for task in self._cache.of(self._tasks.namespace):
            if task.item_hash == item:
                self._changed(task.name)

    def _task(self, name: str) -> AgentTask | None:
        return self._cache.get((self._tasks.namespace, name))

    async def _tick(self, worker: ForgeWorker) -> float:
        update_metrics(worker)
        try:
            await worker.record_outage()
        except ApiError as error:
            _logger.warning("%s", error)
        return _TICK_S

    def _new_worker(self, host: str, reconcile_task: ReconcileTask, pace: Paced | None) -> ForgeWorker:
        return ForgeWorker(
            host,
            reconcile_task,
            task=self._task,
            tasks=self._tasks,
            settings=self._settings.reporter,
            clocks=self._settings.development,
            clock=_clock,
            answers=lambda: pace.answers if pace else 0,
        )

    async def _not_configured(self, task: AgentTask, _: object) -> None:
        source = task.spec.source
        raise NotConfiguredError(
            f"The item is on {source.host}, which is not configured here. Hosts with a token: "
            f"{', '.join(sorted(self._workers))}. Set `{source.platform}.api_url`, and the token of that "
            "installation."
        )


def update_metrics(worker: ForgeWorker) -> None:
    now = asyncio.get_running_loop().time()
    pending = worker.backlog.pending(now)
    PENDING.labels(worker.host).set(len(pending))
    OLDEST.labels(worker.host).set(max((age for _, age in pending), default=0.0))
    UNAVAILABLE.labels(worker.host).set(now - worker.breaker.began if worker.breaker else 0.0)


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, or until SIGTERM or SIGINT.

    Raises:
        SettingsError: no cluster or no forge is configured. (The program waits for a missing token file.)
        LeaseLostError: another replica has taken over.
    """
    operator, namespace = settings.operator, settings.operator.own_namespace
    stop = stop or asyncio.Event()
    controller: ReporterController | None = None
    lease: Lease | None = None

    def ready() -> str | None:
        # Without a token there is nothing to do, so a new release is healthy before its Secret exists. A
        # replica that waits for the Lease is healthy too, because a rolling update waits for that.
        if lease is not None and not lease.was_read:
            return "the Lease has not been read yet"
        synced = controller is None or controller.relist.synced.is_set()
        return None if synced else "the cluster has not been listed yet"

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            probes_served(
                *settings.development.address(PROBES),
                alive=lambda: "the watch is dead" if controller and controller.relist.watch_dead else None,
                ready=ready,
            )
        )
        forges = await _connect_when_possible(settings, stop)
        if stop.is_set():
            return
        for forge, _ in forges.values():
            stack.push_async_callback(forge.aclose)
        server = await ApiServer.connect(
            Access.find(),
            operator.request_limit,
            role=_ROLE,
            on_answer=lambda verb, status: API_REQUESTS.labels(verb, status).inc(),
        )
        lease = Lease(
            server,
            namespace,
            _MANAGER,
            identity(os.environ),
            operator.lease_duration,
            acts=LEADER.set,
        )
        for _, pace in forges.values():
            pace.fence = lease.require
        tasks = AgentTasks(server, namespace, _MANAGER, fence=lease.require)
        stack.push_async_callback(tasks.aclose)
        sink = KubernetesSink(
            Access.find(),
            namespace,
            settings.consumer,
            total_timeout=settings.development.webhook_timeout,
            fence=lease.require,
        )
        stack.push_async_callback(sink.aclose)
        await first_of(lease.acquire(), stop.wait())
        if not lease.held():
            return
        observer = controller = ReporterController(tasks, sink, forges, settings)
        _logger.info("Reporting to %s", ", ".join(sorted(forges)))
        work = asyncio.create_task(first_of(observer.run(), lease.keep()))
        # If the work ends, the program ends too, and Kubernetes starts it again.
        work.add_done_callback(lambda _: stop.set())
        try:
            await watch(
                {(GROUP, VERSION, PLURAL): Selector(UNREPORTED)},
                lambda _, kind, body: observer.observe(kind, AgentTask.of(body)),
                namespaces=[namespace],
                stop=stop,
            )
            if work.done():
                work.result()
        finally:
            # The Lease is renewed meanwhile, so that what is under way may still write.
            ended = await observer.ended()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if ended:
                await lease.release()
            elif lease.held():
                _logger.warning("Requests are still under way; the Lease expires instead of being released")


async def _connect_when_possible(settings: Settings, stop: asyncio.Event) -> dict[str, tuple[Forge, Paced]]:
    """Wait until a token can be read and return the clients; return none if `stop` is set before.

    Raises:
        SettingsError: no token is configured, or two platforms are configured on the same host.
    """
    warned = False
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            return connect_forges(settings)
        except TokenMissingError as error:
            if not warned:
                _logger.warning("Waiting for a token: %s", error)
            warned = True
            await pause_until(stop, _TOKEN_S)
    return {}


def _clock() -> datetime:
    return datetime.now(UTC)
