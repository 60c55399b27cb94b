"""Each application of the label becomes exactly one AgentTask, whoever brings it and how often."""

import asyncio
import random
from collections.abc import Callable

import httpx2
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.model import Item, Origin, Submission, TaskRequest, Trigger, task_name

from tests.fixtures.deliveries import issue
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import Place

TRIES = 5
EVENTS = 80


def item(number: int) -> Item:
    return issue(number, "octo-org/octo-repo")


async def test_many_events_delivered_up_to_4_times_to_two_receivers_amid_polls(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
) -> None:
    ports = [start_receiver().port() for _ in range(2)]
    chance = random.Random(5)
    labeled = now(-1)
    events = [Labeling(number, f"d-{number}", labeled) for number in range(1, EVENTS + 1)]
    polled = chance.sample(range(1, EVENTS + 1), 30)
    polled_first = set(polled[:3])
    sink = KubernetesSink(Access(str(place.account())), place.namespace, Consumer())
    answers: list[httpx2.Response] = []
    by_poll: list[Submission] = []
    refused = 0

    async def deliver(event: Labeling) -> None:
        """To any of the receivers; a 503 is sent again, as by GitHub's redelivery."""
        nonlocal refused
        for _ in range(TRIES):
            answer = await event.send(http, chance.choice(ports))
            if answer.status_code != 503:
                break
            refused += 1
        answers.append(answer)

    async def poll(number: int) -> None:
        """As a poll that finds the item; the next one finds it again."""
        nonlocal refused
        request = TaskRequest(item=item(number), trigger=Trigger(origin=Origin.POLL, received_at=now()))
        for _ in range(TRIES):
            try:
                by_poll.append(await sink.submit(request))
            except QueueUnavailableError:
                refused += 1
            else:
                return

    async def bring(event: Labeling) -> None:
        """All who bring the event do so at the same moment, except where the poll comes first."""
        async with gate:
            if event.number in polled_first:
                await poll(event.number)
            copies = [deliver(event) for _ in range(chance.randint(1, 4))]
            races = event.number in polled and event.number not in polled_first
            await asyncio.gather(*copies, *([poll(event.number)] if races else []))

    gate = asyncio.Semaphore(8)
    async with asyncio.TaskGroup() as group:
        for event in events:
            group.create_task(bring(event))
    await sink.aclose()

    told = results(answers)
    assert set(told) == {"success", "duplicate"}, told
    assert len(by_poll) == len(polled)
    created_by_poll = sum(entry.duplicate is None for entry in by_poll)
    # A refused request may have been stored, like a request whose answer is lost: the next is a duplicate.
    assert created_by_poll >= len(polled_first) - refused
    assert EVENTS - refused <= told["success"] + created_by_poll <= EVENTS
    names = sorted(place.tasks())
    assert names == sorted(task_name(item(number)) for number in range(1, EVENTS + 1))
    assert {answer.json()["task"] for answer in answers} | {found.task for found in by_poll} == set(names)


async def test_each_relabel_is_one_new_run_after_success_after_failure_and_during_cancel(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
) -> None:
    ports = [start_receiver().port() for _ in range(2)]

    async def label(number: int, delivery: str, seconds: float) -> dict[str, int]:
        event = Labeling(number, delivery, now(seconds))
        answers = await asyncio.gather(*(event.send(http, port) for port in ports for _ in range(3)))
        return dict(results(answers))

    once = {"success": 1, "duplicate": 5}
    for number in (1, 2, 3):
        assert await label(number, f"first-{number}", -60) == once
    place.end(task_name(item(1)), succeeded=True)
    place.end(task_name(item(2)), succeeded=False)
    unlabel = Labeling(3, "unlabel-3", now(-30), "unlabeled")
    assert results([await unlabel.send(http, ports[0])]) == {"cancelled": 1}
    for number in (1, 2, 3):
        # Whoever sends the first delivery again gets no new run, and the new label gets one.
        assert await label(number, f"first-{number}", -60) == {"duplicate": 6}
        assert await label(number, f"second-{number}", 60) == once
        assert await label(number, f"second-{number}", 60) == {"duplicate": 6}
    runs = {
        name: (AgentTask.of(body).spec.run, AgentTask.of(body).spec.cancel)
        for name, body in place.tasks().items()
    }
    assert runs == {
        **{task_name(item(number)): (1, number == 3) for number in (1, 2, 3)},
        **{task_name(item(number), 2): (2, False) for number in (1, 2, 3)},
    }


async def test_an_item_whose_name_a_task_of_another_item_has_gets_its_task_all_the_same(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
) -> None:
    name = task_name(item(7))
    other = manifest(TaskRequest(item=item(8), trigger=Trigger(origin=Origin.POLL, received_at=now())), run=1)
    place.create({**other, "metadata": {"name": name}})
    ports = [start_receiver().port() for _ in range(2)]
    once = {"success": 1, "duplicate": 5}
    for run, seconds in ((2, 0), (3, 60)):
        event = Labeling(7, f"label-{run}", now(seconds))
        answers = await asyncio.gather(*(event.send(http, port) for port in ports for _ in range(3)))
        assert results(answers) == once
        assert {answer.json()["task"] for answer in answers} == {task_name(item(7), run)}
        place.end(task_name(item(7), run), succeeded=True)
    numbers = {name: AgentTask.of(body).spec.item.number for name, body in place.tasks().items()}
    assert numbers == {name: 8, task_name(item(7), 2): 7, task_name(item(7), 3): 7}
