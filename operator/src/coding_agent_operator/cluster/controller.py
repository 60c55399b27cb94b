"""The parts of a level-based controller that operator and reporter share. They do not depend on kopf.

    watch events ──> ObjectCache ──> WorkQueue ──> Controller: reconcile(key), with backoff
    lists ───────────────┘ (a consistent list at every interval: `Relist` in the operator)

A `NamespacedName` identifies an object, so that one controller can serve several namespaces.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import backoff
from coding_agent_core.runtime.telemetry import bound
from coding_agent_core.task.objects import Stored

_logger = logging.getLogger("controller")
_T = TypeVar("_T", bound=Stored)

_NEVER = 2**63
_GONE = 4096
"""The cache remembers this many deleted objects, so that a late answer does not add one again."""
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.5, 60.0
_QUICK_CONFLICTS = 5
"""A conflict is retried at once if there were fewer failures in a row."""


class NamespacedName(NamedTuple):
    """The name of an object of one resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(stored: Stored) -> NamespacedName:
    return NamespacedName(stored.namespace, stored.name)


def _as_it_is(stored: _T) -> _T:
    return stored


class ObjectCache(Generic[_T]):
    """The newest known version of the selected objects of one resource, in memory.

    Watch events, lists and answers to our own requests can arrive in any order, but a version never replaces
    a newer one (resourceVersions of one resource are ordered,
    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
    """

    def __init__(self, compact: Callable[[_T], _T] = _as_it_is) -> None:
        """Create an empty cache.

        Args:
            compact: returns the form of an object that the cache keeps. If it raises a `CodingAgentError`,
                the error is logged and the object is left out.
        """
        self._compact = compact
        self._objects: dict[str, dict[str, _T]] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._watched: dict[str, int] = {}
        self._unwatched: dict[str, dict[str, int]] = {}
        """The versions in a namespace's last list that no watch had shown by then, by namespace and uid."""

    def __len__(self) -> int:
        return sum(len(objects) for objects in self._objects.values())

    def get(self, key: tuple[str, str]) -> _T | None:
        return self._objects.get(key[0], {}).get(key[1])

    def of(self, namespace: str) -> list[_T]:
        return list(self._objects.get(namespace, {}).values())

    def observe(self, kind: str | None, stored: _T) -> bool:
        """Process a watch event; return whether it is new. `kind` is its type, `None` in the initial list."""
        if kind == "DELETED":
            return self.remove(stored)
        self._watched[stored.uid] = int(stored.version)
        return self.put(stored)

    def put(self, stored: _T) -> bool:
        """Store the object of an API response; return whether its kept form was new."""
        cached = self._objects.get(stored.namespace, {}).get(stored.name)
        version = int(stored.version)
        # Answers to our requests and watch events overtake each other; the newest version of an object
        # counts.
        if version <= self._gone.get(stored.uid, -1) or (
            cached is not None and version <= int(cached.version)
        ):
            return False
        try:
            compact = self._compact(stored)
        except CodingAgentError as error:
            _logger.warning("%s", error)
            return False
        self._objects.setdefault(stored.namespace, {})[stored.name] = compact
        return cached is None or cached.uid != stored.uid or cached != compact

    def remove(self, stored: _T) -> bool:
        """Remove the object of an event or response that shows it deleted or no longer selected."""
        return self.forget(key_of(stored), stored.uid, int(stored.version))

    def forget(self, key: tuple[str, str], uid: str, version: int | None = None) -> bool:
        """Remove an object that is gone, and ignore its older versions.

        Args:
            version: the version with which it was gone; `None` to ignore all of its versions.

        Returns:
            Whether the object was in the cache.
        """
        self._watched.pop(uid, None)
        self._gone[uid] = max(self._gone.get(uid, -1), _NEVER if version is None else version)
        # Late events come within seconds, so not all deleted objects have to be remembered.
        while len(self._gone) > _GONE:
            self._gone.popitem(last=False)
        objects = self._objects.get(key[0], {})
        known = objects.get(key[1])
        if known is None or known.uid != uid or int(known.version) > self._gone.get(uid, _NEVER):
            return False
        del objects[key[1]]
        if not objects:
            del self._objects[key[0]]
        return True

    def replace(self, namespace: str, listed: Iterable[_T], version: int) -> set[NamespacedName]:
        """Replace the objects of a namespace by a consistent list: others are removed unless they are newer.

        Returns:
            The keys that changed.
        """
        changed: set[NamespacedName] = set()
        versions: dict[str, int] = {}
        for stored in listed:
            versions[stored.uid] = int(stored.version)
            if self.put(stored):
                changed.add(key_of(stored))
        objects = self._objects.get(namespace, {})
        for name, known in list(objects.items()):
            # An object that is newer than the list was created after it.
            if known.uid not in versions and int(known.version) <= version:
                del objects[name]
                self._watched.pop(known.uid, None)
                changed.add(NamespacedName(namespace, name))
        if not objects:
            self._objects.pop(namespace, None)
        self._unwatched[namespace] = {
            uid: listed_version
            for uid, listed_version in versions.items()
            if self._watched.get(uid, -1) < listed_version
        }
        return changed

    def behind(self, namespace: str) -> int:
        """Return how many existing objects have a version in the last list that no watch has shown yet."""
        present = {known.uid for known in self._objects.get(namespace, {}).values()}
        return sum(
            1
            for uid, version in self._unwatched.get(namespace, {}).items()
            if uid in present and self._watched.get(uid, -1) < version
        )


class WorkQueue:
    """The keys to reconcile. Each is queued at most once, and never with two workers at a time.

    Urgent keys come first; others can be delayed (by the loop's monotonic clock).
    """

    def __init__(self) -> None:
        self._ready: deque[NamespacedName] = deque()
        self._waiting: set[NamespacedName] = set()
        self._busy: set[NamespacedName] = set()
        self._again: set[NamespacedName] = set()
        self._later: list[tuple[float, NamespacedName]] = []
        self._due: dict[NamespacedName, float] = {}
        self._wake = asyncio.Event()
        self._done = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: NamespacedName, *, urgent: bool = False) -> None:
        """Queue a key. If a worker has it, queue it again when the worker is done."""
        # Two workers with one task would write its status against each other.
        if key in self._busy:
            self._again.add(key)
            return
        if key in self._waiting:
            if urgent:
                self._ready.appendleft(key)  # `take` skips the older place
            return
        self._waiting.add(key)
        (self._ready.appendleft if urgent else self._ready.append)(key)
        self._wake.set()

    def add_later(self, key: NamespacedName, seconds: float) -> None:
        """Queue a key after a time. If there are several times, the earliest counts."""
        due = asyncio.get_running_loop().time() + max(0.0, seconds)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, key))
        self._wake.set()

    def forget(self, key: NamespacedName) -> None:
        self._due.pop(key, None)

    async def take(self) -> NamespacedName:
        """Wait for the next key and return it. The caller calls `done` with it afterwards."""
        while True:
            wait = self._promote()
            while self._ready:
                key = self._ready.popleft()
                if key in self._waiting:
                    self._waiting.discard(key)
                    self._busy.add(key)
                    if self._ready:
                        self._wake.set()
                    return key
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def done(self, key: NamespacedName) -> None:
        self._busy.discard(key)
        self._done.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def idle(self, namespace: str) -> None:
        """Wait until no worker has a key of the namespace."""
        while any(key.namespace == namespace for key in self._busy):
            self._done.clear()
            await self._done.wait()

    def _promote(self) -> float | None:
        """Queue the keys that are due; return the seconds until the next one is due."""
        now = asyncio.get_running_loop().time()
        while self._later:
            due, key = self._later[0]
            if self._due.get(key) != due:
                heapq.heappop(self._later)
            elif due <= now:
                heapq.heappop(self._later)
                del self._due[key]
                self.add(key)
            else:
                return due - now
        return None


@dataclass(frozen=True)
class Requeue:
    """When to reconcile again.

    Attributes:
        after: seconds until the next reconcile if nothing happens; `None` if it happens only after an event.
        recovered: whether an earlier failure is over. If not, the delay of retries continues to grow.
    """

    after: float | None = None
    recovered: bool = True


class Controller:
    """Runs workers that take keys from `queue` and reconcile them; failures are retried with backoff.

    Args:
        reconcile: moves one object toward its desired state. An exception is logged, and the key retried.
        on_error: called with every failure, before the retry is queued.

    Example:
        controller = Controller(reconcile, workers=8)  # async def reconcile(key): return Requeue(30)
        controller.queue.add(Key("coding-agent", "issue-7"))
        await controller.run()
    """

    def __init__(
        self,
        reconcile: Callable[[NamespacedName], Awaitable[Requeue]],
        *,
        workers: int,
        on_error: Callable[[NamespacedName, Exception], Awaitable[None]] | None = None,
    ) -> None:
        self.queue = WorkQueue()
        self._reconcile = reconcile
        self._workers = workers
        self._on_error = on_error
        self._failures: Counter[NamespacedName] = Counter()
        self._retry_at: dict[NamespacedName, float] = {}

    def retries_later(self, key: NamespacedName) -> bool:
        """Whether the last reconcile of the key failed and its retry is not due yet."""
        due = self._retry_at.get(key)
        return due is not None and due > asyncio.get_running_loop().time()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            try:
                with bound(namespace=key.namespace, task=key.name):
                    try:
                        requeue = await self._reconcile(key)
                    except Exception as error:
                        await self._failed(key, error)
                    else:
                        if requeue.recovered:
                            self._failures.pop(key, None)
                            self._retry_at.pop(key, None)
                        if requeue.after is not None:
                            self.queue.add_later(key, requeue.after)
            finally:
                self.queue.done(key)

    async def _failed(self, key: NamespacedName, error: Exception) -> None:
        self._failures[key] += 1
        delay = backoff(self._failures[key], _BACKOFF_FIRST_S, _BACKOFF_MAX_S)
        if not isinstance(error, ApiError):
            _logger.error("%s: %r; next try in %.1f s", key, error, delay, exc_info=error)
        elif error.conflict:
            # After a conflict, the newest object is at hand and a retry succeeds at once; only a fight has
            # to slow down.
            delay = 0.0 if self._failures[key] < _QUICK_CONFLICTS else delay
            _logger.info("%s has changed in the meantime; next try in %.1f s", key, delay)
        else:
            delay = max(delay, error.retry_after or 0.0)
            _logger.warning("%s: %s; next try in %.1f s", key, error, delay)
        self._retry_at[key] = asyncio.get_running_loop().time() + delay
        try:
            if self._on_error is not None:
                await self._on_error(key, error)
        except Exception:
            # A worker that ends would end all others with it, and nothing would be reconciled any more.
            BACKGROUND_ERRORS.labels("reconciles").inc()
            _logger.exception("%s: unexpected error while a failure was handled", key)
        finally:
            self.queue.add_later(key, delay)
