"""A lane while its forge is away, when it comes back, and while our own limits hold it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from coding_agent_core.agenttask import Condition
from coding_agent_core.errors import ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.pacing import NotYetError
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.settings.operator import Reporter
from coding_agent_operator.observed import Task
from coding_agent_operator.reporter import metrics
from coding_agent_operator.reporter.backlog import Rank
from coding_agent_operator.reporter.errors import NotConfiguredError
from coding_agent_operator.reporter.lane import Lane
from coding_agent_operator.reporter.memory import Memory
from coding_agent_operator.reporter.mirror import Again

from tests.unit.operator.making import task

SETTINGS = Reporter(workers=4, retry_first=0.02, retry_max=60.0, tell_after=0.0)
AWAY = ForgeUnavailableError("forge.example could not answer (503)", status=503)


@dataclass
class Told:
    """An API server that remembers what was told on which task."""

    tasks: dict[str, Task]
    reasons: list[tuple[str, str]] = field(default_factory=list)

    async def get(self, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "uid": self.tasks[name].uid}}

    async def set_conditions(self, body: Any, wanted: tuple[Condition, ...], _: datetime) -> Any:
        self.reasons += [(body["metadata"]["name"], each.reason) for each in wanted]
        return body

    async def emit(self, *_: object, **__: object) -> None:
        return


class Scene:
    """A lane whose looks do what the test says."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.told = Told(self.tasks)
        self.answers = 0
        self.looks: list[str] = []
        self.at_once = self.most_at_once = 0
        self.does: Callable[[str], Exception | None] = lambda _: None
        self.asks = True
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.lane = Lane(
            "forge.example",
            self._look,
            task=self.tasks.get,
            tasks=cast(AgentTasks, self.told),
            settings=SETTINGS,
            clock=lambda: datetime.now(UTC),
            answers=lambda: self.answers,
        )

    async def _look(self, seen: Task, _: Memory, __: Rank) -> Again:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.looks.append(seen.name)
        try:
            await self.go_on.wait()
            error = self.does(seen.name)
            if error is not None:
                raise error
            self.answers += 1 if self.asks else 0
            return Again(3600)
        finally:
            self.at_once -= 1

    def add(self, *numbers: int) -> list[str]:
        """Tasks that wait to be looked at."""
        names = []
        for number in numbers:
            made = task(None, number, uid=str(number))
            self.tasks[made.name] = made
            self.lane.add(made, Rank.CHANGE)
            names.append(made.name)
        return names

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is true, which a look makes it."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)

    def away_once(self, _: str) -> Exception:
        """The looks that have begun find that it is away; the next one waits."""
        self.go_on.clear()
        return AWAY

    def gauge(self) -> float:
        """For how long the forge is away, as Prometheus is told."""
        self.lane.measure()
        return float(metrics.AWAY.labels("forge.example")._value.get())


@asynccontextmanager
async def running() -> AsyncIterator[Scene]:
    scene = Scene()
    work = asyncio.create_task(scene.lane.run())
    try:
        yield scene
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def taken_away(scene: Scene) -> None:
    """One look finds that the forge does not answer."""
    scene.does = lambda _: AWAY
    scene.add(1)
    await scene.until(lambda: scene.lane.away is not None)


async def test_a_forge_that_answers_again_is_back() -> None:
    async with running() as scene:
        await taken_away(scene)
        await scene.until(lambda: scene.lane.away is not None and scene.lane.away.failures > 2)
        assert scene.gauge() > 0
        scene.does = lambda _: None
        await scene.until(lambda: scene.lane.away is None)
        assert scene.gauge() == 0
        scene.go_on.clear()
        others = scene.add(2, 3, 4, 5, 6)
        await scene.until(lambda: scene.at_once == SETTINGS.workers)
        await scene.lane.tell_of_absence()
        assert scene.told.reasons == [], "nobody is told of what is over"
        scene.go_on.set()
        await scene.until(lambda: set(others) <= set(scene.looks))


async def test_the_next_outage_begins_with_the_first_wait() -> None:
    async with running() as scene:
        await taken_away(scene)
        await scene.until(lambda: scene.lane.away is not None and scene.lane.away.failures > 3)
        scene.does = lambda _: None
        await scene.until(lambda: scene.lane.away is None)
        now = asyncio.get_running_loop().time()
        scene.does = scene.away_once
        scene.add(2)
        await scene.until(lambda: scene.lane.away is not None)
        away = scene.lane.away
        assert away is not None
        assert away.failures == 1
        assert away.began >= now
        assert away.until - away.began <= SETTINGS.retry_first


async def test_while_it_is_away_one_look_at_a_time_asks() -> None:
    async with running() as scene:
        await taken_away(scene)
        scene.most_at_once = 0
        scene.add(*range(2, 12))
        seen = len(scene.looks)
        await scene.until(lambda: len(scene.looks) >= seen + 4)
        assert scene.most_at_once == 1


async def test_looks_that_fail_together_are_one_failure() -> None:
    async with running() as scene:
        scene.go_on.clear()
        scene.does = scene.away_once
        scene.add(1, 2, 3, 4)
        await scene.until(lambda: scene.at_once == 4)
        scene.go_on.set()
        await scene.until(lambda: len(scene.looks) == 5)
        assert scene.lane.away is not None
        assert scene.lane.away.failures == 1


@pytest.mark.parametrize("ends", [None, NotConfiguredError("the item is elsewhere")])
async def test_a_look_that_asked_nothing_proves_nothing(ends: Exception | None) -> None:
    async with running() as scene:
        await taken_away(scene)
        scene.asks = False
        scene.does = lambda _: ends
        (other,) = scene.add(2)
        await scene.until(lambda: scene.looks.count(other) > 0 and scene.at_once == 0)
        assert scene.gauge() > 0


async def test_a_refusal_is_an_answer() -> None:
    async with running() as scene:
        await taken_away(scene)

        def refused(_: str) -> Exception:
            scene.answers += 1
            return ForgeRefusedError("no right", status=403)

        scene.does = refused
        await scene.until(lambda: scene.lane.away is None)


async def test_an_answer_before_the_failure_proves_nothing() -> None:
    """It reads, and then it cannot write: that forge is away."""
    async with running() as scene:

        def half(_: str) -> Exception:
            scene.answers += 1
            return AWAY

        scene.does = half
        scene.add(1)
        await scene.until(lambda: len(scene.looks) >= 3)
        await scene.until(lambda: scene.at_once == 0)
        assert scene.gauge() > 0


async def test_a_forge_that_answers_others_is_away_to_one() -> None:
    """It can be read and not written: each look at another item finds it there."""
    async with running() as scene:
        (first,) = scene.add(1)

        async def away_to_the_first(others: range) -> None:
            scene.does = lambda name: AWAY if name == first else None
            for number in others:
                scene.add(1)
                await scene.until(lambda: scene.lane.away is not None)
                (other,) = scene.add(number)
                await scene.until(lambda other=other: other in scene.looks and scene.at_once == 0)  # type: ignore[misc]

        await away_to_the_first(range(2, 5))
        scene.does = lambda _: None
        seen = scene.looks.count(first)
        scene.add(1)
        await scene.until(lambda: scene.looks.count(first) > seen and scene.at_once == 0)
        scene.add(1)
        await scene.lane.tell_of_absence()
        assert scene.told.reasons == [], "it was shown since"
        await away_to_the_first(range(5, 8))
        await scene.lane.tell_of_absence()
        assert scene.told.reasons == [(first, "ForgeUnavailable")]


async def test_nothing_is_known_of_a_forge_once_nobody_is_left_to_ask_for() -> None:
    async with running() as scene:
        await taken_away(scene)
        (name,) = scene.tasks
        scene.lane.forget(name, scene.tasks.pop(name).uid)
        assert scene.gauge() == 0


async def test_our_own_limits_are_waited_for_and_are_no_outage() -> None:
    async with running() as scene:
        scene.does = lambda _: NotYetError("in 11 s", retry_after=0.3)
        failed = metrics.FAILED.labels("forge.example")._value.get()
        began = asyncio.get_running_loop().time()
        (first,) = scene.add(1)
        await scene.until(lambda: scene.looks == [first] and scene.at_once == 0)
        scene.does = lambda _: None
        others = scene.add(2, 3)
        await scene.lane.tell_of_absence()
        assert scene.told.reasons == []
        assert scene.gauge() == 0
        await scene.until(lambda: len(scene.looks) > 1)
        assert asyncio.get_running_loop().time() - began >= 0.3, "nothing is looked at before our turn"
        assert scene.looks[1] == first, "who has waited longest is next"
        await scene.until(lambda: set(others) <= set(scene.looks))
        assert metrics.FAILED.labels("forge.example")._value.get() == failed, "it is nobody's failure"


async def test_our_own_limits_say_nothing_of_an_outage() -> None:
    async with running() as scene:
        await taken_away(scene)
        scene.does = lambda _: NotYetError("in 11 s", retry_after=0.01)
        seen = len(scene.looks)
        await scene.until(lambda: len(scene.looks) > seen + 2)
        assert scene.gauge() > 0
        await scene.lane.tell_of_absence()
        assert scene.told.reasons == [(next(iter(scene.tasks)), "ForgeUnavailable")]
