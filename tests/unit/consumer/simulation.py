"""A forge, a broker and one consumer that can die after each of its requests, all in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_consumer import task_handler
from coding_agent_consumer.task_handler import TaskHandler
from coding_agent_core.attempts import Outcome
from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.values import Change, Comment, ItemDetails, ItemState, LabelEvent
from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reasons import Reason
from coding_agent_core.registry import Platform
from coding_agent_core.reporting import State, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
MAX_ATTEMPTS = 3
SETTINGS = Settings.model_validate(
    {"consumer": {"max_attempts": MAX_ATTEMPTS, "retry_delay": 0, "retry_delay_max": 0}}
)
UNUSED: Any = None


class Killed(BaseException):
    """The consumer's process died; nothing of it runs any more."""


class SimulatedForge:
    """One item. Each request counts, and the consumer can die after it, or the forge can refuse it.

    Attributes:
        shown: what the comment showed last of each task.
        history: the label events, the newest first.
        requests: names of the requests since `arm`.
        afterwards: what happens after the request of this number.
        refused: the error with which the forge answers a request of this name, if any.
    """

    host = "github.com"

    def __init__(self) -> None:
        self.now = self.changed_at = datetime(2026, 1, 2, tzinfo=UTC)
        self.labels: set[str] = set()
        self.open = True
        self.comment: Comment | None = None
        self.history: list[LabelEvent] = []
        self.shown: dict[str, State] = {}
        self.requests: list[str] = []
        self.refused: Callable[[str], ForgeError | None] = lambda _: None
        self.afterwards: dict[int, Callable[[], object]] = {}
        self._fatal = 0

    def arm(self, fatal: int) -> None:
        """Die after request number `fatal` to forge or broker; 0: never."""
        self.requests, self._fatal = [], fatal

    def count(self, name: str) -> None:
        """A request was done."""
        self.requests.append(name)
        self.now += timedelta(seconds=1)
        self.afterwards.pop(len(self.requests), lambda: None)()
        if len(self.requests) == self._fatal:
            raise Killed(name)

    def _before(self, name: str) -> None:
        if error := self.refused(name):
            self.count(name)
            raise error

    @property
    def state(self) -> State | None:
        """The hidden line of the comment."""
        return read_state(self.comment.body) if self.comment else None

    def put_label(self) -> None:
        """A person applies the label."""
        self.now += timedelta(seconds=1)
        self._change("alice", BOT, added=True)

    def unlabel(self) -> None:
        """A person takes the bot's labels off."""
        self.now += timedelta(seconds=1)
        for label in (BOT, PROCESSING):
            self._change("alice", label, added=False)

    def _change(self, user: str, label: str, *, added: bool) -> None:
        if (label in self.labels) is not added:
            (self.labels.add if added else self.labels.remove)(label)
            self.history.insert(0, LabelEvent(self.now, user, label, added))
            self.changed_at = self.now

    async def locate(self, item: Item) -> Item:
        self._before("locate")
        return item

    async def read(self, item: Item) -> ItemDetails:
        self._before("read")
        details = ItemDetails(
            item=item,
            title="t",
            body="",
            author="a",
            url="u",
            labels=frozenset(self.labels),
            open=self.open,
            base_branch="main",
            updated_at=self.changed_at,
        )
        self.count("read")
        return details

    async def read_state(self, _item: Item) -> ItemState:
        self._before("read_state")
        state = ItemState(frozenset(self.labels), self.open, self.changed_at)
        self.count("read_state")
        return state

    async def label_application(self, _item: Item) -> LabelEvent | None:
        applied = next((event for event in self.history if event.added and event.label == BOT), None)
        self.count("label_application")
        return applied

    async def label_history(self, _item: Item, _since: datetime | None) -> list[LabelEvent]:
        self._before("label_history")
        history = list(self.history)
        self.count("label_history")
        return history

    async def whoami(self) -> str:
        return "bot"

    async def find_comment(self, _item: Item, _marker: str) -> Comment | None:
        self._before("find_comment")
        found = self.comment
        self.count("find_comment")
        return found

    async def upsert_comment(self, _item: Item, _marker: str, body: str) -> Comment:
        self._before("upsert_comment")
        if self.comment is None or self.comment.body != body:
            created = self.comment.created_at if self.comment else self.now
            self.comment = Comment("1", "bot", body, created, updated_at=self.now)
            self.changed_at = self.now
            if self.state is not None:
                self.shown[self.state.uuid] = self.state
        written = self.comment
        self.count("upsert_comment")
        return written

    async def add_label(self, _item: Item, label: str) -> None:
        self._before("add_label")
        self._change("bot", label, added=True)
        self.count("add_label")

    async def remove_label(self, _item: Item, label: str) -> bool:
        self._before("remove_label")
        was_there = label in self.labels
        self._change("bot", label, added=False)
        self.count("remove_label")
        return was_there

    async def find_change(self, _item: Item, *, branch: str) -> Change | None:
        self.count("find_change")
        return Change(1, f"https://github.com/o/r/pull/1?{branch}", created=False)


@dataclass
class SimulatedBroker:
    """Messages that wait (the first is next; `True`: delivered before), and the dead-letter queue."""

    waiting: list[tuple[QueuedTask, bool]] = field(default_factory=list)
    dead: list[tuple[str, str]] = field(default_factory=list)


@dataclass(eq=False)
class SimulatedClaim:
    """As on RabbitMQ: a copy is published first, then the message is acknowledged."""

    task: QueuedTask
    redelivered: bool
    broker: SimulatedBroker
    count: Callable[[str], None]

    def __post_init__(self) -> None:
        self.cancelled, self.lost, self.settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.why_cancelled = ""
        self.withdrawn_before: datetime | None = None

    @asynccontextmanager
    async def item_lock(self) -> AsyncIterator[bool]:
        yield True

    def ending(self) -> None: ...

    def labeled(self, at: datetime) -> None: ...

    def answered(self, until: datetime | None) -> None: ...

    async def done(self) -> None:
        self._acknowledge()

    async def retry(self, delay: float, attempt: int) -> float:
        copy = self.task.model_copy(update={"attempt": attempt})
        self.broker.waiting.append((copy, False))
        self.count("publish retry")
        self._acknowledge()
        return delay

    async def dead_letter(self, reason: str) -> None:
        self.broker.dead.append((self.task.uuid, reason))
        self.count("publish dead letter")
        self._acknowledge()

    def _acknowledge(self) -> None:
        self.settled.set()
        self.count("acknowledge")


class World:
    """Plays deliveries, one at a time.

    Attributes:
        outcomes: how the next attempts end; when there are none left: they succeed.
        during: what happens while the next attempt works.
        works: the work of attempts begins before they end.
        attempts: number and uuid of each attempt that ran.
    """

    def __init__(self) -> None:
        self.forge, self.broker = SimulatedForge(), SimulatedBroker()
        self.outcomes: list[Outcome] = []
        self.during: Callable[[SimulatedClaim], None] | None = None
        self.works = True
        self.attempts: list[tuple[str, int]] = []
        self._uuids = 0
        self._claim: SimulatedClaim | None = None

    def label(self) -> str:
        """A person applies the label, and its message is in the queue; the message's uuid."""
        self.forge.put_label()
        return self.publish()

    def publish(self) -> str:
        """A message that asks for the item's task; its uuid."""
        self._uuids += 1
        trigger = Trigger(origin=Origin.WEBHOOK, labeled_at=self.forge.now, received_at=self.forge.now)
        request = TaskRequest(item=ITEM, user="alice", trigger=trigger)
        self.broker.waiting.append((QueuedTask(request=request, uuid=f"uuid-{self._uuids}"), False))
        return f"uuid-{self._uuids}"

    def consumer(self) -> TaskHandler:
        """A consumer that has just started."""
        forges: Any = {self.forge.host: self.forge}
        return TaskHandler(SETTINGS, forges, UNUSED, asyncio.Event())

    async def deliver(self, fatal: int = 0, consumer: TaskHandler | None = None) -> bool:
        """A consumer takes the next message, and dies after its request `fatal`; whether it lives."""
        task, redelivered = self.broker.waiting.pop(0)
        self.forge.arm(fatal)
        claim = self._claim = SimulatedClaim(task, redelivered, self.broker, self.forge.count)
        handler = consumer or self.consumer()
        patch = pytest.MonkeyPatch()
        patch.setattr(task_handler, "Attempt", self._attempt)
        try:
            await handler.handle(claim)
        except Killed:
            return False
        finally:
            patch.undo()
            if not claim.settled.is_set():
                self.broker.waiting.insert(0, (task, True))
        return True

    def _attempt(self, *, given: Any, **_: Any) -> Any:
        return _SimulatedAttempt(self, given.task)

    async def calm_down(self) -> None:
        """Nothing fails any more, until no message waits."""
        self.forge.refused = lambda _: None
        self.during = None
        rounds = 0
        while self.broker.waiting:
            rounds += 1
            assert rounds < 50, self.broker.waiting
            await self.deliver()


@dataclass
class _SimulatedAttempt:
    world: World
    task: QueuedTask
    hurried = False

    @property
    def began(self) -> bool:
        return self.world.works

    async def run(self) -> Outcome:
        world = self.world
        claim, state = world._claim, world.forge.state
        assert claim is not None
        assert state is not None
        world.attempts.append((state.uuid, state.attempt))
        if world.during is not None:
            world.during(claim)
            await asyncio.sleep(0)
        if claim.cancelled.is_set():
            for _ in range(5):  # the watch sees it
                await asyncio.sleep(0)
            return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped.")
        return world.outcomes.pop(0) if world.outcomes else Outcome(reason=Reason.COMPLETED, message="Done.")
