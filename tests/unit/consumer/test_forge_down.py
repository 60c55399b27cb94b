"""A forge that is down takes no places of the consumer: its tasks go back to the queue, and lose nothing."""

from __future__ import annotations

import pytest
from coding_agent_consumer import task_handler
from coding_agent_consumer.circuit_breaker import CircuitBreaker, Trial
from coding_agent_core.attempts import Outcome
from coding_agent_core.errors import ForgeError, ForgeUnavailableError
from coding_agent_core.reasons import Reason
from coding_agent_core.retry import Clock
from coding_agent_core.tasks import Phase

from tests.unit.consumer.simulation import DONE, World

DOWN = ForgeUnavailableError("github.com could not answer (503)")


class Time:
    """A clock without chance: the longest waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now, chance=lambda: 1.0)


def trial(breaker: CircuitBreaker) -> Trial:
    found = breaker.trial()
    assert found is not None
    return found


def test_one_task_at_a_time_tests_a_forge_that_is_down_at_growing_intervals() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    places = [trial(breaker) for _ in range(3)]
    for place in places:  # all had begun before it was known
        place.failed(None)
    for wait in (10, 20, 40, 60, 60):
        time.now += wait - 1
        assert breaker.trial() is None
        assert breaker.delay() == 1 + 10, "the rest of the wait, and a spread"
        time.now += 1
        probe = trial(breaker)
        assert breaker.trial() is None, "one at a time"
        probe.failed(None)
        probe.over()
    time.now += 60
    trial(breaker).answered()
    assert [breaker.trial() for _ in range(3)].count(None) == 0


def test_a_forge_that_asks_for_a_wait_gets_it_up_to_an_hour() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    trial(breaker).failed(90.0)
    assert breaker.delay() == 100
    time.now += 90
    trial(breaker).failed(1e9)
    assert breaker.delay() == 3610


def test_a_forge_that_answers_other_tasks_is_not_down() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    poison = trial(breaker)
    time.now += 5
    trial(breaker).answered()
    time.now += 5
    poison.failed(None)
    assert breaker.trial() is not None
    assert breaker.delay() == 10


def test_a_task_that_ends_without_an_answer_lets_the_next_one_test_the_forge() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    trial(breaker).failed(None)
    time.now += 10
    trial(breaker).over()
    assert breaker.trial() is not None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_handler, "_START_PATIENCE", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "request_", ["locate", "read", "find_comment", "upsert_comment", "add_label", "remove_label"]
)
async def test_a_task_goes_back_to_the_queue_as_the_same_attempt(request_: str) -> None:
    world = World()
    uuid = world.label()
    for refusals in (1, 2, 1):  # the forge comes back for a moment, and the whole outage costs no attempt
        left = refusals

        def refused(name: str) -> ForgeError | None:
            nonlocal left
            left -= name == request_
            return DOWN if name == request_ and left >= 0 else None

        world.forge.refused = refused
        await world.deliver()
        assert [(task.uuid, task.attempt) for task, _ in world.broker.waiting] == [(uuid, 1)]
    assert world.attempts == []
    await world.calm_down()
    assert world.attempts == [(uuid, 1)]
    assert world.forge.labels == {DONE}
    assert world.broker.dead == []


@pytest.mark.usefixtures("impatient")
async def test_the_next_task_of_a_forge_that_is_down_is_not_tried() -> None:
    world = World()
    consumer = world.consumer()
    world.forge.refused = lambda name: DOWN if name == "read" else None
    for tried in (["read"], []):
        world.label()
        await world.deliver(consumer=consumer)
        assert [name for name in world.forge.requests if name == "read"] == tried
    assert [task.attempt for task, _ in world.broker.waiting] == [1, 1]


async def test_an_attempt_whose_work_has_not_begun_does_not_count_either() -> None:
    world = World()
    uuid = world.label()
    world.works = False
    world.outcomes = [Outcome(reason=Reason.FORGE_UNAVAILABLE, message="It is down.")]
    await world.deliver()
    assert world.forge.state is not None
    assert world.forge.state.phase is Phase.QUEUED
    world.works = True
    await world.calm_down()
    assert world.attempts == [(uuid, 1), (uuid, 1)]
    assert world.forge.labels == {DONE}


@pytest.mark.usefixtures("impatient")
async def test_after_an_hour_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_handler, "_FORGE_PATIENCE", -1.0)
    world = World()
    uuid = world.label()
    world.forge.refused = lambda name: DOWN if name == "read" else None
    await world.deliver()
    assert [(task.uuid, task.attempt) for task, _ in world.broker.waiting] == [(uuid, 2)]
