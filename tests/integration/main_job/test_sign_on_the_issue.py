"""Whoever applies or removes the label sees a sign on the issue at once, also while all workers are busy."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from coding_agent_model.script import Script

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System, until
from tests.integration.main_job.scripts import finish, write

QUEUES = [("memory", "gitlab"), ("rabbitmq", "github")]


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Set it, and the model answers issue 1."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(params=QUEUES, ids="-".join)
def system(request: pytest.FixtureRequest, start_system: StartSystem, go_on: threading.Event) -> System:
    """One worker, which the task of issue 1 keeps busy until a cancel or `go_on`."""
    queue, flavour = request.param
    # In one process the webhook cancels the task. With RabbitMQ the consumer checks the labels.
    sections: dict[str, object] = {"consumer": {"cancel_check_interval": 600}}
    if queue == "rabbitmq":
        broker: Broker = request.getfixturevalue("rabbitmq")
        name: str = request.getfixturevalue("rabbitmq_queue")
        settings = {"host": broker.host, "port": broker.port, "queue": name, "heartbeat": 5}
        sections = {"use_rabbitmq": True, "rabbitmq": settings}
    quick = Script(name="quick", match="A feature", turns=(write("b.md", "b\n"), finish()))
    slow = Script(name="slow", turns=(write("a.md", "a\n"), finish("Took its time.")))
    system = start_system(flavour, [quick, slow], **sections)
    play = system.model.app.state.play
    answer = play.answer

    async def answer_later(wire: Any, body: dict[str, Any]) -> Any:
        if "A feature" not in str(body):
            await asyncio.to_thread(go_on.wait)
        return await answer(wire, body)

    play.answer = answer_later
    system.start_webhook()
    if queue == "rabbitmq":
        system.start_consumer()
    system.put_label(1)
    system.wait_for_comment(1, "working on it")
    return system


def answers(system: System) -> list[str]:
    """The receiver's answers to all webhooks so far, as JSON text."""
    log = system.forge.sandbox.deliveries.log
    return [delivery.response_body for delivery in system.forge.run(lambda: list(log))]


def test_a_task_that_waits_is_shown_and_can_be_withdrawn(system: System, go_on: threading.Event) -> None:
    other, third = (system.forge.open_issue(REPOSITORY, "A feature", "Please.") for _ in range(2))
    for number in (other, third):
        system.put_label(number)
        system.wait_for_comment(number, "Coding agent: waiting")

    system.forge.remove_label(REPOSITORY, other, BOT)
    system.wait_for_comment(other, "Coding agent: cancelled")
    until(lambda: any('"cancelled"' in answer for answer in answers(system)), "the webhook is answered")
    assert "Coding agent: working on it" in system.comments(1)[0].body, "the worker is still busy"

    go_on.set()
    system.wait_for_label(1, DONE)
    system.wait_for_label(third, DONE)
    assert "Coding agent: cancelled" in system.comments(other)[0].body
    assert [len(system.comments(number)) for number in (1, other, third)] == [1, 1, 1]
    assert len(system.changes()) == 2
    for number in (1, third):
        assert "attempt 1 of 3" in system.comments(number)[0].body
        assert "-r2" not in system.comments(number)[0].body, "the sign is not a run of its own"


def test_a_running_task_is_cancelled_with_the_right_answer(system: System) -> None:
    until(lambda: BOT not in system.labels(1), "the labels were swapped")
    # Forges tell whole seconds: a removal in the second of the label counts as older.
    swapped = int(time.time())
    until(lambda: int(time.time()) > swapped, "the next second")
    system.forge.remove_label(REPOSITORY, 1, PROCESSING)
    system.wait_for_comment(1, "Coding agent: cancelled")
    assert not any("but the item" in answer for answer in answers(system))
