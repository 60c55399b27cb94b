"""Who may ask: only people with the permission start the agent, in each mode without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System, until
from tests.integration.main_job.scripts import fixes_the_bug

FLOW = {BOT, PROCESSING, DONE}


def label_later(system: System, number: int, who: str) -> None:
    """Label it again."""
    system.wait_for_next_second(number)
    system.forge.add_label(REPOSITORY, number, BOT, by=who)


def refusal_of(system: System, number: int, who: str) -> str:
    """The comment that refuses the task, once the labels are taken back."""
    text = f"{who} applied the label, but only people with"
    body = system.wait_for_comment(number, text)
    until(lambda: not system.labels(number) & FLOW, "the label is taken back")
    return body


def runs(
    start_system: StartSystem, flavour: str, broker: Broker | None, queue: str, **sections: Any
) -> System:
    if broker is not None:
        sections |= {
            "use_rabbitmq": True,
            "rabbitmq": {"host": broker.host, "port": broker.port, "queue": queue, "heartbeat": 5},
        }
    system = start_system(flavour, fixes_the_bug(), **sections)
    system.start_webhook()
    if broker is not None:
        system.start_consumer()
    return system


@pytest.mark.parametrize(
    ("mode", "flavour"),
    [
        ("memory", "github"),
        ("rabbitmq", "gitlab"),
        pytest.param("memory", "gitlab", marks=pytest.mark.long),
        pytest.param("rabbitmq", "github", marks=pytest.mark.long),
    ],
)
def test_without_write_access_the_label_starts_nothing_also_from_an_issue_form(
    start_system: StartSystem, request: pytest.FixtureRequest, mode: str, flavour: str
) -> None:
    broker = request.getfixturevalue("rabbitmq") if mode == "rabbitmq" else None
    queue = request.getfixturevalue("rabbitmq_queue") if mode == "rabbitmq" else ""
    system = runs(start_system, flavour, broker, queue)

    form = system.forge.open_issue(REPOSITORY, "By a form", by="reader", labels=[BOT])
    assert "with write access to acme/pricing may ask for a task." in refusal_of(system, form, "reader")
    system.forge.add_label(REPOSITORY, 1, BOT, by="triager")
    body = refusal_of(system, 1, "triager")
    assert "Coding agent: failed" in body
    assert "NotAuthorized" in body
    assert system.model.requests == []
    assert system.changes() == []

    label_later(system, 1, "alice")
    system.wait_for_label(1, DONE)
    assert len(system.changes()) == 1


@pytest.mark.long
@pytest.mark.parametrize("flavour", ["github", "gitlab"])
@pytest.mark.parametrize(
    ("authorize", "who", "refused"), [("triage", "triager", "reader"), ("anyone", "reader", "")]
)
def test_the_setting_lets_others_ask(
    start_system: StartSystem, flavour: str, authorize: str, who: str, refused: str
) -> None:
    system = runs(start_system, flavour, None, "", authorize=authorize)
    if refused:
        system.forge.add_label(REPOSITORY, 1, BOT, by=refused)
        refusal_of(system, 1, refused)
    label_later(system, 1, who)
    system.wait_for_label(1, DONE)
