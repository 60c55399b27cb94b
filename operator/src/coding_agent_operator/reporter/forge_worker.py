"""Reconciles the tasks of one forge: several at a time, but only one while the forge does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeError,
    ForgeUnavailableError,
    NotYetError,
    QueueUnavailableError,
    RequestKind,
)
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS, Counter
from coding_agent_core.runtime.retry import backoff
from coding_agent_core.runtime.telemetry import bound
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.operator import Reporter
from coding_agent_core.task.agenttask import AgentTask, Event
from coding_agent_core.task.commands import LABEL_COMMANDS, PENDING
from coding_agent_core.task.runs import stored_rescan
from coding_agent_core.task.task_store import TaskStore

from coding_agent_operator.cluster.controller import Requeue
from coding_agent_operator.reporter.item_plan import phase_to_show
from coding_agent_operator.reporter.reconcile_item import (
    NotConfiguredError,
    TaskChangedError,
    record_problem,
)
from coding_agent_operator.reporter.report import Outage, TaskMemory

_logger = logging.getLogger("reporter.forge_worker")

FAILED = Counter(
    "coding_agent_reporter_failures", "Failed reconciles of a task, which are retried, by host.", ["host"]
)
_WORKERS = 4
"""Items of one forge that are updated at the same time. More would only wait for the rate limits."""
_PROBLEMS_AT_A_TIME = 20
_SHARE_OF_CHECKS = 0.25
"""The share of the request rate that checks of items without news may use."""
_API_RETRY_FIRST_S, _API_RETRY_MAX_S = 0.5, 30.0
_REFUSED_MAX_S = 3600.0
"""Longest delay between two tries of what the forge refuses."""

ReconcileTask = Callable[[AgentTask, TaskMemory], Awaitable[Requeue | None]]


class Rank(IntEnum):
    """The order of reconciles: the lowest rank comes first."""

    WITHDRAWAL = 0
    """An event or a command may have withdrawn the task, and until this is decided the task may go on."""
    END = 1
    """The task has ended, and people wait for the result."""
    NEW = 2
    """The item shows nothing of the task yet, and somebody waits for a sign."""
    CHANGE = 3
    """The task has changed."""
    CHECK = 4
    """The task has not changed: check the item's labels, or show the task's new position in the queue."""


def rank_of(task: AgentTask) -> Rank:
    """Return the rank of a task that has changed."""
    if task.ended:
        return Rank.END
    commanded = task.metadata.labels.get(LABEL_COMMANDS) == PENDING
    rescan = stored_rescan(task)
    return Rank.WITHDRAWAL if commanded or (rescan is not None and rescan.labels) else Rank.CHANGE


@dataclass(frozen=True)
class BacklogEntry:
    """A task in the backlog.

    Attributes:
        due: monotonic time before which the task is not reconciled.
        since: monotonic time since which the task has waited.
        creates: only a new comment is left to do, which forges limit more than other requests.
    """

    rank: Rank
    due: float
    since: float
    item: str
    creates: bool = False


class Backlog:
    """The tasks to reconcile, by rank and then by age. The callers pass the time.

    Each task is queued at most once. Runs of the same item write the same comment, so `take` never returns
    one while another is being reconciled.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, BacklogEntry] = {}
        self._busy: dict[str, BacklogEntry] = {}
        self.creates_from = 0.0
        """Monotonic time before which no entry with `creates` is taken."""

    def add(
        self, name: str, rank: Rank, now: float, *, item: str, delay: float = 0.0, creates: bool = False
    ) -> None:
        """Queue a task to be reconciled after `delay`. The earliest time wins, then the best rank."""
        due = now + max(0.0, delay)
        known = self._waiting.get(name)
        if known is None:
            self._waiting[name] = BacklogEntry(rank, due, due, item, creates)
        elif due < known.due:
            # The earlier reconcile also does what was due later.
            best = rank if known.due > now else min(rank, known.rank)
            self._waiting[name] = BacklogEntry(best, due, min(due, known.since), item, creates)
        elif due <= now or due == known.due:
            self._waiting[name] = replace(known, rank=min(rank, known.rank), creates=creates)

    def take(self, now: float) -> tuple[str, Rank] | None:
        """Take the next task that is due, if there is one. The caller calls `done` after the reconcile."""
        due = [(entry.rank, entry.since, name) for name, entry in self._free() if self._due(entry) <= now]
        if not due:
            return None
        rank, _, name = min(due)
        self._busy[name] = self._waiting.pop(name)
        return name, rank

    def retry(self, name: str, now: float, *, delay: float) -> None:
        """Queue again a task whose reconcile failed; it keeps its age."""
        known = self._busy[name]
        self.add(name, known.rank, now, item=known.item, delay=delay)
        self._waiting[name] = replace(self._waiting[name], since=known.since)

    def postpone(self, name: str, now: float, *, until: float) -> None:
        """Queue again a task that lacks only its new comment. No comment may be created before `until`."""
        self.creates_from = max(self.creates_from, until)
        self.retry(name, now, delay=0.0)
        self._waiting[name] = replace(self._waiting[name], creates=True)

    def done(self, name: str) -> None:
        self._busy.pop(name, None)

    def forget(self, name: str) -> None:
        self._waiting.pop(name, None)

    def next_due(self, now: float) -> float | None:
        """Return the seconds until a task is due, or `None` if none is queued."""
        soonest = min((self._due(entry) for _, entry in self._free()), default=None)
        return None if soonest is None else max(0.0, soonest - now)

    def _due(self, entry: BacklogEntry) -> float:
        return max(entry.due, self.creates_from) if entry.creates else entry.due

    def _free(self) -> list[tuple[str, BacklogEntry]]:
        busy_items = {entry.item for entry in self._busy.values()}
        return [(name, entry) for name, entry in self._waiting.items() if entry.item not in busy_items]

    def pending(self, now: float) -> list[tuple[str, float]]:
        """Return the tasks with changes that are not shown yet, and how many seconds each has waited."""
        return [
            (name, max(0.0, now - entry.since))
            for name, entry in (self._busy | self._waiting).items()
            if entry.rank is not Rank.CHECK
        ]


@dataclass
class OpenBreaker(Outage):
    """An outage in which one reconcile at a time tests the forge, with growing waits.

    Attributes:
        failures: the number of failures that made the wait grow.
        retry_at: monotonic time before which no reconcile starts.
        answers: the number of the forge's answers at its last failure; one more closes the breaker.
    """

    failures: int = 0
    retry_at: float = 0.0
    answers: int = 0


class ForgeWorker:
    """Reconciles the tasks of one forge host.

    Args:
        task: returns the cached task with the given name.
        answers: returns the number of requests that the forge has answered so far.

    Attributes:
        breaker: `None` while the forge answers, as far as the worker knows.
    """

    def __init__(
        self,
        host: str,
        reconcile: ReconcileTask,
        *,
        task: Callable[[str], AgentTask | None],
        tasks: TaskStore,
        settings: Reporter,
        clocks: Development,
        clock: Callable[[], datetime],
        answers: Callable[[], int],
    ) -> None:
        self.host = host
        self.breaker: OpenBreaker | None = None
        self.backlog = Backlog()
        self._reconcile = reconcile
        self._task = task
        self._tasks = tasks
        self._settings = settings
        self._clocks = clocks
        self._clock = clock
        self._answers = answers
        self._memories: dict[str, TaskMemory] = {}
        self._wake = asyncio.Event()
        self._probe: str | None = None
        self._rate_limited_until = 0.0

    def add(self, task: AgentTask, rank: Rank, delay: float = 0.0) -> None:
        memory = self._memory(task)
        if rank is Rank.CHANGE and memory.comment is None:
            rank = Rank.NEW
        creates = memory.postponed is not None and memory.postponed is phase_to_show(task)
        self.backlog.add(task.name, rank, _now(), item=task.item_hash, delay=delay, creates=creates)
        self._wake.set()

    def forget(self, name: str) -> None:
        """Remove a task from the backlog because it is gone or needs no further reconcile."""
        self._memories.pop(name, None)
        self.backlog.forget(name)
        if not self._memories:
            self.breaker = None  # without tasks, nothing would test the forge and close it

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(forever("reports", self._work))

    async def record_outage(self) -> None:
        """Record an outage on the tasks that wait for the forge, once it has lasted for a while.

        Raises:
            ApiError: the API server refused.
        """
        recorded = 0
        for name, _ in self.backlog.pending(_now()):
            task = self._task(name)
            memory = self._memories.get(name)
            if task is None or memory is None or memory.uid != task.uid or memory.problem:
                continue
            outages = [outage for outage in (self.breaker, memory.outage) if outage is not None]
            outage = min(outages, key=lambda outage: outage.began, default=None)
            if outage is None or _now() - outage.began < self._clocks.outage_shown_after:
                continue
            message = (
                f"{self.host} has not answered since {outage.since:%Y-%m-%d %H:%M:%S} UTC: {outage.error}"
            )
            problem = Event("Warning", "ForgeUnavailable", message)
            await record_problem(self._tasks, task, memory, problem, self._clock())
            recorded += 1
            if recorded == _PROBLEMS_AT_A_TIME:
                return

    async def _work(self) -> float:
        name, rank = await self._take()
        try:
            with bound(task=name):
                await self._process(name, rank)
        finally:
            if self._probe == name:
                self._probe = None
            self._close_breaker_if_answered()
            self.backlog.done(name)
            self._wake.set()
        return 0.0

    async def _take(self) -> tuple[str, Rank]:
        while True:
            wait: float | None = None
            if self.breaker is None or self._probe is None:
                now = _now()
                wait = max(self._rate_limited_until, self.breaker.retry_at if self.breaker else 0.0) - now
                if wait <= 0:
                    # While the breaker is open, one reconcile at a time tests the forge.
                    taken = self.backlog.take(now)
                    if taken is not None:
                        if self.breaker is not None:
                            self._probe = taken[0]
                        return taken
                    wait = self.backlog.next_due(now)
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _process(self, name: str, rank: Rank) -> None:
        task = self._task(name)
        if task is None:
            return
        memory = self._memory(task)
        try:
            requeue = await self._reconcile(task, memory)
        except NotYetError as error:
            # Reaching our own rate limits is not a failure: continue when they permit it.
            _logger.info("%s", error)
            now = _now()
            if error.kind is RequestKind.CREATE:
                # Labels, edits and checks of other tasks continue.
                memory.postponed = phase_to_show(task)
                self.backlog.postpone(name, now, until=now + (error.retry_after or 0.0))
                return
            self._rate_limited_until = max(self._rate_limited_until, now + (error.retry_after or 0.0))
            self.backlog.retry(name, now, delay=0.0)
        except ForgeUnavailableError as error:
            self._open_breaker(error, probe=self._probe == name)
            memory.outage = memory.outage or Outage(self._clock(), _now())
            memory.outage.error = str(error)
            self._retry(name, memory, self._backoff(memory.failures))
        except (ForgeError, NotConfiguredError) as error:
            memory.outage = None
            reason = "ForgeRefused" if isinstance(error, ForgeError) else "ForgeNotConfigured"
            problem = Event("Warning", reason, str(error))
            try:
                await record_problem(self._tasks, task, memory, problem, self._clock())
            except ApiError as second:
                _logger.warning("%s", second)
            self._retry(name, memory, self._refused_wait(error, memory))
            memory.refusals += 1
        except TaskChangedError as error:
            _logger.info("%s; requeued", error)
            self.add(task, rank)
        except (ApiError, QueueUnavailableError) as error:
            _logger.warning("%s; requeued", error)
            delay = backoff(memory.failures + 1, _API_RETRY_FIRST_S, _API_RETRY_MAX_S)
            self._retry(name, memory, max(delay, getattr(error, "retry_after", None) or 0.0))
        except Exception:
            BACKGROUND_ERRORS.labels("reports").inc()
            _logger.exception("A reconcile failed; requeued")
            self._retry(name, memory, self._clocks.forge_retry_max)
        else:
            memory.failures, memory.refusals = 0, 0
            memory.outage = memory.postponed = None
            self._requeue(task, memory, requeue)

    def _requeue(self, task: AgentTask, memory: TaskMemory, requeue: Requeue | None) -> None:
        """Queue the next check after a reconcile that succeeded, or drop the task."""
        found = self._task(task.name)
        if found is not None and found.uid != task.uid:
            return  # another task has this name now; it was queued when the watch showed it
        if requeue is None or found is None:
            self.forget(task.name)
        else:
            after = self._check_interval() if requeue.after is None else requeue.after
            memory.due = _now() + after
            self.add(task, Rank.CHECK, after)

    def _check_interval(self) -> float:
        """Return the seconds between two checks of an item without news; more if there are many items."""
        checks_per_second = self._settings.requests_per_second * _SHARE_OF_CHECKS
        return max(self._clocks.check_interval, len(self._memories) / checks_per_second)

    def _memory(self, task: AgentTask) -> TaskMemory:
        memory = self._memories.get(task.name)
        if memory is None or memory.uid != task.uid:
            memory = self._memories[task.name] = TaskMemory(task.uid)
        return memory

    def _open_breaker(self, error: ForgeUnavailableError, *, probe: bool) -> None:
        now, wait = _now(), error.retry_after or 0.0
        first = self.breaker is None
        breaker = self.breaker = self.breaker or OpenBreaker(self._clock(), now)
        if first or probe:  # failures of reconciles that started before the breaker opened are no news
            wait = max(wait, self._backoff(breaker.failures))
            breaker.failures += 1
        breaker.retry_at = max(breaker.retry_at, now + wait)
        breaker.error = str(error)
        breaker.answers = self._answers()
        _logger.warning("%s; no request is sent to it for %.1f s", error, breaker.retry_at - now)

    def _close_breaker_if_answered(self) -> None:
        """Close the breaker if the forge has answered; a reconcile may have sent no request at all."""
        if self.breaker is not None and self._answers() > self.breaker.answers:
            _logger.info("%s answers again, after %.1f s", self.host, _now() - self.breaker.began)
            self.breaker = None

    def _retry(self, name: str, memory: TaskMemory, delay: float) -> None:
        FAILED.labels(self.host).inc()
        memory.failures += 1
        self.backlog.retry(name, _now(), delay=delay)

    def _refused_wait(self, error: CodingAgentError, memory: TaskMemory) -> float:
        """Return the seconds until the next try of a request that the forge refuses.

        Only a person can help, e.g. by granting a right. A change of the task also triggers a try. The
        wait for a refused token (401) does not grow, because somebody may set a new one soon.
        """
        most = self._clocks.forge_retry_max
        if isinstance(error, ForgeError) and error.status == 401:
            return most
        return backoff(memory.refusals + 1, most, max(most, _REFUSED_MAX_S))

    def _backoff(self, failures: int) -> float:
        return backoff(failures + 1, self._clocks.forge_retry, self._clocks.forge_retry_max)


def _now() -> float:
    return asyncio.get_running_loop().time()
