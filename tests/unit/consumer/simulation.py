"""A forge, a broker and consumers in this process, whose every request waits until the test lets it pass.

Time is the event loop's own and passes only while nothing else happens, so no test of this waits. The broker
does what RabbitMQ does with messages, item locks and connections (tests of the queue show that), and the
consumers are the product's: `consume` with `TaskHandler`, and `NoticeHandler`.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
from coding_agent_consumer.queue import task_handler
from coding_agent_consumer.queue.notices import NoticeHandler
from coding_agent_consumer.queue.task_handler import TaskHandler, consume
from coding_agent_core.errors import ForgeError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.values import Change, Comment, ItemDetails, ItemState, LabelEvent
from coding_agent_core.queues.interfaces import Notice
from coding_agent_core.queues.rabbitmq.messages import DeliveryTracker
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQNotices
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.runtime.retry import Clock, first_of
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.model import (
    Item,
    Origin,
    Phase,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import RoundCause
from coding_agent_core.task.round_report import trigger_of
from coding_agent_forges.rest.calls import Read

from tests.unit.consumer.making import ITEM, details

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
MAX_ATTEMPTS = 3
SETTINGS = Settings.model_validate({"consumer": {"max_attempts": MAX_ATTEMPTS}})
COMPLETED = Outcome(reason=Reason.COMPLETED, message="Done.")
UNAVAILABLE = Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is not available.")
STOPPED = Outcome(reason=Reason.CANCELLED, message="The attempt was stopped.")
SETTLE = 60.0
"""Seconds for which a claim waits for its connection, as in `Timing`."""
RELOCK_GRACE = 3.0
"""Seconds for which a message that was delivered before is left to its last holder, as in `Timing`."""
WORK = 40.0
"""Seconds of an attempt's work, longer than the time between two checks of the labels."""
_START = datetime(2026, 1, 2, tzinfo=UTC)
_QUIET = 25
"""Passes of the event loop after which every task waits for a request, or for time to pass."""


def url_of(branch: str) -> str:
    """The change of a branch."""
    return f"https://github.com/o/r/pull/{branch}"


class Answer(Enum):
    """How a request to the forge ends."""

    OK = "ok"
    REFUSED = "refused"
    DOWN = "down"
    LOST = "lost"
    """The forge did it, and its answer was lost."""


class _Skip(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everything waits, and nothing will happen"
        self.now += timeout
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that skips the time in which nothing happens."""

    def __init__(self) -> None:
        self._skip = _Skip()
        super().__init__(self._skip)

    def time(self) -> float:
        return self._skip.now


class Process:
    """A process of a consumer, with its connection to the broker: its requests wait for `pass_one`.

    Attributes:
        waiting: names of its requests that wait, with how each is let pass.
        free: its requests pass at once.
        outages: how often it lost its network.
        keeps_forge: while it has no connection to the broker, it reaches the forge.
        saw_labeled: whether the label was there, or its work went on, when it read the item's state last.
    """

    def __init__(self, world: World, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        self.world, self._main = world, main
        self.free = False
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self.waiting: deque[tuple[str, asyncio.Future[Answer]]] = deque()
        self.connected, self.stop = asyncio.Event(), asyncio.Event()
        self.connected.set()
        self.tracker = DeliveryTracker()
        self.claim: SimulatedClaim | None = None
        self.outages, self.saw_labeled, self.read_at = 0, False, self.world.now()
        self.keeps_forge = False
        self.task = self.world.loop.create_task(self._main(self))

    def kill(self) -> None:
        """It ends between two requests, whatever it does, and another one takes its place."""
        self.task.cancel()
        self.world.settle_down()
        self.world.broker.disconnect(self)
        self.start()

    def disconnect(self) -> None:
        """Its connection to the broker ends."""
        self.connected.clear()
        self.world.broker.disconnect(self)
        self.world.settle_down()

    def lose_network(self) -> None:
        """It reaches neither broker nor forge."""
        self.outages += 1
        self.keeps_forge = False
        self.disconnect()

    def lose_broker(self) -> None:
        """It reaches the forge, and does not know that the broker has given up its connection."""
        self.keeps_forge = True
        self.disconnect()

    async def to_broker(self, name: str) -> bool:
        """Send a request once there is a connection; `False` if there is none for too long."""
        await self.request(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                await self.connected.wait()
        return self.connected.is_set()

    async def to_forge(self, name: str) -> Answer:
        was_up, outages = self.connected.is_set() or self.keeps_forge, self.outages
        answer = await self.request(name)
        return answer if was_up and outages == self.outages else Answer.DOWN

    def set_free(self) -> None:
        """From now on its requests pass at once."""
        self.free = True
        while self.pass_one():
            pass

    async def request(self, name: str) -> Answer:
        if self.free:
            await asyncio.sleep(0.1)
            self.world.free_requests.append(name)
            return self.world.answer(name)
        passed: asyncio.Future[Answer] = self.world.loop.create_future()
        self.waiting.append((name, passed))
        return await passed

    @property
    def next_request(self) -> str | None:
        """The oldest of its requests that wait."""
        return next((name for name, passed in self.waiting if not passed.done()), None)

    def pass_one(self, answer: Answer = Answer.OK) -> str | None:
        """Let the oldest request that still waits pass, if there is one; its name."""
        while self.waiting:
            name, passed = self.waiting.popleft()
            if not passed.done():
                passed.set_result(answer)
                self.world.sleep(1)
                return name
        return None


@dataclass
class SimulatedForge:
    """One item, as one process sees it; all share the world's item."""

    item: SimulatedItem
    process: Process
    host = "github.com"

    async def _asked(self, name: str, done: Callable[[], Any]) -> Any:
        answer = await self.process.to_forge(name)
        if answer is Answer.REFUSED:
            raise ForgeRefusedError(f"{name}: no", status=403)
        if answer is Answer.DOWN:
            raise ForgeUnavailableError(f"{name}: 503")
        result = done()
        if answer is Answer.LOST:
            raise ForgeUnavailableError(f"{name}: no answer")
        return result

    async def locate(self, item: Item) -> Item:
        return item

    async def read(self, item: Item) -> Any:
        return await self._asked("read", self.item.details)

    async def read_state(self, _item: Item) -> Any:
        def shown() -> ItemState:
            self.process.read_at = self.process.world.now()
            self.process.saw_labeled = self.item.labeled or self.item.by_command
            return ItemState(frozenset(self.item.labels), self.item.open, self.item.changed_at)

        return await self._asked("read_state", shown)

    async def label_application(self, _item: Item) -> Any:
        return await self._asked("label_application", self.item.application)

    async def label_history(self, _item: Item, _since: datetime | None) -> Any:
        def history() -> Read[LabelEvent]:
            self.process.saw_labeled |= self.item.labeled  # applied since the state was read
            return Read(tuple(self.item.history))

        return await self._asked("label_history", history)

    async def whoami(self) -> str:
        return "bot"

    async def find_comment(self, _item: Item, _marker: str) -> Any:
        return await self._asked("find_comment", lambda: self.item.comment)

    async def upsert_comment(self, _item: Item, _marker: str, body: str) -> Any:
        return await self._asked("upsert_comment", lambda: self.item.write(body))

    async def add_label(self, _item: Item, label: str) -> None:
        await self._asked("add_label", lambda: self.item.change("bot", label, added=True))

    async def remove_label(self, _item: Item, label: str) -> Any:
        def remove() -> bool:
            applied = self.item.application()
            removed = self.item.change("bot", label, added=False)
            if removed and label == BOT and applied and applied.at >= self.process.read_at:
                self.item.taken_unread = True
            return removed

        return await self._asked("remove_label", remove)

    async def find_change(self, _item: Item, *, branch: str) -> Change | None:
        return Change(1, url_of(branch), created=False) if branch in self.item.changes else None


class SimulatedItem:
    """The item on the forge.

    Attributes:
        shown_last: what the comment showed last of each task.
        failed: the tasks of which it showed a failure; their message may have worked for a later label.
        history: when the labels of the flow came and went, the newest first.
        changes: the branches with an open change.
        by_command: our own account took the labels off last. An attempt that is just starting cannot tell
            that from its own swap of the labels, and runs.
        taken_unread: a consumer took a label off that was applied after it had read the item: labels can only
            be removed by their names. If the processing label is gone too, nobody works for that label.
        labeled: somebody applied the label, and nobody has taken the labels off since.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.changed_at = now()
        self.labels: set[str] = set()
        self.open, self.labeled, self.by_command, self.taken_unread = True, False, False, False
        self.comment: Comment | None = None
        self.history: list[LabelEvent] = []
        self.shown_last: dict[str, State] = {}
        self.failed = set[str]()
        self.changes: set[str] = set()

    @property
    def state(self) -> State | None:
        """The hidden line of the comment."""
        return read_state(self.comment.body) if self.comment else None

    def details(self) -> ItemDetails:
        return details(*self.labels, open=self.open, updated_at=self.changed_at)

    def application(self) -> LabelEvent | None:
        return next((event for event in self.history if event.added and event.label == BOT), None)

    def write(self, body: str) -> Comment:
        if self.comment is None or self.comment.body != body:
            created = self.comment.created_at if self.comment else self._now()
            self.comment = Comment("1", "bot", body, created, updated_at=self._now())
            self.changed_at = self._now()
            if self.state is not None:
                self.shown_last[self.state.uuid] = self.state
                if self.state.phase is Phase.FAILED:
                    self.failed.add(self.state.uuid)
        return self.comment

    def change(self, user: str, label: str, *, added: bool) -> bool:
        """Add or remove a label; whether that changed anything."""
        if (label in self.labels) is added:
            return False
        (self.labels.add if added else self.labels.remove)(label)
        if label in (BOT, PROCESSING):
            self.history.insert(0, LabelEvent(self._now(), user, label, added))
        self.changed_at = self._now()
        return True


@dataclass(eq=False)
class Message:
    """
    Attributes:
        due: when it may be delivered, in the loop's time.
        holder: the claim that holds it unacknowledged.
        last: the process that held it before.
    """

    task: QueuedTask
    due: float = 0.0
    redelivered: bool = False
    holder: SimulatedClaim | None = None
    last: Process | None = None


class SimulatedBroker:
    """The queue of tasks, the dead-letter queue, and the item's lock.

    Attributes:
        messages: not acknowledged yet; the first that is due and free is delivered next.
        dead: the tasks in the dead-letter queue.
        returned: the tasks whose consumer died or lost its connection.
        lock: the process whose connection holds the item's lock.
        changed: set when a message or the lock may be free.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.messages: list[Message] = []
        self.dead: list[QueuedTask] = []
        self.returned: set[str] = set()
        self.lock: Process | None = None
        self.changed = asyncio.Event()

    def publish(self, task: QueuedTask, delay: float = 0.0, *, redelivered: bool = False) -> None:
        self.messages.append(Message(task, self.loop.time() + delay, redelivered))
        self.changed.set()

    def disconnect(self, process: Process) -> None:
        """The connection is gone: what it held unacknowledged is delivered again, and its lock is free."""
        for message in [one for one in self.messages if one.holder and one.holder.process is process]:
            self.messages.remove(message)
            self.messages.insert(0, Message(message.task, redelivered=True, last=process))
            self.returned.add(message.task.uuid)
        if self.lock is process:
            self.lock = None
        self.changed.set()

    async def next(self) -> Message:
        while True:
            free = [message for message in self.messages if message.holder is None]
            for message in free:
                if message.due <= self.loop.time() + 0.001:  # timers are not exact
                    return message
            self.changed.clear()
            waits = [message.due - self.loop.time() for message in free]
            await first_of(self.changed.wait(), asyncio.sleep(min(waits, default=1e6)))


@dataclass(eq=False)
class SimulatedClaim:
    """As on RabbitMQ: a copy is published first, then the message is acknowledged."""

    message: Message
    process: Process
    is_locked = is_refused = False

    def __post_init__(self) -> None:
        self.task, self.redelivered = self.message.task, self.message.redelivered
        self.lost, self.settled = asyncio.Event(), asyncio.Event()
        self.message.holder = self

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        if self.redelivered:
            await asyncio.sleep(RELOCK_GRACE)
        async with self.process.world.item_lock(self.process) as held:
            self.is_locked, self.is_refused = held, not held
            try:
                yield held
            finally:
                self.is_locked = False

    async def holds_item(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                await self.process.connected.wait()
        return self.process.connected.is_set() and self.is_locked and not self.lost.is_set()

    async def done(self) -> None:
        await self._settle(None)

    async def retry(self, delay: float, attempt: int) -> float | None:
        again = attempt == self.task.attempt
        copy = self.task.model_copy(update={"attempt": attempt})
        redelivered = again and self.redelivered

        def publish() -> None:
            self.process.world.broker.publish(copy, delay, redelivered=redelivered)

        return delay if await self._settle(publish, comes_again=again) else None

    async def dead_letter(self, reason: str) -> None:
        await self._settle(lambda: self.process.world.broker.dead.append(self.task))

    async def _settle(self, publish: Callable[[], None] | None, *, comes_again: bool = False) -> bool:
        """Whether it is settled; `False`: the message is back in the queue."""
        process, broker = self.process, self.process.world.broker
        moved = publish is None or (await process.to_broker("publish") and not self.lost.is_set())
        if moved and publish is not None:
            publish()
        if moved and not (comes_again or self.is_refused):
            process.tracker.settle(self.task)
        await process.request("acknowledge")
        if self.message in broker.messages:  # else the connection was lost meanwhile
            broker.messages.remove(self.message)
            if not moved:
                broker.messages.insert(0, Message(self.task, redelivered=True))
                broker.changed.set()
        self.settled.set()
        return moved


class World:
    """Two consumers, one handler of notices, an item, a broker, and people.

    Attributes:
        outcomes: how the next attempts end; when there are none left: they succeed.
        works: the work of attempts begins before they end.
        attempts: message, run and number of each attempt whose work began.
        unlabeled: those that began although the label was gone when their consumer read the item last.
        working: the attempts that run.
        answer: how the forge answers processes whose requests pass at once.
        free_requests: names of those requests.
    """

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.item, self.broker = SimulatedItem(self.now), SimulatedBroker(self.loop)
        self.outcomes: list[Outcome] = []
        self.works = True
        self.attempts: list[tuple[str, int, int]] = []
        self.unlabeled: list[tuple[str, int, int]] = []
        self.working: list[SimulatedAttempt] = []
        self.answer: Callable[[str], Answer] = lambda _: Answer.OK
        self.free_requests: list[str] = []
        self._uuids = 0
        self._notices: deque[Notice] = deque()
        self._noticed = asyncio.Event()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(task_handler, "Attempt", self._attempt)
        self.clock = Clock(now=self.now, monotonic=self.loop.time, chance=lambda: 0.5)
        self.consumers = [Process(self, self._consume) for _ in range(2)]
        self.notices = Process(self, self._handle_notices)
        self.processes = [*self.consumers, self.notices]
        self.settle_down()

    def close(self) -> None:
        self._patch.undo()
        for process in self.processes:
            process.task.cancel()
        self.settle_down()
        self.loop.close()

    def now(self) -> datetime:
        return _START + timedelta(seconds=self.loop.time())

    def settle_down(self) -> None:
        """Run everything until it waits for a request, or for time to pass."""

        async def passes() -> None:
            for _ in range(_QUIET):
                await asyncio.sleep(0)

        self.loop.run_until_complete(passes())

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle_down()

    # People

    def label(self, user: str = "alice") -> None:
        """Somebody applies the label: its message is in the queue, and its notice comes."""
        if self.item.change(user, BOT, added=True):
            self.item.labeled = True
            self._notice(self.publish())

    def publish(self) -> QueuedTask:
        """A message that asks for the item's task."""
        self._uuids += 1
        trigger = Trigger(origin=Origin.WEBHOOK, labeled_at=self.now(), received_at=self.now())
        request = TaskRequest(item=ITEM, user="alice", trigger=trigger)
        task = QueuedTask(request=request, uuid=f"uuid-{self._uuids}")
        self.broker.publish(task)
        return task

    def publish_round(self, cause: RoundCause) -> QueuedTask:
        """A message of a round that a look found."""
        self._uuids += 1
        word, found = trigger_of(cause, self.now())
        trigger = Trigger(origin=Origin.POLL, cause=word, received_at=self.now(), round=found)
        request = TaskRequest(item=ITEM, user="alice", trigger=trigger)
        task = QueuedTask(request=request, uuid=f"uuid-{self._uuids}")
        self.broker.publish(task)
        self.settle_down()
        return task

    def unlabel(self, user: str = "alice") -> None:
        """Somebody takes the labels of the flow off: a person, or our own account for `/cancel`."""
        changed = [self.item.change(user, label, added=False) for label in (BOT, PROCESSING)]
        if any(changed):
            self.item.labeled, self.item.by_command = False, user == "bot"
            self._notice(Withdrawal(item=ITEM, reason="unlabeled", at=self.now()))

    def close_item(self) -> None:
        self.item.open, self.item.changed_at = False, self.now()
        self._notice(Withdrawal(item=ITEM, reason="closed", cause=WithdrawalCause.CLOSED, at=self.now()))

    def _notice(self, notice: Notice) -> None:
        self._notices.append(notice)
        self._noticed.set()
        self.settle_down()

    # Consumers

    def reconnect(self, process: Process) -> None:
        """The lock is taken again if nobody else has it."""
        claim = process.claim
        if claim is not None and claim.is_locked and not process.connected.is_set():
            if self.broker.lock is None:
                self.broker.lock = process
            elif self.broker.lock is not process:
                claim.lost.set()
        process.connected.set()
        self.broker.changed.set()
        self.settle_down()

    @asynccontextmanager
    async def item_lock(self, process: Process) -> AsyncIterator[bool]:
        await process.to_broker("lock")
        held = self.broker.lock is None
        if held:
            self.broker.lock = process
        try:
            yield held
        finally:
            if held and self.broker.lock is process:
                self.broker.lock = None
                self.broker.changed.set()

    async def _consume(self, process: Process) -> None:
        agent: Any = process  # tells the simulated attempt where it runs
        forges: Any = {ITEM.host: SimulatedForge(self.item, process)}
        while True:
            process.stop, process.tracker = asyncio.Event(), DeliveryTracker()
            source: Any = _Source(process)
            handler = TaskHandler(SETTINGS, forges, agent, process.stop, clock=self.clock)
            await consume(source, handler, concurrency=1)

    async def _handle_notices(self, process: Process) -> None:
        source: Any = _NoticeSource(process)
        forges: Any = {ITEM.host: SimulatedForge(self.item, process)}
        handler = NoticeHandler(SETTINGS, source, forges)
        while True:
            while not self._notices:
                self._noticed.clear()
                await self._noticed.wait()
            while True:
                try:
                    await handler.handle(self._notices[0])
                except ForgeUnavailableError:
                    await asyncio.sleep(10)
                    continue
                except ForgeError:
                    pass
                break
            self._notices.popleft()

    def _attempt(self, *, given: AttemptInput, make_agent: Any, **parts: Any) -> Any:
        return SimulatedAttempt(self, make_agent, given.task, parts["stop"], parts["load"])

    # The end

    def calm_down(self) -> None:
        """Nothing fails any more, until no message waits and no process has anything to do."""
        for process in self.processes:
            self.reconnect(process)
            process.set_free()
        for _ in range(40):
            if not self.broker.messages and not self._notices and not self.working:
                break
            self.sleep(60)
        else:
            raise AssertionError(f"these wait for ever: {self.broker.messages} {self._notices}")
        self.sleep(60)


@dataclass(eq=False)
class _Source:
    process: Process

    async def claims(self, stop: asyncio.Event) -> AsyncGenerator[SimulatedClaim, None]:
        process, broker = self.process, self.process.world.broker
        while not stop.is_set():
            await process.connected.wait()
            message = await broker.next()
            await process.request("deliver")
            if message.holder is not None or message not in broker.messages or not process.connected.is_set():
                continue
            # The product also drops it if another process had it meanwhile: docs/decisions/0005, Limits.
            if process.tracker.is_settled(message.task) and message.last is process:
                broker.messages.remove(message)
                continue
            claim = process.claim = SimulatedClaim(message, process)
            yield claim
            await first_of(claim.settled.wait(), claim.lost.wait(), stop.wait())
            process.claim = None
        broker.disconnect(process)


@dataclass(eq=False)
class _NoticeSource(RabbitMQNotices):
    process: Process

    def item_lock(self, _item: Item) -> Any:
        return self.process.world.item_lock(self.process)


@dataclass(eq=False)
class SimulatedAttempt:
    """Clones, works, pushes and opens the change of its branch."""

    world: World
    process: Process
    task: QueuedTask
    stop: asyncio.Event
    load: Any
    hurried = False
    began = False

    @property
    def number(self) -> tuple[str, int, int]:
        return self.task.uuid, self.task.run, self.task.attempt

    async def run(self) -> Outcome:
        world = self.world
        world.working.append(self)
        try:
            task = (await self.load()).task
            await self.process.to_broker("clone")
            if self.stop.is_set():
                return STOPPED
            outcome = world.outcomes.pop(0) if world.outcomes else COMPLETED
            if not world.works:
                return outcome
            self.began = True
            if not self.process.saw_labeled and self.task.request.trigger.round is None:
                world.unlabeled.append(self.number)
            world.attempts.append(self.number)
            await first_of(self.stop.wait(), asyncio.sleep(WORK))
            if self.stop.is_set():
                if self.process.stop.is_set():  # another consumer goes on with this attempt
                    world.attempts.remove(self.number)
                return STOPPED
            if outcome.succeeded:
                await self.process.to_broker("open_change")
                world.item.changes.add(task.state.branch)
                branch = task.state.branch
                outcome = outcome.model_copy(update={"branch": branch, "change_url": url_of(branch)})
            return outcome
        finally:
            world.working.remove(self)
