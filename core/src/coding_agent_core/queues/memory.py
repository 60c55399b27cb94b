"""The queue in the memory of one process, which needs no other service.

Nothing survives the process. The next poll finds the lost tasks: waiting tasks by their labels, and started
tasks by our comments (`resume`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.queues.interfaces import Claim, LookRequest, Notice, item_of_notice
from coding_agent_core.queues.live_processes import Process
from coding_agent_core.runtime.retry import first_of
from coding_agent_core.task.admission import Cancel, Check, Create, Keep, LatestTask, admit, withdraw
from coding_agent_core.task.commands import LIMIT_PER_NAME, CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.task.model import (
    Item,
    Submission,
    TaskRequest,
    Withdrawal,
    WithdrawalCause,
    new_uuid,
    task_name,
)
from coding_agent_core.task.queued_task import QueuedTask

_logger = logging.getLogger("coding_agent.queue")

KEEP_ENDED = timedelta(days=7)
"""This is longer than the 3 days in which GitHub redelivers, so that no redelivery creates a new task."""


@dataclass(eq=False)
class Entry:
    """A task in the queue, or one that ended a short time ago.

    Attributes:
        after: the item's previous run, which must end before this one can be claimed.
        is_round: whether the task is a round, which no label asked for.
        handled: whether the worker that last claimed the task has asked for the next one, so it reports no
            more about this task. Until then the claim stays, even after a retry.
        delayed: whether a retry waits for its delay.
        ending: whether the end is being reported on the item. Admission then sees the task as ended.
        again: the newest label application that counted as this task's while the task was active.
    """

    task: QueuedTask
    labeled_at: datetime | None
    withdrawn_before: datetime | None = None
    again: TaskRequest | None = None
    after: Entry | None = None
    is_round: bool = False
    deliveries: deque[str] = field(default_factory=lambda: deque(maxlen=256))
    claim: MemoryClaim | None = None
    handled: bool = True
    delayed: bool = False
    cancel_requested: bool = False
    redelivered: bool = False
    ending: bool = False
    ended: bool = False

    def remember(self, delivery_id: str | None) -> None:
        if delivery_id is not None and delivery_id not in self.deliveries:
            self.deliveries.append(delivery_id)

    def latest(self) -> LatestTask:
        return LatestTask(
            name=self.task.name,
            run=self.task.run,
            terminal=self.ended or self.ending,
            cancel_requested=self.cancel_requested,
            # A task ends after its labels were swapped. No label asked for a round.
            labels_shown=self.ended or (self.is_round and (self.after is None or self.after.ended)),
            labeled_at=self.labeled_at,
            withdrawn_before=self.withdrawn_before,
            delivery_ids=frozenset(self.deliveries),
            is_round=self.is_round,
            trigger=self.task.request.trigger,
        )


@dataclass
class _Notices:
    """The notices about one forge's items, with at most one for each item, kind and author.

    Attributes:
        urgent: withdrawals and commands. They come before the signs.
        signs: notices that a task waits.
    """

    urgent: OrderedDict[tuple[str, str, str], Notice] = field(default_factory=OrderedDict)
    signs: OrderedDict[tuple[str, str, str], Notice] = field(default_factory=OrderedDict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryQueue:
    """The queue in memory: sink, source and source of notices in one object, for one event loop.

    Args:
        keep_ended: how long an ended task is remembered for admission.
        ended_limit: how many ended tasks are remembered at most; the oldest are dropped first.
        active_limit: how many tasks can wait or run; above this number, `submit` refuses.
        process: this process, which the comments name; `None` if nothing can be resumed after its end.
    """

    def __init__(
        self,
        *,
        process: Process | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        keep_ended: timedelta = KEEP_ENDED,
        ended_limit: int = 10_000,
        active_limit: int = 10_000,
    ) -> None:
        self.process = process
        self._clock = clock
        self._sleep = sleep
        self._keep_ended = keep_ended
        self._ended_limit = ended_limit
        self._active_limit = active_limit
        self._latest: dict[str, Entry] = {}
        self._active: list[Entry] = []
        # By item: scanning all waiting tasks for each webhook took longer than all other work.
        self._active_of: dict[str, list[Entry]] = {}
        self._ended: OrderedDict[str, datetime] = OrderedDict()
        self._iterators: set[asyncio.Event] = set()
        self._delays: set[asyncio.Task[None]] = set()
        self._notices: defaultdict[str, _Notices] = defaultdict(_Notices)
        self._locked: set[str] = set()
        self._draining = False
        self._closed = False

    async def submit(self, request: TaskRequest) -> Submission:
        if self._closed:
            raise QueueUnavailableError("The queue was closed; this program is ending.")
        self._forget()
        identity = request.item.identity
        latest = self._latest.get(identity)
        if latest is None:
            return self._accept(request, admit(request.trigger, None))
        decision = admit(request.trigger, latest.latest())
        if isinstance(decision, Create):
            return self._accept(request, decision)
        if decision.labeled_at is not None:
            latest.labeled_at, latest.again = decision.labeled_at, request
        latest.remember(request.trigger.delivery_id)
        return Submission(task=decision.task, duplicate=decision.why)

    def _accept(self, request: TaskRequest, decision: Create) -> Submission:
        if len(self._active) >= self._active_limit:
            raise QueueUnavailableError(
                f"The in-memory queue is full ({self._active_limit} tasks); use RabbitMQ or Kubernetes."
            )
        return Submission(task=self._create(request, decision.run).name)

    def _create(self, request: TaskRequest, run: int) -> QueuedTask:
        identity = request.item.identity
        before = self._latest.get(identity)
        entry = Entry(
            task=QueuedTask(request=request, uuid=new_uuid(), run=run),
            labeled_at=request.trigger.labeled_at,
            # This is not `_latest`, which may have been cancelled while an earlier run is still ending.
            after=next(reversed(self._active_of.get(identity, ())), None),
            is_round=request.trigger.round is not None,
        )
        if before is not None and entry.is_round:
            # Events of the label that arrive late must not start its task again.
            entry.labeled_at = before.latest().answered_until
            entry.deliveries.extend(before.deliveries)
        entry.remember(request.trigger.delivery_id)
        self._add(entry)
        self._notify((identity, "queued", ""), entry.task)
        return entry.task

    def knows(self, item: Item, uuid: str) -> bool:
        """Whether this process has this task, or another task of the item that has not ended."""
        entry = self._latest.get(item.identity)
        return item.identity in self._active_of or (entry is not None and entry.task.uuid == uuid)

    def resume(self, task: QueuedTask) -> bool:
        """Take over a started task from a process that has ended. Return `False` if the queue is full."""
        if self._closed or len(self._active) >= self._active_limit:
            return False
        if not self.knows(task.request.item, task.uuid):
            labeled_at = task.request.trigger.labeled_at
            is_round = task.request.trigger.round is not None
            self._add(Entry(task=task, labeled_at=labeled_at, redelivered=True, is_round=is_round))
        return True

    def _add(self, entry: Entry) -> None:
        identity = entry.task.request.item.identity
        self._latest[identity] = entry
        self._ended.pop(identity, None)
        self._active.append(entry)
        self._active_of.setdefault(identity, []).append(entry)
        self._wake()

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        latest = self._latest.get(withdrawal.item.identity)
        if latest is None:
            return withdraw(withdrawal, None)
        decision = withdraw(withdrawal, latest.latest())
        match decision:
            case Keep():
                latest.withdrawn_before = decision.withdrawn_before or latest.withdrawn_before
                return decision
            case Check(_, why):
                self._notify((withdrawal.item.identity, "withdrawn", ""), withdrawal)
                return Keep(f"{why}; the consumer cancels the task if the item shows no label")
            case Cancel():
                latest.cancel_requested = True
                latest.withdrawn_before = decision.withdrawn_before
                if latest.claim is not None:
                    latest.claim.withdrawn_before = decision.withdrawn_before
                    latest.claim.why_cancelled = withdrawal.message
                    latest.claim.cancel_cause = withdrawal.cause
                    # The worker ends the task, because it alone knows what it has pushed.
                    latest.claim.cancelled.set()
                else:
                    self.end(latest)
                    self._notify((withdrawal.item.identity, "withdrawn", ""), withdrawal)
                return decision

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        if self._closed:
            raise QueueUnavailableError("The queue was closed; this program is ending.")
        key = (command.item.identity, command.name, command.user.casefold())
        urgent = self._notices[command.item.host].urgent
        waiting = sum(stored[:2] == key[:2] for stored in urgent)
        stored = urgent.get(key)
        # Anybody can write a comment, and each author has an entry of their own.
        if stored is None and waiting >= LIMIT_PER_NAME:
            return CommandIgnored(f"{waiting} commands /{command.name} are already waiting")
        # Webhooks can arrive in another order than that of the comments.
        if isinstance(stored, IssueCommand) and command.time < stored.time:
            return CommandIgnored("a newer one by the same author is waiting")
        self._notify(key, command)
        return CommandStored("memory")

    async def look(self, items: Sequence[Item], author: str = "") -> str | None:
        """Store a notice that asks for a scan of the first of the items."""
        if self._closed:
            raise QueueUnavailableError("The queue was closed; this program is ending.")
        for item in items[:1]:
            self._notify((item.identity, "look", ""), LookRequest(item=item, author=author))
            return task_name(item)
        return None

    async def looks(self, host: str) -> bool:
        """Return `True`, because no other process shares this queue."""
        return True

    def _notify(self, key: tuple[str, str, str], notice: Notice) -> None:
        of_host = self._notices[item_of_notice(notice).host]
        (of_host.signs if isinstance(notice, QueuedTask) else of_host.urgent)[key] = notice
        of_host.arrived.set()

    async def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        of_host = self._notices[host]
        while not stop.is_set():
            waiting = of_host.urgent or of_host.signs
            if not waiting:
                of_host.arrived.clear()
                await first_of(of_host.arrived.wait(), stop.wait())
                continue
            yield waiting.popitem(last=False)[1]

    @asynccontextmanager
    async def item_lock(self, item: Item) -> AsyncIterator[bool]:
        """Hold the item's lock during the context. No task of the item can be claimed meanwhile."""
        identity = item.identity
        free = all(entry.claim is None for entry in self._active_of.get(identity, ()))
        if not free or identity in self._locked:
            yield False
            return
        self._locked.add(identity)
        try:
            yield True
        finally:
            self._locked.discard(identity)
            self._wake()

    def latest(self, item: Item) -> LatestTask | None:
        self._forget()
        entry = self._latest.get(item.identity)
        return entry.latest() if entry else None

    @property
    def tasks(self) -> MemoryQueue:
        """The executor of commands, which is this queue itself."""
        return self

    def latest_task(self, item: Item) -> QueuedTask | None:
        """Return the item's newest task, even if it has ended; `None` if the queue knows none."""
        entry = self._latest.get(item.identity)
        return entry.task if entry else None

    def is_wanted(self, item: Item) -> bool:
        """Whether the item has a task that has not ended and is not cancelled."""
        latest = self.latest(item)
        return latest is not None and not latest.terminal and not latest.cancel_requested

    def is_cancelled(self, item: Item) -> bool:
        """Whether the item's newest task was cancelled."""
        latest = self.latest(item)
        return latest is not None and latest.cancel_requested

    def waits(self, task: QueuedTask) -> bool:
        """Whether the task is the item's newest one and has neither ended nor been cancelled."""
        entry = self._latest.get(task.request.item.identity)
        known = entry is not None and entry.task.uuid == task.uuid
        return known and entry is not None and not entry.ended and not entry.cancel_requested

    async def connected(self) -> bool:
        return not self._closed and len(self._active) < self._active_limit

    def drain(self) -> None:
        """Make the iterators end as soon as no task waits or runs."""
        self._draining = True
        self._wake()

    async def claims(self, stop: asyncio.Event) -> AsyncGenerator[Claim, None]:
        wake = asyncio.Event()
        self._iterators.add(wake)
        try:
            while not stop.is_set() and not self._closed and not (self._draining and not self._active):
                wake.clear()
                entry = self._next()
                if entry is None:
                    await first_of(wake.wait(), stop.wait())
                    continue
                claim = entry.claim = MemoryClaim(entry.task, entry.redelivered, self, entry)
                entry.handled = False
                try:
                    try:
                        yield claim
                    finally:
                        self._handled(entry, claim)
                    await first_of(claim.settled.wait(), stop.wait())
                finally:
                    self._handled(entry, claim)
                    if entry.claim is claim:  # the claim did not end, so the task can be claimed again
                        claim.lost.set()
                        entry.claim = None
                        entry.redelivered = True
                        self._wake()
        finally:
            self._iterators.discard(wake)

    async def aclose(self) -> None:
        """End the iterators; waiting tasks are lost."""
        self._closed = True
        self._wake()
        for delay in list(self._delays):
            delay.cancel()
        await asyncio.gather(*self._delays, return_exceptions=True)

    def labeled(self, entry: Entry, at: datetime) -> None:
        """Record when the label that the entry's attempt works for was applied. The claim calls this."""
        if entry.labeled_at is None or at > entry.labeled_at:
            entry.labeled_at = at
        # If the label is newer than the withdrawal, the withdrawal no longer cancels the task.
        claim, before = entry.claim, entry.withdrawn_before
        if entry.cancel_requested and claim is not None and before is not None and at >= before:
            entry.cancel_requested, entry.withdrawn_before = False, None
            claim.withdrawn_before, claim.why_cancelled, claim.cancel_cause = None, "", None
            claim.cancelled.clear()

    def answered(self, entry: Entry, until: datetime) -> None:
        """Start the next run if a later label application counted as this task's. The claim calls this."""
        entry.withdrawn_before = before = until + timedelta(seconds=1)
        again, identity = entry.again, entry.task.request.item.identity
        if again is None or again.trigger.labeled_at is None or self._latest.get(identity) is not entry:
            return
        if again.trigger.labeled_at >= before:
            entry.ending = True
            self._create(again, entry.task.run + 1)

    def retry(self, entry: Entry, delay: float, attempt: int) -> None:
        """Let the task be claimed again after the delay, as this attempt. The claim calls this."""
        if self._closed:
            self.end(entry)
            return
        entry.task = entry.task.model_copy(update={"attempt": attempt})
        entry.redelivered = entry.ending = False
        entry.delayed = True

        async def wait() -> None:
            await self._sleep(delay)
            entry.delayed = False
            self._wake()

        waiting = asyncio.create_task(wait())
        self._delays.add(waiting)
        # asyncio keeps only weak references to tasks: without the set, this one could disappear.
        waiting.add_done_callback(self._delays.discard)

    def _handled(self, entry: Entry, claim: MemoryClaim) -> None:
        """Record that the worker has reported everything, so that a retry may start."""
        entry.handled = True
        if entry.claim is claim and claim.settled.is_set():
            entry.claim = None
            # A worker that did not know of the cancellation may have announced another attempt on the item.
            # The notice corrects this.
            if entry.cancel_requested:
                self.end(entry)
                item = entry.task.request.item
                cause = claim.cancel_cause or WithdrawalCause.UNLABELED
                why = claim.why_cancelled
                withdrawal = Withdrawal(item=item, reason="cancelled", message=why, cause=cause)
                self._notify((item.identity, "withdrawn", ""), withdrawal)
        self._wake()

    def _next(self) -> Entry | None:
        for entry in self._active:
            waits = entry.claim is None and entry.handled and not entry.delayed
            # The next run of an item starts after the one before it, or both would push to one branch.
            is_first = entry.after is None or entry.after.ended
            if waits and is_first and entry.task.request.item.identity not in self._locked:
                entry.after = None
                return entry
        return None

    def end(self, entry: Entry) -> None:
        """Record that the task has ended. The claim calls this."""
        entry.ended = True
        entry.claim = None
        identity = entry.task.request.item.identity
        with suppress(ValueError):
            self._active.remove(entry)
            of_item = self._active_of[identity]
            of_item.remove(entry)
            if not of_item:
                del self._active_of[identity]
        if self._latest.get(identity) is entry:
            self._ended[identity] = self._clock()
        self._forget()
        self._wake()

    def _forget(self) -> None:
        oldest = self._clock() - self._keep_ended
        while self._ended:
            identity, ended_at = next(iter(self._ended.items()))
            if ended_at > oldest and len(self._ended) <= self._ended_limit:
                return
            del self._ended[identity]
            del self._latest[identity]

    def _wake(self) -> None:
        for event in self._iterators:
            event.set()


@dataclass(eq=False)
class MemoryClaim:
    """The claim of a task in memory. Ending it a second time, or after the task was lost, has no effect."""

    task: QueuedTask
    redelivered: bool
    queue: MemoryQueue
    entry: Entry
    exclusive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.cancelled, self.lost, self.settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.why_cancelled = ""
        self.cancel_cause: WithdrawalCause | None = None
        self.withdrawn_before: datetime | None = None

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        """Hold the item's lock, which the claim has already: only one task of an item can be claimed."""
        yield not self.lost.is_set()

    async def holds_item(self) -> bool:
        return not self.lost.is_set()

    def ending(self) -> None:
        """Make a label that is applied from now on start the next run, which waits until this one ends."""
        self.entry.ending = True

    def labeled(self, at: datetime) -> None:
        self.queue.labeled(self.entry, at)

    def answered(self, until: datetime | None) -> None:
        if until is not None:
            self.queue.answered(self.entry, until)

    async def done(self) -> None:
        if self._open():
            self.queue.end(self.entry)

    async def retry(self, delay: float, attempt: int) -> float:
        """Start an attempt after the delay. If the task is cancelled before the worker is done, it ends."""
        if self._open():
            self.queue.retry(self.entry, delay, attempt)
        return delay

    async def dead_letter(self, reason: str) -> None:
        """Give up on the task. Only the log shows it afterwards, because memory has no dead-letter queue."""
        if self._open():
            _logger.error("Gave up on task %s, attempt %d: %s", self.task.name, self.task.attempt, reason)
            self.queue.end(self.entry)

    def _open(self) -> bool:
        if self.settled.is_set() or self.lost.is_set():
            return False
        self.settled.set()
        return True
