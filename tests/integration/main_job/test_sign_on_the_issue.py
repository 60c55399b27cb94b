"""Whoever applies or removes the label sees a sign on the issue at once, also while all workers are busy."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, REPOSITORY, StartSystem
from tests.integration.main_job.scripts import finish, write


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """Set it, and the model answers issue 1."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(("queue", "flavour"), [("one machine", "gitlab"), ("rabbitmq", "github")])
def test_a_task_that_waits_is_shown_and_can_be_withdrawn(
    start_system: StartSystem,
    request: pytest.FixtureRequest,
    go_on: threading.Event,
    queue: str,
    flavour: str,
) -> None:
    sections: dict[str, object] = {}
    if queue == "rabbitmq":
        broker: Broker = request.getfixturevalue("rabbitmq")
        name: str = request.getfixturevalue("rabbitmq_queue")
        settings = {"host": broker.host, "port": broker.port, "queue": name, "heartbeat": 30}
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

    other, third = (system.forge.open_issue(REPOSITORY, "A feature", "Please.") for _ in range(2))
    for number in (other, third):
        system.put_label(number)
        system.wait_for_comment(number, "Coding agent: waiting")
    # Forges tell whole seconds: whether a removal in the second of the label is older, only the item shows.
    system.wait_for_next_second(other)
    system.forge.remove_label(REPOSITORY, other, BOT)
    system.wait_for_comment(other, "Coding agent: cancelled")
    log = system.forge.sandbox.deliveries.log
    told = '"cancelled"' if queue == "rabbitmq" else "the reporter reads the item"
    until(
        "the webhook is answered",
        lambda: any(told in one.response_body for one in system.forge.run(lambda: list(log))),
    )
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
