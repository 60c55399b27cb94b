"""The operator's program, which `main.py --mode operator` runs, and the namespaces that it serves.

The program serves each namespace separately: if one is broken or forbidden, the others continue. Namespaces
share caches, work queue and watches. Each has its own Lease and limits, as if it had its own operator. If an
operator for a single namespace runs too, its Lease keeps the two from acting at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.retry import backoff
from coding_agent_core.runtime.telemetry import bound
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import GROUP, NOT_ENDED, PLURAL, VERSION, AgentTask

from coding_agent_operator.cluster.controller import Controller, NamespacedName, ObjectCache, Requeue
from coding_agent_operator.cluster.lease import Lease, identity
from coding_agent_operator.cluster.observed import ACTIVE, DEFAULTED, Job, read_job
from coding_agent_operator.cluster.requests import LEASE, Cluster, namespaces_with_tasks
from coding_agent_operator.cluster.schema import SchemaCheck
from coding_agent_operator.cluster.watching import PROBES, Resource, Selector, probes_served, watch
from coding_agent_operator.jobs.job_builder import JobBuilder
from coding_agent_operator.namespace import NamespaceController, observe
from coding_agent_operator.tasks import metrics

_logger = logging.getLogger("operator.program")

TASKS: Resource = (GROUP, VERSION, PLURAL)
JOBS: Resource = ("batch", "v1", "jobs")
WATCHED = {TASKS: Selector(DEFAULTED, NOT_ENDED), JOBS: Selector(ACTIVE)}
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0
_RESTART_MAX_S = 600.0
_WORKERS = 8
"""The number of tasks that are reconciled at the same time."""


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set. SIGTERM and SIGINT set it.

    Raises:
        SettingsError: this process has no credentials for a cluster.
    """
    stop = stop or asyncio.Event()
    server = await ApiServer.connect(
        Access.find(),
        settings.operator.request_limit,
        role="operator/deploy/role.yaml",
        on_answer=lambda verb, status: metrics.API_REQUESTS.labels(verb, status).inc(),
    )
    namespaces = Namespaces(server, settings)
    try:
        async with probes_served(
            *settings.development.address(PROBES), alive=namespaces.alive, ready=namespaces.ready
        ):
            watching = watch(
                WATCHED,
                namespaces.observe,
                namespaces=namespaces.names,
                stop=stop,
                restart=namespaces.restart_watches,
            )
            work = [asyncio.create_task(namespaces.run()), asyncio.create_task(watching)]
            try:
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await cancel_and_wait(work)
    finally:
        await server.aclose()


class Namespaces:
    """Runs the operator of each configured namespace.

    With `operator.namespaces: ["*"]`, it serves every namespace that has tasks.
    """

    def __init__(self, server: ApiServer, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._everywhere = settings.operator.everywhere
        self.names = (
            []
            if self._everywhere
            else list(settings.operator.namespaces or (settings.operator.own_namespace,))
        )
        """The configured namespaces; empty for all."""
        self._tasks: ObjectCache[AgentTask] = ObjectCache(AgentTask.compact)
        self._jobs: ObjectCache[Job] = ObjectCache()
        self._controller = Controller(self._reconcile, workers=_WORKERS, on_error=self._failed)
        self._schema = SchemaCheck(server)
        self._controllers: dict[str, NamespaceController] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._failing: set[str] = set()
        self._tried: set[str] = set()
        """Namespaces that were tried at least once, successfully or not."""
        self._discovered = False
        self._stopping = False
        self.restart_watches = asyncio.Event()
        self._restart_due = 0.0
        self._restarts = 0

    def alive(self) -> str | None:
        """Return why only a restart of the program helps, or `None`: all watches are dead."""
        acting = [controller for controller in self._controllers.values() if controller.acting]
        dead = [controller for controller in acting if controller.relist.watch_dead]
        # One dead namespace does not restart the program, because the others are served.
        return "a watch is dead" if dead and len(dead) == len(acting) else None

    def ready(self) -> str | None:
        """Return why the program is not ready, or `None` if it is."""
        if not self._schema.done or self._schema.problem:
            return self._schema.problem or "the schema of AgentTask has not been read yet"
        if self._everywhere:
            return None if self._discovered else "the cluster has not been listed yet"
        self._tried.update(name for name, controller in self._controllers.items() if controller.ready)
        waiting = sorted(set(self.names) - self._tried)
        if waiting:
            return f"not read yet: {', '.join(waiting[:10])}"
        return "no namespace can be served" if self._failing.issuperset(self.names) else None

    def observe(self, resource: Resource, kind: str | None, body: Mapping[str, Any]) -> None:
        """Process a watch event; with `"*"`, the first event of a namespace makes the program serve it."""
        stored: AgentTask | Job = AgentTask.of(body) if resource == TASKS else read_job(body)
        if self._everywhere and kind != "DELETED":
            self._open(stored.namespace)
        new = observe(self._tasks, self._jobs, self._controller.queue, kind, stored)
        if new and (controller := self._controllers.get(stored.namespace)) is not None:
            controller.scheduler.changed()

    async def run(self) -> None:
        """Serve until cancelled; at the end, release every Lease."""
        workers = asyncio.create_task(self._controller.run())
        schema = asyncio.create_task(self._schema.run())
        discovery = asyncio.create_task(self._discover() if self._everywhere else asyncio.Event().wait())
        try:
            for namespace in self.names:
                self._open(namespace)
            done, _ = await asyncio.wait([workers, discovery, schema], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping = True
            # Each namespace waits for its requests under way.
            await cancel_and_wait([discovery, schema, *self._serving.values()])
            # The workers end last, because a namespace that closes waits for its reconciles under way.
            await cancel_and_wait([workers])

    async def _reconcile(self, key: NamespacedName) -> Requeue:
        controller = self._controllers.get(key.namespace)
        return Requeue() if controller is None else await controller.reconcile(key.name)

    async def _failed(self, key: NamespacedName, error: Exception) -> None:
        if (controller := self._controllers.get(key.namespace)) is not None:
            await controller.failed(key.name, error)

    def _open(self, namespace: str) -> None:
        """Serve a namespace. If it is being closed, it is opened again afterwards if needed."""
        if namespace not in self._serving:
            task = self._serving[namespace] = asyncio.create_task(self._serve(namespace))
            task.add_done_callback(lambda _: self._closed(namespace))

    def _closed(self, namespace: str) -> None:
        del self._serving[namespace]
        self._tried.discard(namespace)
        if not self._stopping and (self._tasks.of(namespace) or self._jobs.of(namespace)):
            self._open(namespace)

    async def _serve(self, namespace: str) -> None:
        """Serve a namespace, with retries, until cancelled or (with `"*"`) until it has no task."""
        loop, failures = asyncio.get_running_loop(), 0

        def probed() -> None:
            self._failing.discard(namespace)
            metrics.FAILING.labels(namespace).set(0)

        with bound(namespace=namespace):
            try:
                while True:
                    began = loop.time()
                    metrics.LEADER.labels(namespace).set(0)
                    metrics.WATCH_BEHIND.labels(namespace).set(0)
                    metrics.FAILING.labels(namespace).set(namespace in self._failing)
                    controller = self._controllers[namespace] = self._controller_of(namespace)
                    try:
                        await controller.run(probed)
                    except Exception as error:
                        # After a long time without a failure, the next one is a new problem and is retried
                        # soon.
                        failures = 1 if loop.time() - began > _RETRY_MAX_S else failures + 1
                        delay = _delay(error, failures)
                        _log(error, delay)
                    self._tried.add(namespace)
                    self._failing.add(namespace)
                    metrics.FAILING.labels(namespace).set(1)
                    await asyncio.sleep(delay)
                    # The namespace may be gone, and then there is nothing to retry.
                    if self._everywhere and not await controller.has_tasks():
                        return
            finally:
                self._controllers.pop(namespace, None)
                self._failing.discard(namespace)
                metrics.forget(namespace)

    def _controller_of(self, namespace: str) -> NamespaceController:
        operator, cluster = self._settings.operator, Cluster(self._server, namespace)
        lease = Lease(
            self._server,
            namespace,
            LEASE,
            # Names of pods are unique only within their namespace.
            f"{operator.own_namespace}/{identity(os.environ)}",
            operator.lease_duration,
            acts=metrics.LEADER.labels(namespace).set,
        )
        cluster.may_write = lease.held
        return NamespaceController(
            cluster,
            lease,
            JobBuilder(cluster, self._settings, lambda: datetime.now(UTC)),
            self._settings,
            tasks=self._tasks,
            jobs=self._jobs,
            controller=self._controller,
            behind=lambda behind: self._behind(namespace, behind),
        )

    def _behind(self, namespace: str, behind: int) -> None:
        """Start dead watches again, with growing intervals if this does not help."""
        metrics.WATCH_BEHIND.labels(namespace).set(behind)
        now = asyncio.get_running_loop().time()
        if behind and now >= self._restart_due:
            self.restart_watches.set()
            self._restarts += 1
            interval = self._settings.relist_interval
            self._restart_due = now + backoff(self._restarts, interval, _RESTART_MAX_S)
        elif not any(controller.relist.watch_dead for controller in self._controllers.values()):
            self._restarts = 0

    async def _discover(self) -> None:
        """Find namespaces with tasks that no watch has shown, and close namespaces without tasks."""
        settings, clock = self._settings, asyncio.get_running_loop().time
        sweep_due = 0.0

        async def once() -> float:
            nonlocal sweep_due
            # Namespaces with only ended tasks are served too, to delete the tasks later.
            ended_too = clock() >= sweep_due
            try:
                for namespace in await namespaces_with_tasks(self._server, "" if ended_too else NOT_ENDED):
                    self._open(namespace)
            except ApiError as error:
                _logger.warning("The cluster cannot be listed: %s", error)
                return min(_RETRY_FIRST_S, settings.relist_interval)
            self._discovered = True
            sweep_due = clock() + settings.development.sweep_interval if ended_too else sweep_due
            for namespace, controller in list(self._controllers.items()):
                if not controller.empty or await controller.has_tasks() or not controller.empty:
                    continue
                # The namespace may have closed on its own while we waited for the API server.
                if self._controllers.get(namespace) is controller:
                    self._serving[namespace].cancel()
            return settings.relist_interval

        await forever("discovery", once)


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the asyncio tasks, wait until all have ended, and ignore their exceptions."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _delay(error: Exception, failures: int) -> float:
    """Return the seconds until the next try."""
    if isinstance(error, ApiError) and error.status is None:
        return _RETRY_FIRST_S  # the API server does not answer anyone
    return backoff(failures, _RETRY_FIRST_S, _RETRY_MAX_S)


def _log(error: Exception, delay: float) -> None:
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, CodingAgentError):
        _logger.warning("Cannot be served: %s; next try in %.0f s", cause, delay)
    else:
        _logger.error("Cannot be served: %r; next try in %.0f s", cause, delay, exc_info=error)
