"""B4: what GitHub sent while no receiver was there is sent again by the poll, and makes one task at most."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.runs import stored_rescan
from coding_agent_testbed.until import until

from tests.fixtures.deliveries import SECRET
from tests.fixtures.system import BOT, BOT_TOKEN, REPOSITORY, Program, StartSystem, System
from tests.integration.core_kubernetes.place import Place

ADMIN = "alice-token"
ELSEWHERE = {"assignee": "reader"}
"""A scope of the search that does not have our items: what is found then, was sent again."""


class Door:
    """The address of the webhook, which stays whatever happens to receivers; without one it hangs up.

    A killed receiver's own port may be another program's a moment later.
    """

    def __init__(self) -> None:
        self.receiver: Program | None = None
        door = self

        class Forward(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.close_connection = True
                if door.receiver is None:
                    return
                url = f"http://127.0.0.1:{door.receiver.port()}{self.path}"
                answer = httpx2.post(url, content=body, headers=dict(self.headers), timeout=60)
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhook/github"

    def __enter__(self) -> Door:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Outage:
    """A repository whose webhook sends to where no receiver is."""

    place: Place
    system: System
    door: Door
    url: str

    @property
    def log(self) -> list[Any]:
        """The webhook's deliveries."""
        return self.system.forge.sandbox.deliveries.log

    def label(self, number: int) -> None:
        """A person labels an issue, and no receiver is there."""
        self.system.forge.add_label(REPOSITORY, number, BOT)

    def ended(self, count: int) -> None:
        """Wait until so many deliveries have ended."""

        def ended() -> list[str]:
            return [entry.status for entry in self.log if entry.status != "pending"]

        until(lambda: f"{count} deliveries, there are {ended()}", lambda: len(ended()) == count)

    def receiver(self) -> Program:
        """The receiver is back, at the same address."""
        program = self.place.start_receiver(self.place.account(), forge=self.forge())
        self.system.programs.append(program)
        ready = f"http://127.0.0.1:{program.port()}/readyz"
        until("readiness", lambda: httpx2.get(ready, timeout=60).status_code == 200, timeout=60)
        self.door.receiver = program
        return program

    def kill(self, receiver: Program) -> None:
        """The receiver dies."""
        self.door.receiver = None
        receiver.kill()

    def poll(self, token: str = ADMIN, **github: Any) -> Program:
        """Poll once, to its end."""
        program = self.start_poll(token, **github)
        assert program.process.wait(120) == 0, program.text()
        return program

    def start_poll(self, token: str = ADMIN, **github: Any) -> Program:
        """Poll once."""
        redelivery = {"repositories": [REPOSITORY], "webhook_url": self.url}
        self.system.sections = {"github": {"redelivery": redelivery, **github}}
        environment = self.place.environment(self.place.account())
        return self.system.start("--mode", "producer", GITHUB_PERSONAL_ACCESS_TOKEN=token, **environment)

    def forge(self) -> dict[str, Any]:
        """Settings of the forge."""
        return {"github": {"api_url": self.system.forge.api_url}}


@pytest.fixture
def outage(place: Place, start_system: StartSystem) -> Iterator[Outage]:
    system = start_system("github", [])
    with Door() as door:
        system.forge.add_hook(REPOSITORY, door.url, SECRET)
        yield Outage(place, system, door, door.url)


def test_a_missed_label_becomes_one_task_though_no_search_finds_it(outage: Outage) -> None:
    outage.label(1)
    outage.ended(1)
    outage.poll(**ELSEWHERE)  # nobody is there yet: it is a probe, and fails
    outage.ended(2)
    assert outage.place.tasks() == {}
    outage.receiver()
    program = outage.poll(**ELSEWHERE)
    outage.ended(3)
    assert "Asked for the redelivery of a missed event: issues" in program.text()
    [task] = outage.place.tasks().values()
    assert task["spec"]["trigger"]["origin"] == "webhook"
    assert task["spec"]["trigger"]["deliveryID"] == outage.log[0].guid
    outage.poll()
    assert len(outage.log) == 3, "what was taken is not asked for again"
    assert len(outage.place.tasks()) == 1


def test_a_missed_removal_of_the_label_reaches_the_task(outage: Outage) -> None:
    receiver = outage.receiver()
    outage.system.put_label(1)
    outage.ended(1)
    [name] = outage.place.tasks()
    outage.kill(receiver)
    outage.system.forge.remove_label(REPOSITORY, 1, BOT)
    outage.ended(2)
    outage.receiver()
    outage.poll()
    outage.ended(3)
    rescan = stored_rescan(AgentTask.of(outage.place.task(name)))
    assert rescan is not None
    assert rescan.labels, "the reporter reads the item"


def test_a_label_that_was_taken_off_meanwhile_makes_no_task(outage: Outage) -> None:
    outage.label(1)
    outage.ended(1)
    outage.receiver()
    outage.system.forge.remove_label(REPOSITORY, 1, BOT, by="triager")  # not the poller's own account
    outage.ended(2)
    outage.poll()
    assert len(outage.log) == 2
    assert outage.place.tasks() == {}


@pytest.mark.long
def test_fifty_labels_while_no_receiver_was_there_become_fifty_tasks(outage: Outage) -> None:
    """What was missed for five minutes is sent again and found by the label search at the same time."""
    forge, everything = outage.system.forge, range(1, 51)
    receiver = outage.receiver()
    forge.set_clock(-600)
    for number in everything[1:]:
        assert forge.open_issue(REPOSITORY, f"Issue {number}") == number
    opened = len(everything) - 1
    outage.ended(opened)
    outage.kill(receiver)
    forge.set_clock(-300)
    for number in everything:
        outage.label(number)
    outage.ended(opened + len(everything))
    forge.set_clock(0)
    missed = {entry.guid for entry in outage.log[opened:]}
    assert not any(entry.status_code == 200 for entry in outage.log[opened:])
    outage.receiver()
    outage.poll(**ELSEWHERE)  # one probe shows that a receiver is back
    outage.ended(opened + len(everything) + 1)  # only then the forge's log shows it to the next poll
    assert len(outage.place.tasks()) == 1, "the probe's task"
    again, search = outage.start_poll(**ELSEWHERE), outage.start_poll()
    for poll in (again, search):
        assert poll.process.wait(120) == 0, poll.text()
    assert {entry.guid for entry in outage.log if entry.redelivery} == missed, "each was asked for again"

    def all_accepted() -> bool:
        """Whether none was lost. What a busy receiver has answered too late, the next poll asks for again."""
        outage.ended(len(outage.log))
        if missed <= {entry.guid for entry in outage.log if entry.status_code == 200}:
            return True
        outage.poll(**ELSEWHERE)
        return False

    until("the forge's log shows no event that was lost", all_accepted)
    specs = [task["spec"] for task in outage.place.tasks().values()]
    assert sorted(spec["source"]["number"] for spec in specs) == list(everything)
    assert {spec["run"] for spec in specs} == {1}
    before = len(outage.log)
    outage.poll()
    assert (len(outage.log), len(outage.place.tasks())) == (before, len(everything))


def test_without_the_right_there_is_a_warning_and_the_search_finds_the_item(outage: Outage) -> None:
    outage.label(1)
    outage.ended(1)
    program = outage.poll(BOT_TOKEN)
    assert "the token needs the permission Webhooks (read and write)" in program.text()
    assert len(outage.log) == 1
    [task] = outage.place.tasks().values()
    assert task["spec"]["trigger"]["origin"] == "poll"
