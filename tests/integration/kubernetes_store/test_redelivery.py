"""B4: what GitHub sent while no receiver was there is sent again by the poll, and makes one task at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.fixtures.deliveries import SECRET
from tests.fixtures.system import BOT, BOT_TOKEN, REPOSITORY, Program, StartSystem, System, until
from tests.integration.kubernetes_store.place import Place

ADMIN = "alice-token"
ELSEWHERE = {"assignee": "reader"}
"""A scope of the search that does not have our items: what is found then, was sent again."""


@dataclass
class Outage:
    """A repository whose webhook sends to a receiver that was killed.

    Attributes:
        url: the webhook's.
    """

    place: Place
    system: System
    url: str
    port: int

    @property
    def log(self) -> list[Any]:
        """The webhook's deliveries."""
        return self.system.forge.sandbox.deliveries.log

    def ended(self, count: int) -> None:
        """Wait until so many deliveries have ended."""
        until(lambda: sum(each.status != "pending" for each in self.log) == count, f"{count} deliveries")

    def receiver(self) -> Program:
        """The receiver is back, at the same address."""
        account = self.place.account()
        server = {"host": "127.0.0.1", "port": self.port}
        program = self.place.start_receiver(account, server=server, forge=self.forge())
        self.system.programs.append(program)
        program.port()
        until(self._is_ready, "the receiver is ready")
        return program

    def poll(self, token: str = ADMIN, **github: Any) -> Program:
        """Poll once, to its end."""
        redelivery = {"repositories": [REPOSITORY], "webhook_url": self.url}
        self.system.sections = {"github": {"redelivery": redelivery, **github}}
        environment = self.place.environment(self.place.account())
        program = self.system.start("--mode", "producer", GITHUB_PERSONAL_ACCESS_TOKEN=token, **environment)
        assert program.process.wait(60) == 0, program.text()
        return program

    def forge(self) -> dict[str, Any]:
        """Settings of the forge."""
        return {"github": {"api_url": self.system.forge.api_url}}

    def _is_ready(self) -> bool:
        return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200


@pytest.fixture
def outage(place: Place, start_system: StartSystem, start_receiver: Callable[..., Program]) -> Outage:
    system = start_system("github", [])
    first = start_receiver()
    port = first.port()
    first.kill()
    url = f"http://127.0.0.1:{port}/webhook/github"
    system.forge.add_hook(REPOSITORY, url, SECRET)
    return Outage(place, system, url, port)


def test_a_missed_label_becomes_one_task_whoever_recovers_it(outage: Outage) -> None:
    outage.system.put_label(1)
    outage.ended(1)
    outage.receiver()
    program = outage.poll()
    outage.ended(2)
    assert [each.status for each in outage.log] == ["failed to connect to host", "OK"]
    assert "Asked for a missed delivery again: issues" in program.text()
    assert len(outage.place.tasks()) == 1
    outage.poll()
    assert len(outage.log) == 2, "what was taken is not asked for again"
    assert len(outage.place.tasks()) == 1


def test_an_event_outside_the_searchs_scope_is_recovered_too(outage: Outage) -> None:
    outage.system.put_label(1)
    outage.ended(1)
    outage.poll(**ELSEWHERE)  # nobody is there yet: it is a probe, and fails
    outage.ended(2)
    assert outage.place.tasks() == {}
    outage.receiver()
    outage.poll(**ELSEWHERE)
    outage.ended(3)
    [task] = outage.place.tasks().values()
    assert task["spec"]["trigger"]["origin"] == "webhook"
    assert task["spec"]["trigger"]["deliveryID"] == outage.log[0].guid


def test_a_missed_cancel_reaches_the_task(outage: Outage) -> None:
    receiver = outage.receiver()
    outage.system.put_label(1)
    outage.ended(1)
    [name] = outage.place.tasks()
    receiver.kill()
    # GitHub's clock tells seconds: a label taken off within the second in which it was put on is not newer.
    labeled = time.time()
    until(lambda: int(time.time()) > int(labeled), "the next second")
    outage.system.forge.remove_label(REPOSITORY, 1, BOT)
    outage.ended(2)
    outage.receiver()
    outage.poll()
    outage.ended(3)
    assert outage.place.task(name)["spec"]["cancel"] is True


def test_a_label_that_was_taken_off_meanwhile_makes_no_task(outage: Outage) -> None:
    outage.system.put_label(1)
    outage.ended(1)
    outage.receiver()
    outage.system.forge.remove_label(REPOSITORY, 1, BOT)
    outage.ended(2)
    outage.poll()
    assert len(outage.log) == 2
    assert outage.place.tasks() == {}


def test_many_missed_events_come_back_in_the_second_poll(outage: Outage) -> None:
    numbers = [1, *(outage.system.forge.open_issue(REPOSITORY, f"Issue {each}") for each in range(9))]
    for number in numbers:
        outage.system.put_label(number)
    missed = len(numbers) * 2 - 1  # opened and labeled
    outage.ended(missed)
    outage.receiver()
    outage.poll(**ELSEWHERE)
    outage.ended(missed + 1)
    outage.poll(**ELSEWHERE)
    outage.ended(2 * missed)
    assert len(outage.place.tasks()) == len(numbers)
    assert len({each.guid for each in outage.log if each.status == "OK"}) == missed


def test_without_the_right_there_is_a_warning_and_the_search_finds_the_item(outage: Outage) -> None:
    outage.system.put_label(1)
    outage.ended(1)
    program = outage.poll(BOT_TOKEN)
    assert "the token needs the permission Webhooks, read and write" in program.text()
    assert len(outage.log) == 1
    [task] = outage.place.tasks().values()
    assert task["spec"]["trigger"]["origin"] == "poll"


def test_a_webhook_with_another_address_is_left_alone(outage: Outage) -> None:
    outage.system.put_label(1)
    outage.ended(1)
    outage.url = "https://hooks.example.com/webhook/github"
    program = outage.poll(**ELSEWHERE)
    assert "acme/pricing has no active webhook to https://hooks.example.com/webhook/github" in program.text()
    assert len(outage.log) == 1
