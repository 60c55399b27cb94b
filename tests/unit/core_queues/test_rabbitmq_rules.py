"""The pure rules of the queue on RabbitMQ: what becomes of a delivery, names, waits."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.queues.rabbitmq import desk as desk_module
from coding_agent_core.queues.rabbitmq.desk import Desk, Route
from coding_agent_core.queues.rabbitmq.messages import (
    delay_arguments,
    delay_queue,
    delay_seconds,
    lock_queue,
)
from coding_agent_core.queues.rabbitmq.timing import Timing
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger, task_name

HERE, THERE = "this connection", "another connection"


def task(uuid: str, attempt: int = 1) -> QueuedTask:
    item = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=1)
    trigger = Trigger(origin=Origin.WEBHOOK, received_at=datetime(2026, 11, 25, tzinfo=UTC))
    return QueuedTask(request=TaskRequest(item=item, trigger=trigger), uuid=uuid, attempt=attempt)


def given_back(desk: Desk) -> None:
    desk.begin(task("a"), HERE)
    desk.give_back(task("a"))


def begun_and_settled(desk: Desk) -> None:
    desk.begin(task("a"), HERE)
    desk.settle(task("a"))


CASES: dict[str, tuple[Callable[[Desk], None], Route]] = {
    "nothing in hand": (lambda _: None, Route.TAKE),
    "the same task in hand here": (lambda desk: desk.begin(task("a"), HERE), Route.ATTACH),
    "the same task in hand there": (lambda desk: desk.begin(task("a"), THERE), Route.LATER),
    "another attempt of it in hand here": (lambda desk: desk.begin(task("a", 2), HERE), Route.RETURN),
    "another attempt of it in hand there": (lambda desk: desk.begin(task("a", 2), THERE), Route.LATER),
    "another task in hand here": (lambda desk: desk.begin(task("b"), HERE), Route.RETURN),
    "another task in hand there": (lambda desk: desk.begin(task("b"), THERE), Route.TAKE),
    "settled": (lambda desk: desk.settle(task("a")), Route.DROP),
    "an earlier attempt settled": (lambda desk: desk.settle(task("a", 2)), Route.TAKE),
    "given back": (given_back, Route.TAKE),
    "begun and settled": (begun_and_settled, Route.DROP),
}


@pytest.mark.parametrize(("history", "expected"), CASES.values(), ids=CASES.keys())
def test_what_becomes_of_a_delivery(history: Callable[[Desk], None], expected: Route) -> None:
    desk = Desk()
    history(desk)
    assert desk.route(task("a"), HERE) is expected


def test_the_memory_of_settled_attempts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "SETTLED_LIMIT", 2)
    desk = Desk()
    for uuid in "abc":
        desk.settle(task(uuid))
    routes = [desk.route(task(uuid), HERE) for uuid in "abc"]
    assert routes == [Route.TAKE, Route.DROP, Route.DROP]


@pytest.mark.parametrize(
    ("delay", "seconds"), [(0, 1), (0.2, 1), (1, 1), (30.5, 31), (600, 600), (1e9, 86400)]
)
def test_delays_are_whole_seconds(delay: float, seconds: int) -> None:
    assert delay_seconds(delay) == seconds


def test_a_delayed_task_goes_back_to_the_queue() -> None:
    assert delay_queue("tasks", 30) == "tasks.retry.30"
    assert delay_arguments("tasks", 30) == {
        "x-message-ttl": 30_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "tasks",
    }


def test_all_runs_of_an_item_have_one_lock() -> None:
    item = task("a").request.item
    assert lock_queue("tasks", item) == f"tasks.lock.{task_name(item)}"


def test_reconnections_back_off_to_a_cap_and_are_spread() -> None:
    lowest, highest = Timing(random=lambda: 0.0), Timing(random=lambda: 1.0)
    assert [highest.pause(failures) for failures in (0, 1, 2, 10, 10_000)] == [0.2, 0.4, 0.8, 10, 10]
    assert [lowest.pause(failures) for failures in (0, 10_000)] == [0.1, 5]
