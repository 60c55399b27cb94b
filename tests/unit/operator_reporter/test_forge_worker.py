"""A forge worker: what it reconciles next, its circuit breaker, and our own rate limits."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from coding_agent_core.errors import ForgeRefusedError, ForgeUnavailableError, NotYetError, RequestKind
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.operator import Reporter
from coding_agent_core.task.agenttask import (
    ANNOTATION_RESCAN,
    LABEL_REPORTED,
    AgentTask,
    Condition,
    Event,
    Status,
)
from coding_agent_core.task.commands import LABEL_COMMANDS, PENDING
from coding_agent_core.task.model import Phase
from coding_agent_forges.rest.pacing import Paced
from coding_agent_operator.cluster.controller import Requeue
from coding_agent_operator.reporter import reporter_program
from coding_agent_operator.reporter.forge_worker import _WORKERS, FAILED, Backlog, ForgeWorker, Rank, rank_of
from coding_agent_operator.reporter.reconcile_item import NotConfiguredError, record_problem
from coding_agent_operator.reporter.report import TaskMemory
from coding_agent_operator.reporter.reporter_program import rate_for
from coding_agent_testbed.until import until_async

from tests.unit.operator.making import changed, task

CLOCKS = Development(forge_retry=0.02, forge_retry_max=60.0, outage_shown_after=0.0)
UNAVAILABLE = ForgeUnavailableError("forge.example could not answer (503)", status=503)


@dataclass
class RecordedProblems:
    """An API server that remembers which problem was recorded on which task.

    Attributes:
        settled: tasks that are settled while a problem is written.
    """

    tasks: dict[str, AgentTask]
    reasons: list[tuple[str, str]] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)

    async def newest(self, read: AgentTask) -> AgentTask | None:
        return self.tasks[read.name]

    async def set_conditions(
        self, read: AgentTask, wanted: tuple[Condition, ...], _: datetime
    ) -> AgentTask | None:
        self.reasons += [(read.name, entry.reason) for entry in wanted]
        return changed(read, labels={LABEL_REPORTED: "true"} if read.name in self.settled else {})

    async def emit(self, *_: object, **__: object) -> None:
        return


class Scene:
    """A worker whose reconciles do what the test says."""

    def __init__(self) -> None:
        self.tasks: dict[str, AgentTask] = {}
        self.problems = RecordedProblems(self.tasks)
        self.answers = 0
        self.reconciles: list[str] = []
        self.seen: list[str] = []
        self.returns: Requeue | None = Requeue(3600)
        self.at_once = self.most_at_once = 0
        self.does: Callable[[str], Exception | None] = lambda _: None
        self.asks = True
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.worker = ForgeWorker(
            "forge.example",
            self._reconcile,
            task=self.tasks.get,
            tasks=cast(AgentTasks, self.problems),
            settings=Reporter(),
            clocks=CLOCKS,
            clock=lambda: datetime.now(UTC),
            answers=lambda: self.answers,
        )

    async def _reconcile(self, seen: AgentTask, _: TaskMemory) -> Requeue | None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.reconciles.append(seen.name)
        self.seen.append(seen.uid)
        try:
            await self.go_on.wait()
            error = self.does(seen.name)
            if error is not None:
                raise error
            self.answers += 1 if self.asks else 0
            return self.returns
        finally:
            self.at_once -= 1

    def add(self, *numbers: int) -> list[str]:
        """Queue tasks; their names."""
        names = []
        for number in numbers:
            made = task(None, number, uid=str(number))
            self.tasks[made.name] = made
            self.worker.add(made, Rank.CHANGE)
            names.append(made.name)
        return names

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async("the worker has done it", condition, interval=0.001)

    def unavailable_once(self, _: str) -> Exception:
        """The running reconciles find that the forge does not answer; the next one waits."""
        self.go_on.clear()
        return UNAVAILABLE

    def gauge(self) -> float:
        """The seconds of the outage, as Prometheus reads them."""
        reporter_program.update_metrics(self.worker)
        return float(reporter_program.UNAVAILABLE.labels("forge.example")._value.get())


def idle(scene: Scene) -> bool:
    """Whether no reconcile runs, and the results of all are recorded."""
    return not scene.worker.backlog._busy


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    scene = Scene()
    work = asyncio.create_task(scene.worker.run())
    try:
        yield scene
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def open_breaker(scene: Scene) -> None:
    """One reconcile finds that the forge does not answer."""
    scene.does = lambda _: UNAVAILABLE
    scene.add(1)
    await scene.until(lambda: scene.worker.breaker is not None)


async def test_an_answer_closes_the_breaker() -> None:
    async with running() as scene:
        await open_breaker(scene)
        await scene.until(lambda: scene.worker.breaker is not None and scene.worker.breaker.failures > 2)
        assert scene.gauge() > 0
        scene.does = lambda _: None
        await scene.until(lambda: scene.worker.breaker is None)
        assert scene.gauge() == 0
        scene.go_on.clear()
        others = scene.add(2, 3, 4, 5, 6)
        await scene.until(lambda: scene.at_once == _WORKERS)
        await scene.worker.record_outage()
        assert scene.problems.reasons == [], "an outage that is over is not recorded"
        scene.go_on.set()
        await scene.until(lambda: set(others) <= set(scene.reconciles))


async def test_an_open_breaker_lets_one_reconcile_at_a_time_through() -> None:
    async with running() as scene:
        await open_breaker(scene)
        scene.most_at_once = 0
        scene.add(*range(2, 12))
        seen = len(scene.reconciles)
        await scene.until(lambda: len(scene.reconciles) >= seen + 4)
        assert scene.most_at_once == 1


async def test_reconciles_that_fail_together_are_one_failure() -> None:
    async with running() as scene:
        scene.go_on.clear()
        scene.does = scene.unavailable_once
        scene.add(1, 2, 3, 4)
        await scene.until(lambda: scene.at_once == 4)
        scene.go_on.set()
        await scene.until(lambda: len(scene.reconciles) == 5)
        assert scene.worker.breaker is not None
        assert scene.worker.breaker.failures == 1


@pytest.mark.parametrize("ends", [None, NotConfiguredError("the item is elsewhere")])
async def test_a_reconcile_that_asked_nothing_proves_nothing(ends: Exception | None) -> None:
    async with running() as scene:
        await open_breaker(scene)
        scene.asks = False
        scene.does = lambda _: ends
        (other,) = scene.add(2)
        await scene.until(lambda: scene.reconciles.count(other) > 0 and scene.at_once == 0)
        assert scene.gauge() > 0


async def test_a_refusal_is_an_answer() -> None:
    async with running() as scene:
        await open_breaker(scene)

        def refused(_: str) -> Exception:
            scene.answers += 1
            return ForgeRefusedError("no right", status=403)

        scene.does = refused
        await scene.until(lambda: scene.worker.breaker is None)


@pytest.mark.parametrize(
    ("status", "waits"),
    [(403, [60, 120, 240, 480, 960, 1920, 3600, 3600]), (404, [60, 120, 240]), (401, [60] * 8)],
)
async def test_what_the_forge_refuses_is_tried_again_more_and_more_rarely(
    status: int, waits: list[float]
) -> None:
    """Only a person can help. A new token is expected soon, and its old one may concern all tasks."""
    async with running() as scene:
        scene.does = lambda _: ForgeRefusedError("no right", status=status)

        async def next_wait() -> float:
            before = len(scene.reconciles)
            scene.add(1)
            await scene.until(lambda: len(scene.reconciles) > before and scene.at_once == 0)
            await scene.until(lambda: idle(scene))
            return scene.worker.backlog.next_due(asyncio.get_running_loop().time()) or 0.0

        found = [await next_wait() for _ in waits]
        assert [reason for _, reason in scene.problems.reasons] == ["ForgeRefused"], "it is said once"
        # A wait is shorter by up to a half at random, and the test itself takes some time.
        assert all(most / 2 - 20 < wait <= most for wait, most in zip(found, waits, strict=True)), found
        scene.does = lambda _: None
        assert await next_wait() > 3000, "the check of an item without news"
        scene.does = lambda _: ForgeRefusedError("no right", status=status)
        assert await next_wait() <= 60, "it begins anew after a success"


async def test_an_answer_before_the_failure_proves_nothing() -> None:
    """Reads work and writes do not: the forge is unavailable."""
    async with running() as scene:

        def half(_: str) -> Exception:
            scene.answers += 1
            return UNAVAILABLE

        scene.does = half
        scene.add(1)
        await scene.until(lambda: len(scene.reconciles) >= 3)
        await scene.until(lambda: scene.at_once == 0)
        assert scene.gauge() > 0


async def test_a_forge_can_be_unavailable_for_one_item() -> None:
    """Reads of other items close the breaker every time, and writes to this one fail."""
    async with running() as scene:
        (first,) = scene.add(1)

        async def unavailable_for_the_first(others: range) -> None:
            scene.does = lambda name: UNAVAILABLE if name == first else None
            for number in others:
                scene.add(1)
                await scene.until(lambda: scene.worker.breaker is not None)
                (other,) = scene.add(number)
                await scene.until(lambda other=other: other in scene.reconciles and scene.at_once == 0)  # type: ignore[misc]

        await unavailable_for_the_first(range(2, 5))
        scene.does = lambda _: None
        seen = scene.reconciles.count(first)
        scene.add(1)
        await scene.until(lambda: scene.reconciles.count(first) > seen and scene.at_once == 0)
        scene.add(1)
        await scene.worker.record_outage()
        assert scene.problems.reasons == [], "it has been shown since"
        await unavailable_for_the_first(range(5, 8))
        await scene.worker.record_outage()
        assert scene.problems.reasons == [(first, "ForgeUnavailable")]


async def test_without_tasks_the_breaker_is_closed() -> None:
    async with running() as scene:
        await open_breaker(scene)
        (name,) = scene.tasks
        del scene.tasks[name]
        scene.worker.forget(name)
        assert scene.gauge() == 0


async def test_our_own_rate_limits_are_not_an_outage() -> None:
    async with running() as scene:
        scene.does = lambda _: NotYetError("in 11 s", RequestKind.WRITE, 0.3)
        failed = FAILED.labels("forge.example")._value.get()
        began = asyncio.get_running_loop().time()
        (first,) = scene.add(1)
        await scene.until(lambda: scene.reconciles == [first] and scene.at_once == 0)
        scene.does = lambda _: None
        others = scene.add(2, 3)
        await scene.worker.record_outage()
        assert scene.problems.reasons == []
        assert scene.gauge() == 0
        await scene.until(lambda: len(scene.reconciles) > 1)
        assert asyncio.get_running_loop().time() - began >= 0.3, (
            "nothing is reconciled before the limits permit it"
        )
        assert scene.reconciles[1] == first, "who has waited longest is next"
        await scene.until(lambda: set(others) <= set(scene.reconciles))
        assert FAILED.labels("forge.example")._value.get() == failed, "it is not a failure"


def taken(backlog: Backlog, now: float) -> list[str]:
    names = []
    while (found := backlog.take(now)) is not None:
        names.append(found[0])
    return names


async def test_a_comment_that_is_put_off_holds_back_no_other_task() -> None:
    async with running() as scene:
        (first,) = scene.add(1)
        scene.does = lambda name: NotYetError("in 40 s", RequestKind.CREATE, 40.0) if name == first else None
        await scene.until(lambda: scene.reconciles == [first] and scene.at_once == 0)
        others = scene.add(2, 3)
        await scene.until(lambda: set(others) <= set(scene.reconciles))
        scene.worker.add(scene.tasks[first], Rank.CHANGE)
        (last,) = scene.add(4)
        await scene.until(lambda: last in scene.reconciles)
        assert scene.reconciles.count(first) == 1, "a change of its position does not make it due"
        assert scene.problems.reasons == []
        scene.tasks[first] = task(Status(phase=Phase.RUNNING), 1)
        scene.worker.add(scene.tasks[first], Rank.CHANGE)
        await scene.until(lambda: scene.reconciles.count(first) == 2)


def test_what_people_wait_for_comes_first() -> None:
    backlog = Backlog()
    backlog.add("check", Rank.CHECK, 0, item="1")
    assert backlog.pending(5) == [], "nobody waits for a check"
    backlog.add("forgotten", Rank.END, 0, item="6")
    backlog.forget("forgotten")
    backlog.add("late", Rank.CHANGE, 2, item="2")
    backlog.add("early", Rank.CHANGE, 1, item="3")
    backlog.add("end", Rank.END, 3, item="4")
    backlog.add("new", Rank.NEW, 3, item="5")
    backlog.add("withdrawn", Rank.WITHDRAWAL, 3, item="7")
    assert taken(backlog, 3) == ["withdrawn", "end", "new", "early", "late", "check"]


ENDED = Condition.model_validate(
    {
        "type": "Succeeded",
        "status": "False",
        "reason": "Cancelled",
        "lastTransitionTime": datetime(2026, 11, 25, tzinfo=UTC),
    }
)


@pytest.mark.parametrize(
    ("phase", "labels", "annotations", "expected"),
    [
        (Phase.QUEUED, {}, {}, Rank.CHANGE),
        (Phase.QUEUED, {LABEL_COMMANDS: PENDING}, {}, Rank.WITHDRAWAL),
        (Phase.RUNNING, {}, {ANNOTATION_RESCAN: '{"labels":true}'}, Rank.WITHDRAWAL),
        (Phase.CANCELLED, {LABEL_COMMANDS: PENDING}, {}, Rank.END),
    ],
)
def test_what_may_withdraw_a_task_comes_before_everything_else(
    phase: Phase, labels: dict[str, str], annotations: dict[str, str], expected: Rank
) -> None:
    made = task(Status(phase=phase, conditions=(ENDED,) if phase.terminal else ()), 1)
    had = made.metadata
    metadata = had._replace(labels={**had.labels, **labels}, annotations={**had.annotations, **annotations})
    assert rank_of(replace(made, metadata=metadata)) is expected


def test_a_reconcile_that_is_due_later_is_brought_forward_and_never_delayed() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.CHECK, 0, item="1", delay=300)
    assert backlog.take(0) is None
    assert backlog.next_due(0) == 300
    backlog.add("a", Rank.END, 10, item="1")
    backlog.add("a", Rank.CHECK, 10, item="1", delay=300)
    assert backlog.take(10) == ("a", Rank.END)
    assert backlog.take(10) is None, "one reconcile shows all changes"


def test_a_change_during_a_reconcile_is_reconciled_after_it() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.CHANGE, 0, item="1")
    assert backlog.take(0) == ("a", Rank.CHANGE)
    backlog.add("a", Rank.END, 1, item="1")
    assert backlog.take(1) is None
    assert backlog.next_due(1) is None
    backlog.done("a")
    assert backlog.take(1) == ("a", Rank.END)


def test_two_runs_of_an_item_are_never_reconciled_together() -> None:
    backlog = Backlog()
    backlog.add("run-1", Rank.END, 0, item="same")
    backlog.add("run-2", Rank.CHANGE, 0, item="same")
    backlog.add("other", Rank.CHANGE, 0, item="other")
    assert taken(backlog, 0) == ["run-1", "other"]
    backlog.done("run-1")
    assert taken(backlog, 0) == ["run-2"]


def test_a_failed_reconcile_is_retried_with_the_age_it_had() -> None:
    backlog = Backlog()
    backlog.add("a", Rank.END, 5, item="1")
    backlog.take(5)
    assert backlog.pending(6) == [("a", 1)], "what is being reconciled is not shown yet"
    backlog.retry("a", 7, delay=10)
    backlog.done("a")
    assert backlog.take(16) is None
    assert backlog.pending(16) == [("a", 11)]
    assert backlog.take(17) == ("a", Rank.END)


async def test_a_task_that_takes_the_name_of_one_that_is_deleted_is_reconciled() -> None:
    async with running() as scene:
        scene.go_on.clear()
        (name,) = scene.add(1)
        await scene.until(lambda: scene.at_once == 1)
        second = task(None, 1, uid="another")
        assert second.name == name
        scene.tasks[name] = second
        scene.worker.add(second, Rank.CHANGE)
        scene.returns = None
        scene.go_on.set()
        await scene.until(lambda: scene.seen == ["1", "another"])


async def test_a_problem_that_ends_while_its_event_is_written_is_recorded_when_it_comes_again() -> None:
    found = task(None, 1, uid="1")
    memory, problem = TaskMemory(found.uid), Event("Warning", "ForgeUnavailable", "It does not answer.")

    class Recovers(RecordedProblems):
        async def emit(self, *_: object, **__: object) -> None:
            memory.problem = ""  # a reconcile has shown the task meanwhile

    api = Recovers({found.name: found})
    for _ in range(2):
        await record_problem(cast(AgentTasks, api), found, memory, problem, datetime.now(UTC))
    assert api.reasons == [(found.name, "ForgeUnavailable")] * 2


async def test_a_problem_of_a_task_that_is_settled_meanwhile_does_not_stay() -> None:
    scene = Scene()
    (name,) = scene.add(1)
    scene.problems.settled.add(name)
    found = scene.tasks[name]
    problem = Event("Warning", "ForgeUnavailable", "It has not answered.")
    tasks = cast(AgentTasks, scene.problems)
    await record_problem(tasks, found, TaskMemory(found.uid), problem, datetime.now(UTC))
    assert scene.problems.reasons == [(name, "ForgeUnavailable"), (name, "Shown")]


async def test_our_own_rate_limits_do_not_end_an_outage() -> None:
    async with running() as scene:
        await open_breaker(scene)
        scene.does = lambda _: NotYetError("in 11 s", RequestKind.WRITE, 0.01)
        seen = len(scene.reconciles)
        await scene.until(lambda: len(scene.reconciles) > seen + 2)
        assert scene.gauge() > 0
        await scene.worker.record_outage()
        assert scene.problems.reasons == [(next(iter(scene.tasks)), "ForgeUnavailable")]


def test_a_burst_of_changes_of_one_task_is_one_reconcile_at_the_best_rank() -> None:
    backlog = Backlog()
    for rank in (Rank.CHANGE, Rank.CHECK, Rank.END, Rank.CHANGE):
        backlog.add("a", rank, 0, item="1")
    assert backlog.take(0) == ("a", Rank.END)
    assert backlog.take(0) is None


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TASKS = 200
FIRST = (RequestKind.READ, RequestKind.READ, RequestKind.READ, RequestKind.CREATE)
"""The first comment on an item: look for one, read the item, look again, write."""
LABELS = (RequestKind.READ, RequestKind.READ, RequestKind.READ, RequestKind.WRITE, RequestKind.WRITE)
"""The labels of a task whose comment has to wait: look for it, read the item, look again, swap the labels."""
END = (RequestKind.READ, RequestKind.WRITE, RequestKind.WRITE, RequestKind.WRITE)
"""An end: read the item, edit the comment, swap the labels."""


@dataclass
class Sent:
    """Requests over a clock of its own."""

    platform: Platform
    host: str
    at: float = 0.0
    requests: list[tuple[float, RequestKind]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = Clock(
            now=lambda: NOW + timedelta(seconds=self.at), monotonic=lambda: self.at, sleep=self._sleep
        )
        rate = rate_for(Reporter(), self.platform, self.host)
        self.pace = Paced(self.host, rate, clock)

    async def _sleep(self, seconds: float) -> None:
        self.at += seconds

    async def send(self, kinds: tuple[RequestKind, ...]) -> float:
        """Send this for each task; the minutes that it took."""
        began = self.at
        for _ in range(TASKS):
            for kind in kinds:
                await self.pace.turn(kind)
                self.requests.append((self.at, kind))
        return (self.at - began) / 60

    def most(self, seconds: float, cost: dict[RequestKind, int]) -> int:
        most = total = first = 0
        for at, kind in self.requests:
            total += cost.get(kind, 0)
            while self.requests[first][0] <= at - seconds:
                total -= cost.get(self.requests[first][1], 0)
                first += 1
            most = max(most, total)
        return most


@pytest.mark.parametrize(
    ("platform", "host", "comments", "labels", "ends"),
    [
        (Platform.GITHUB, "github.com", 3.2, 3.3, 4.4),
        (Platform.GITLAB, "gitlab.com", 4.2, 3.3, 2.7),
        (Platform.GITLAB, "gitlab.example.com", 2.7, 3.3, 2.7),
    ],
)
async def test_a_burst_of_200_tasks(
    platform: Platform, host: str, comments: float, labels: float, ends: float
) -> None:
    """The minutes are those of docs/labels.md."""
    sent = Sent(platform, host)
    assert await sent.send(FIRST) == pytest.approx(comments, abs=0.15)
    assert await sent.send(LABELS) == pytest.approx(labels, abs=0.15)
    assert await sent.send(END) == pytest.approx(ends, abs=0.15)
    facts = FACTS[platform]
    limits = facts.web_limits if host == facts.web_host else facts.limits
    assert sent.most(60, {RequestKind.CREATE: 1}) <= limits.creates_per_minute
    if platform is Platform.GITHUB:
        assert sent.most(3600, {RequestKind.CREATE: 1}) <= 500
        assert len(sent.requests) < 5000
        assert sent.most(60, {RequestKind.READ: 1, RequestKind.WRITE: 5, RequestKind.CREATE: 5}) <= 900, (
            "points"
        )


@pytest.mark.parametrize(("share", "burst"), [(0.05, 1), (0.75, 10), (3, 40)])
def test_one_share_is_of_all_limits(share: float, burst: int) -> None:
    rate = rate_for(Reporter(forge_share=share), Platform.GITHUB, "github.com")
    assert rate.burst == burst
    assert rate.hourly_share == share
    told = (rate.creates_per_minute, rate.creates_per_hour, rate.writes_per_minute, rate.per_hour)
    assert told == pytest.approx((80 * share, 500 * share, 180 * share, 5000 * share))
    assert rate.per_second == pytest.approx(5 * share / 0.75)
