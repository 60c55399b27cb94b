"""Commands in comments where receiver and consumer are apart, over a real broker."""

from __future__ import annotations

import pytest

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, StartSystem, until
from tests.integration.issue_commands.steps import (
    FLOW,
    bots,
    say,
    scripts,
    seen,
    wait_for_report,
    wait_until_seen,
)


@pytest.mark.long
def test_commands_act_on_the_labels(start_system: StartSystem, rabbitmq: Broker, rabbitmq_queue: str) -> None:
    system = start_system(
        "github",
        scripts(),
        webhook={"commands": {"enabled": True}},
        use_rabbitmq=True,
        rabbitmq={"host": rabbitmq.host, "port": rabbitmq.port, "queue": rabbitmq_queue, "heartbeat": 5},
    )
    receiver = system.start_webhook()
    asked = say(system, "/run")
    until(lambda: "Command stored: /run" in receiver.text(), "the broker has it, though nobody takes it yet")
    assert system.labels(1) & FLOW == set()

    consumer = system.start_consumer()
    wait_until_seen(asked)
    assert ("labeled", BOT) in system.label_history(1)
    wait_for_report(system, "working on it")
    until(lambda: len(system.model.requests) >= 2, "the agent is at work")

    stranger = say(system, "/cancel", by="reader")
    until(lambda: "reader has no write access" in consumer.text(), "the stranger is refused")
    assert seen(stranger) == []

    cancel = say(system, "/cancel")
    wait_until_seen(cancel)
    assert "The label was removed." in wait_for_report(system, "Coding agent: cancelled")
    until(lambda: not system.labels(1) & FLOW, "the labels of the flow are gone")

    say(system, "/retry")
    system.wait_for_label(1, DONE)
    assert "-r2`" in wait_for_report(system, "Coding agent: done")
    assert len(bots(system)) == 1
    assert len(system.changes()) == 1
    assert "its per-user settings apply" in consumer.text(), "what differs in this mode is said at the start"
    assert consumer.terminate() == 0
