"""The looks at the tasks of one forge: a few at a time, one at a time while it does not answer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, QueueUnavailableError
from coding_agent_core.forge.pacing import NotYetError
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.logs import bound
from coding_agent_core.settings.operator import Reporter

from coding_agent_operator.observed import Task
from coding_agent_operator.reporter import metrics, trouble
from coding_agent_operator.reporter.backlog import Backlog, Rank
from coding_agent_operator.reporter.errors import ChangedError, NotConfiguredError
from coding_agent_operator.reporter.memory import Absence, Memory
from coding_agent_operator.reporter.mirror import Again
from coding_agent_operator.reporter.trouble import Trouble

_logger = logging.getLogger("reporter.lane")

_LOOKS_AT_A_TIME_TOLD = 20
_FIRST_API_RETRY_S, _LAST_API_RETRY_S = 0.5, 30.0

Look = Callable[[Task, Memory, Rank], Awaitable[Again | None]]


@dataclass
class Away(Absence):
    """A forge that does not answer anybody.

    Attributes:
        failures: in a row.
        until: monotonic time before which nothing is asked of it.
        answers: how many of our requests it had answered at its last failure; one more, and it is back.
    """

    failures: int = 0
    until: float = 0.0
    answers: int = 0


class Lane:
    """The tasks of one forge host.

    Attributes:
        away: `None` while the forge answers, as far as it was asked.
    """

    def __init__(
        self,
        host: str,
        look: Look,
        *,
        task: Callable[[str], Task | None],
        tasks: AgentTasks,
        settings: Reporter,
        clock: Callable[[], datetime],
        answers: Callable[[], int],
    ) -> None:
        self.host = host
        self.away: Away | None = None
        self.backlog = Backlog()
        self._look = look
        self._task = task
        self._tasks = tasks
        self._settings = settings
        self._clock = clock
        self._answers = answers
        self._memories: dict[str, Memory] = {}
        self._wake = asyncio.Event()
        self._probe: str | None = None
        self._turn = 0.0

    def __len__(self) -> int:
        return len(self._memories)

    def add(self, task: Task, rank: Rank, delay: float = 0.0) -> None:
        """Look at a task."""
        self._memories.setdefault(task.uid, Memory())
        self.backlog.add(task.name, rank, _now(), item=task.item, delay=delay)
        self._wake.set()

    def forget(self, name: str, uid: str) -> None:
        """A task is gone, or shown for good."""
        self._memories.pop(uid, None)
        self.backlog.forget(name)
        if not self._memories:
            self.away = None  # nobody is left for whom it is asked, so nothing is known of it

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.workers):
                group.create_task(self._work())

    async def tell_of_absence(self) -> None:
        """Tell on the tasks that wait that the forge does not answer, once it has not for a while.

        Raises:
            ApiError: the API server did not take it.
        """
        untold = 0
        for name, _ in self.backlog.pending(_now()):
            task = self._task(name)
            memory = self._memories.get(task.uid) if task is not None else None
            if task is None or memory is None or memory.told:
                continue
            absences = [each for each in (self.away, memory.absence) if each is not None]
            absence = min(absences, key=lambda each: each.began, default=None)
            if absence is None or _now() - absence.began < self._settings.tell_after:
                continue
            message = (
                f"{self.host} has not answered since {absence.since:%Y-%m-%d %H:%M:%S} UTC: {absence.why}"
            )
            absent = Trouble("ForgeUnavailable", message)
            await trouble.tell(self._tasks, task, memory, absent, self._clock())
            untold += 1
            if untold == _LOOKS_AT_A_TIME_TOLD:
                return

    def measure(self) -> None:
        """Set the gauges."""
        pending = self.backlog.pending(_now())
        metrics.PENDING.labels(self.host).set(len(pending))
        metrics.OLDEST.labels(self.host).set(max((age for _, age in pending), default=0.0))
        metrics.AWAY.labels(self.host).set(_now() - self.away.began if self.away else 0.0)

    async def _work(self) -> None:
        while True:
            name, rank = await self._take()
            try:
                with bound(task=name):
                    await self._one(name, rank)
            finally:
                if self._probe == name:
                    self._probe = None
                self._notice()
                self.backlog.done(name)
                self._wake.set()

    async def _take(self) -> tuple[str, Rank]:
        while True:
            wait: float | None = None
            if self.away is None or self._probe is None:
                now = _now()
                wait = max(self._turn, self.away.until if self.away else 0.0) - now
                if wait <= 0:
                    taken = self.backlog.take(now)
                    if taken is not None:
                        if self.away is not None:
                            self._probe = taken[0]
                        return taken
                    wait = self.backlog.next_due(now)
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _one(self, name: str, rank: Rank) -> None:
        task = self._task(name)
        if task is None:
            return
        memory = self._memories.setdefault(task.uid, Memory())
        try:
            again = await self._look(task, memory, rank)
        except NotYetError as error:
            self._wait_for_turn(name, error)
        except ForgeUnavailableError as error:
            self._is_away(error, probe=self._probe == name)
            memory.absence = memory.absence or Absence(self._clock(), _now())
            memory.absence.why = str(error)
            self._later(name, memory, self._backoff(memory.failures))
        except (ForgeError, NotConfiguredError) as error:
            memory.absence = None
            await self._refused(task, memory, error)
        except ChangedError as error:
            _logger.info("%s; looking again", error)
            self.add(task, rank)
        except (ApiError, QueueUnavailableError) as error:
            _logger.warning("%s; looking again", error)
            retry = min(_LAST_API_RETRY_S, _FIRST_API_RETRY_S * 2.0 ** min(memory.failures, 10))
            self._later(name, memory, max(retry, getattr(error, "retry_after", None) or 0.0))
        except Exception:
            _logger.exception("A look failed; looking again")
            self._later(name, memory, self._settings.retry_max)
        else:
            memory.failures, memory.absence = 0, None
            if again is None:
                self.forget(task.name, task.uid)
            else:
                self.add(task, again.rank, again.delay)

    def _wait_for_turn(self, name: str, error: NotYetError) -> None:
        """Our own limits hold us back, which is no failure of anybody's: go on when they permit it."""
        now, wait = _now(), error.retry_after or 0.0
        _logger.info("%s", error)
        self._turn = max(self._turn, now + wait)
        self.backlog.again(name, now, delay=0.0)

    def _is_away(self, error: ForgeUnavailableError, *, probe: bool) -> None:
        now, wait = _now(), error.retry_after or 0.0
        first = self.away is None
        away = self.away = self.away or Away(self._clock(), now)
        if first or probe:  # looks that had begun before it was noticed say nothing more
            wait = max(wait, self._backoff(away.failures))
            away.failures += 1
        away.until = max(away.until, now + wait)
        away.why = str(error)
        away.answers = self._answers()
        _logger.warning("%s; nothing is asked of it for %.1f s", error, away.until - now)

    def _notice(self) -> None:
        """Whether a forge that was away has answered since. A look that asked it nothing proves nothing."""
        if self.away is not None and self._answers() > self.away.answers:
            _logger.info("%s answers again, after %.1f s", self.host, _now() - self.away.began)
            self.away = None

    async def _refused(self, task: Task, memory: Memory, error: Exception) -> None:
        reason = "ForgeRefused" if isinstance(error, ForgeError) else "ForgeNotConfigured"
        try:
            await trouble.tell(self._tasks, task, memory, Trouble(reason, str(error)), self._clock())
        except ApiError as second:
            _logger.warning("%s", second)
        self._later(task.name, memory, self._settings.retry_max)

    def _later(self, name: str, memory: Memory, delay: float) -> None:
        metrics.FAILED.labels(self.host).inc()
        memory.failures += 1
        self.backlog.again(name, _now(), delay=delay)

    def _backoff(self, failures: int) -> float:
        settings = self._settings
        wait = min(settings.retry_max, settings.retry_first * 2.0 ** min(failures, 10))
        return wait * random.uniform(0.5, 1.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
