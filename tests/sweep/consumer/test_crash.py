"""A queue's consumer is killed with SIGKILL after each request that shows a task's end; all signs agree."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger, new_uuid
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_testbed.until import until
from pika.exceptions import ChannelClosedByBroker

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, Program, StartSystem, System
from tests.integration.core_queues.steps import Queue
from tests.integration.main_job.scripts import finish, run, script
from tests.integration.operator.crash_proxy import CrashProxy

pytestmark = pytest.mark.timeout(600)
FLOW = {BOT, PROCESSING, DONE}
EDIT = {
    "github": "PATCH /api/v3/repos/acme/pricing/issues/comments/",
    "gitlab": r"PUT /api/v4/projects/\d+/issues/\d+/notes/",
}
"""The first such request of a task shows its end: its start creates the comment."""


@dataclass(frozen=True)
class Case:
    """An end: what the model does, and what shows it."""

    scripts: list[Any]
    headline: str
    labels: frozenset[str] = frozenset()
    dead: int = 0
    cancelled: bool = False


CASES = {
    "success": Case(script(finish("Nothing to do.")), "nothing to change", frozenset({DONE})),
    "failure": Case(script(finish("It cannot be done.", status="cannot")), "failed", dead=1),
    "cancelled": Case(script(run("sleep 600")), "cancelled", cancelled=True),
}


class Stage:
    """A system whose consumer reaches the forge through a proxy; plays one task after another."""

    def __init__(self, system: System, proxy: CrashProxy, queue: Queue) -> None:
        self.system, self.proxy, self.queue = system, proxy, queue
        self._consumer: Program | None = None

    def play(self, case: Case, fatal: int) -> tuple[str, frozenset[str], int, int]:
        """Headline, labels, dead letters and messages at a task's end.

        The consumer dies after this request of those that show the end; 0: it does not.
        """
        number = self.system.forge.open_issue(REPOSITORY, "A bug", "Please.")
        self.proxy.arm(fatal, self._pid, since=EDIT[self.system.flavour])
        self._consumer = self.system.start_consumer()
        self.system.put_label(number)
        self._publish(number)
        if case.cancelled:
            until("the attempt runs", lambda: PROCESSING in self.system.labels(number))
            self.system.forge.remove_label(REPOSITORY, number, PROCESSING)
        if fatal:
            assert self.proxy.killed.wait(120), self._consumer.text()[-4000:]
            self.proxy.disarm()
            until("the broker has the message again", lambda: self.queue.ready() == 1)
            self._consumer = self.system.start_consumer()
        self.queue.put(b"not a task")
        self._wait_until_rejected()
        assert self._consumer.terminate() == 0
        [comment] = self.system.comments(number)
        headline = comment.body.splitlines()[0].strip("*").removeprefix("Coding agent: ")
        dead = sum(body != b"not a task" for _, body in self.queue.get_all(".dead"))
        return headline, frozenset(self.system.labels(number) & FLOW), dead, self.queue.ready()

    def _wait_until_rejected(self) -> None:
        """The consumer has one message at a time: a later one shows that the task is settled."""

        def is_rejected() -> bool:
            with self.queue.channel() as channel:
                queue = self.queue.name + ".dead"
                bodies = []
                try:
                    while (found := channel.basic_get(queue))[0] is not None:
                        bodies.append(found[2])
                except ChannelClosedByBroker as error:
                    if error.reply_code != 404:
                        raise
                    return False  # the consumer declares this queue when it has started
                return b"not a task" in bodies  # without an acknowledgement they stay

        until(lambda: f"the task is settled: {self._consumer and self._consumer.text()[-4000:]}", is_rejected)

    def _pid(self) -> int:
        assert self._consumer is not None
        return self._consumer.process.pid

    def _publish(self, number: int) -> None:
        """The message alone, without a notice: a sign that the task waits would be one more edit."""
        platform = Platform(self.system.flavour)
        by_id = platform is Platform.GITLAB
        item = Item(
            platform=platform,
            host=self.proxy.url.removeprefix("http://"),
            repository=REPOSITORY,
            kind=ItemKind.ISSUE,
            number=number,
            project_id=self.system.forge.repository(REPOSITORY).id if by_id else None,
        )
        trigger = Trigger(origin=Origin.WEBHOOK, received_at=datetime.now(UTC))
        request = TaskRequest(item=item, user="alice", trigger=trigger)
        self.queue.put(json.dumps(QueuedTask(request=request, uuid=new_uuid()).to_message()).encode())


@pytest.mark.parametrize(
    ("flavour", "name"), [("github", "success"), ("github", "failure"), ("gitlab", "cancelled")]
)
def test_killed_after_every_request_that_shows_the_end(
    start_system: StartSystem, rabbitmq: Broker, rabbitmq_queue: str, flavour: str, name: str
) -> None:
    case = CASES[name]
    broker = {"host": rabbitmq.host, "port": rabbitmq.port, "queue": rabbitmq_queue, "heartbeat": 5}
    system = start_system(flavour, case.scripts, use_rabbitmq=True, rabbitmq=broker)
    expected = (case.headline, case.labels, case.dead, 0)
    with CrashProxy(system.forge.base_url) as proxy:
        system.sections[flavour] = {"api_url": system.forge.api_url.replace(system.forge.base_url, proxy.url)}
        stage = Stage(system, proxy, Queue(rabbitmq, rabbitmq_queue))
        assert stage.play(case, 0) == expected
        requests = list(proxy.requests)
        assert 2 <= len(requests) < 10, requests
        ends = {number: stage.play(case, number) for number in range(1, len(requests) + 1)}
        assert {number: end for number, end in ends.items() if end != expected} == {}
        system.close()
