"""A forge that is down takes no places of the consumer: its tasks go back to the queue, and lose nothing."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.item.forge_tasks import WithdrawnWork
from coding_agent_consumer.queue.circuit_breaker import CircuitBreaker, ForgePermit
from coding_agent_consumer.queue.task_handler import TaskHandler
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Phase, WithdrawalCause
from coding_agent_core.task.reasons import Reason

from tests.unit.consumer.simulation import DONE, Answer, World


class Time:
    """A clock without chance: the longest waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now, chance=lambda: 1.0)


def trial(breaker: CircuitBreaker) -> ForgePermit:
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


def test_a_forge_that_asks_for_a_wait_gets_it_up_to_a_day() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    for asked, delay in ((90.0, 100), (1e9, 86_410)):
        trial(breaker).failed(asked)
        assert breaker.delay() == delay
        time.now += 90


def test_a_forge_that_answers_other_tasks_is_not_down_and_a_task_without_an_answer_frees_its_place() -> None:
    time = Time()
    breaker = CircuitBreaker(time.clock)
    poison = trial(breaker)
    time.now += 5
    trial(breaker).answered()
    time.now += 5
    poison.failed(None)
    assert breaker.delay() == 10
    trial(breaker).failed(None)
    time.now += 10
    trial(breaker).over()
    trial(breaker)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.consumers[0].free = True
    yield world
    world.close()


def fails(*names: str) -> Callable[[str], Answer]:
    return lambda name: Answer.DOWN if name in names else Answer.OK


@pytest.mark.parametrize("request_", ["read", "upsert_comment", "remove_label", "label_history"])
def test_a_task_goes_back_to_the_queue_as_the_same_attempt(world: World, request_: str) -> None:
    world.answer = fails(request_)
    world.label()
    world.sleep(1800)
    assert [message.task.attempt for message in world.broker.messages] == [1]
    assert world.free_requests.count("publish") > 5
    world.answer = fails()
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, 1)]
    assert world.item.labels == {DONE}
    assert world.broker.dead == []


def test_the_next_task_of_a_forge_that_is_down_is_not_tried(world: World) -> None:
    world.answer = fails("read")
    world.label()
    world.sleep(8)
    assert [message.task.uuid for message in world.broker.messages] == ["uuid-1"]
    world.free_requests.clear()
    world.publish()
    world.sleep(1)
    assert [message.task.uuid for message in world.broker.messages] == ["uuid-1", "uuid-2"]
    assert world.free_requests == ["deliver", "publish", "acknowledge"]


def test_an_attempt_whose_work_has_not_begun_does_not_count_either(world: World) -> None:
    world.works, world.outcomes = False, [Outcome(reason=Reason.FORGE_DOWN, message="It is down.")]
    world.label()
    world.sleep(5)
    assert world.item.state is not None
    assert world.item.state.phase is Phase.QUEUED
    world.works = True
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, 1)]
    assert world.item.labels == {DONE}


def test_after_an_hour_it_counts(world: World) -> None:
    world.answer = fails("read")
    world.label()
    world.sleep(3500)
    assert [message.task.attempt for message in world.broker.messages] == [1]
    world.sleep(300)
    assert [message.task.attempt for message in world.broker.messages] == [2]


UNUSED: Any = None


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (None, 15, 30),
        (0.0, 15, 30),
        (60.0, 60, 66),
        (600.0, 600, 660),
        (7200.0, 7200, 7920),
        (1e9, 86_400, 95_040),
    ],
)
def test_an_asked_wait_is_kept_in_full_and_spread(asked: float | None, least: float, most: float) -> None:
    handler = TaskHandler(Settings(), {}, UNUSED, asyncio.Event())
    waits = [handler._delay(1, asked) for _ in range(50)]
    assert least <= min(waits) < max(waits) <= most


@pytest.mark.parametrize("error", [ForgeUnavailableError("down"), RuntimeError("a bug")])
async def test_a_check_that_failed_is_repeated(error: Exception) -> None:
    """While an attempt works, its consumer checks again and again whether it is still wanted."""
    settings = Settings.model_validate({"development": {"cancel_check_interval": 0.01}})
    handler = TaskHandler(settings, {}, UNUSED, asyncio.Event())
    withdrawn = WithdrawnWork("The label was removed.", WithdrawalCause.UNLABELED)
    answers: list[Exception | WithdrawnWork | None] = [error, None, withdrawn]

    async def check(hands_off: str) -> WithdrawnWork | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    claim: Any = SimpleNamespace(cancelled=asyncio.Event(), lost=asyncio.Event(), ending=lambda: None)
    task: Any = SimpleNamespace(check=check, item=SimpleNamespace(display="acme/pricing#1"))
    async with asyncio.timeout(60), handler._watch(claim, task) as (stop, why):
        await stop.wait()
    assert why == [withdrawn]


@pytest.mark.parametrize("reason", [Reason.MODEL_UNAVAILABLE, Reason.FORGE_UNAVAILABLE])
def test_a_wait_that_a_model_or_a_forge_asks_for_costs_no_attempt(world: World, reason: Reason) -> None:
    limited = Outcome(reason=reason, message="It asks for a wait of 5400 s.", retry_after=5400)
    world.works, world.outcomes = False, [limited] * 2
    world.label()
    world.sleep(5300)
    assert world.item.state is not None
    assert (world.item.state.phase, world.item.state.attempt) == (Phase.QUEUED, 1)
    assert world.item.comment is not None
    assert "It asks for a wait of 5400 s." in world.item.comment.body
    assert len(world.outcomes) == 1, "one attempt so far"
    world.sleep(5200)
    assert world.outcomes == []
    world.works = True
    world.sleep(7000)
    world.calm_down()
    assert world.item.labels == {DONE}
    assert world.attempts == [("uuid-1", 1, 1)], "it has the number of the first attempt"
