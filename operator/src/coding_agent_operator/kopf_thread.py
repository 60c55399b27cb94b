"""kopf's watches in a thread of their own, for an operator of several namespaces.

kopf ends the whole operator when one of its watches is refused, and at its end it cancels every task of its
loop that is younger than itself; in a loop of its own it takes nobody with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import kopf
from coding_agent_core.errors import CodingAgentError

from coding_agent_operator import watching
from coding_agent_operator.watching import Resource

# It warns of every loop that is not the process's main one; our signals are handled there.
logging.getLogger("kopf._core.reactor.running").addFilter(lambda line: "OS signals" not in str(line.msg))
_END_S = 10.0
"""So long kopf may take to end; its thread does not keep the process."""
Observe = Callable[[Resource, str | None, Mapping[str, Any]], None]
"""Takes a watch event: of what, its type (`None` in the initial list), and the object."""


class WatchError(CodingAgentError):
    """kopf has ended."""


class Watch:
    """Watches the active tasks and Jobs of a namespace, or of all (`None`); `observe` runs in our loop."""

    def __init__(self, namespace: str | None, observe: Observe) -> None:
        self._namespace = namespace
        self._observe = observe
        self._own: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False

    async def run(self) -> None:
        """Watch until cancelled, beginning with a list.

        Raises:
            WatchError: kopf has ended: a right is missing, or the API server is not as it should be.
        """
        loop, context = asyncio.get_running_loop(), copy_context()
        ended: asyncio.Future[BaseException | None] = loop.create_future()

        def deliver(resource: Resource, event: kopf.RawEvent) -> None:
            loop.call_soon_threadsafe(
                self._observe, resource, event["type"], dict(event["object"]), context=context
            )

        def work() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(deliver))
            except BaseException as caught:  # it is told to whoever waits
                error = caught
            with suppress(RuntimeError):  # nobody waits any more: the program has ended
                loop.call_soon_threadsafe(_set, ended, error)

        where = self._namespace or "all namespaces"
        threading.Thread(target=context.copy().run, args=(work,), name=f"watch {where}", daemon=True).start()
        try:
            error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._end()
            await asyncio.wait([ended], timeout=_END_S)
            raise
        raise WatchError(f"The watch of {where} has ended: {error or 'nobody knows why'}") from error

    async def _operate(self, deliver: Callable[[Resource, kopf.RawEvent], None]) -> None:
        self._own, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self._stopped:
            return
        settings = kopf.OperatorSettings()
        watching.only_watch(settings, watching.TASKS_AND_JOBS)
        # It would kill the process, not the thread.
        settings.process.ultimate_exiting_timeout = None
        await kopf.operator(
            registry=_registry(deliver),
            settings=settings,
            clusterwide=self._namespace is None,
            namespaces=[] if self._namespace is None else [self._namespace],
            standalone=True,
            stop_flag=self._stop,
        )

    def _end(self) -> None:
        self._stopped = True
        own, stop = self._own, self._stop
        if own is not None and stop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                own.call_soon_threadsafe(stop.set)


def _registry(deliver: Callable[[Resource, kopf.RawEvent], None]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(watching.login)

    @kopf.on.event(*watching.TASKS, registry=registry)
    async def task_event(event: kopf.RawEvent, **_: Any) -> None:
        deliver(watching.TASKS, event)

    @kopf.on.event(*watching.JOBS, registry=registry)
    async def job_event(event: kopf.RawEvent, **_: Any) -> None:
        deliver(watching.JOBS, event)

    return registry


def _set(future: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not future.done():
        future.set_result(error)
