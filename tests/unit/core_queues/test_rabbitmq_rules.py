"""The pure rules of the queue on RabbitMQ: which attempts are settled, names, waits."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_core.queues.rabbitmq import messages
from coding_agent_core.queues.rabbitmq.consumer import ConsumerConnection
from coding_agent_core.queues.rabbitmq.messages import (
    MAX_DELAY_SECONDS,
    DeliveryTracker,
    Timing,
    delay_arguments,
    delay_queue,
    delay_seconds,
)
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.task.queued_task import QueuedTask

from tests.fixtures.deliveries import asked


def task(uuid: str, attempt: int = 1) -> QueuedTask:
    return QueuedTask(request=asked(), uuid=uuid, attempt=attempt)


def test_a_settled_attempt_is_known_when_it_is_delivered_again() -> None:
    tracker = DeliveryTracker()
    tracker.settle(task("a", 2))
    assert tracker.is_settled(task("a", 2))
    assert not tracker.is_settled(task("a", 3)), "a retry is another attempt"
    assert not tracker.is_settled(task("b", 2))


def test_the_memory_of_settled_attempts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "SETTLED_LIMIT", 2)
    tracker = DeliveryTracker()
    for uuid in "abc":
        tracker.settle(task(uuid))
    assert [tracker.is_settled(task(uuid)) for uuid in "abc"] == [False, True, True]


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [(0, 1), (0.2, 1), (1, 1), (7, 7), (8.1, 10), (24, 24), (30.5, 32), (600, 640), (1e9, 97200)],
)
def test_delays_are_whole_seconds_of_few_lengths(delay: float, seconds: int) -> None:
    assert delay_seconds(delay) == seconds


def test_delays_are_never_shortened_and_have_few_queues() -> None:
    lengths = {delay: delay_seconds(delay) for delay in range(1, MAX_DELAY_SECONDS + 1)}
    assert all(delay <= length <= delay * 1.25 for delay, length in lengths.items())
    assert len(set(lengths.values())) < 70


def test_reconnections_back_off_to_a_cap_and_are_spread() -> None:
    lowest, highest = Timing(random=lambda: 0.0), Timing(random=lambda: 1.0)
    assert [highest.pause(failures) for failures in (0, 1, 2, 10, 10_000)] == [0.2, 0.4, 0.8, 10, 10]
    assert [lowest.pause(failures) for failures in (0, 10_000)] == [0.1, 5]


@pytest.mark.parametrize("moved", [True, False])
async def test_a_copy_is_published_before_the_original_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """A process that dies in between leaves both, never none."""
    happened: list[str] = []
    unused: Any = None
    connection = ConsumerConnection(
        RabbitMQ(), {}, DeliveryTracker(), Timing(), unused, asyncio.get_running_loop()
    )

    async def publish(*_: object) -> bool:
        happened.append("publish")
        return moved

    async def abandon(*_: object) -> None:
        happened.append("leave in the queue")

    monkeypatch.setattr(ConsumerConnection, "_while_claimed", publish)
    monkeypatch.setattr(ConsumerConnection, "abandon", abandon)
    delivery = SimpleNamespace(acknowledge=lambda: happened.append("acknowledge"))
    claim: Any = SimpleNamespace(task=task("a"), is_lost=False, is_refused=False, delivery=delivery)
    connection.claim = claim
    copy: Any = object()
    await connection.settle(claim, copy, comes_again=False)
    assert happened == ["publish", "acknowledge" if moved else "leave in the queue"]


def test_a_delayed_task_goes_back_to_the_queue() -> None:
    assert delay_queue("tasks", 30) == "tasks.retry.30"
    assert delay_arguments("tasks", 30) == {
        "x-message-ttl": 30_000,
        "x-expires": 90_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "tasks",
    }
