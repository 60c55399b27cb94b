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
from coding_agent_core.task.item_history import Position
from coding_agent_core.task.model import Item, Origin, Submission, TaskRequest, Trigger, task_name
from coding_agent_core.task.runs import stored_rescan

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
    sink = KubernetesSink(Access(str(place.account())), place.namespace, Consumer(), total_timeout=60)
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


def label_request(number: int) -> TaskRequest:
    return TaskRequest(item=item(number), trigger=Trigger(origin=Origin.POLL, received_at=now()))


def is_to_be_read(place: Place, of: Item, run: int = 1) -> bool:
    """Whether the reporter is asked to read the item of this run."""
    rescan = stored_rescan(AgentTask.of(place.task(task_name(of, run))))
    return rescan is not None and rescan.labels


async def next_runs(place: Place, number: int) -> list[Submission]:
    """What several reporters get which have read the same item at the same moment."""
    sinks = [
        KubernetesSink(Access(str(place.account())), place.namespace, Consumer(), total_timeout=60)
        for _ in range(3)
    ]
    try:
        asked = [sink.submit_next(label_request(number), Position((5,))) for sink in sinks for _ in range(2)]
        return list(await asyncio.gather(*asked))
    finally:
        for sink in sinks:
            await sink.aclose()


async def test_each_relabel_is_one_new_run_after_success_after_failure_and_after_a_cancel(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
) -> None:
    ports = [start_receiver().port() for _ in range(2)]

    async def label(number: int, delivery: str, seconds: float) -> dict[str, int]:
        event = Labeling(number, delivery, now(seconds))
        answers = await asyncio.gather(*(event.send(http, port) for port in ports for _ in range(3)))
        return dict(results(answers))

    for number in (1, 2, 3):
        assert await label(number, f"first-{number}", -60) == {"success": 1, "duplicate": 5}
    place.end(task_name(item(1)), succeeded=True)
    place.end(task_name(item(2)), succeeded=False)
    place.cancel(task_name(item(3)))
    for number in (1, 2, 3):
        place.read_item(task_name(item(number)))
        assert await label(number, f"second-{number}", 60) == {"duplicate": 6}
        assert is_to_be_read(place, item(number)), "the item's history says whether that is a new run"
    assert {entry.duplicate is None for entry in await next_runs(place, 3)} == {False}, "run 3 has not ended"
    place.end(task_name(item(3)), succeeded=False)
    for number in (1, 2, 3):
        created = await next_runs(place, number)
        assert [entry.duplicate for entry in created].count(None) == 1
        assert {entry.task for entry in created} == {task_name(item(number), 2)}
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
    place.create({**manifest(label_request(8), run=1), "metadata": {"name": name}})
    ports = [start_receiver().port() for _ in range(2)]
    event = Labeling(7, "label-2", now())
    answers = await asyncio.gather(*(event.send(http, port) for port in ports for _ in range(3)))
    assert results(answers) == {"success": 1, "duplicate": 5}
    assert {answer.json()["task"] for answer in answers} == {task_name(item(7), 2)}
    place.end(task_name(item(7), 2), succeeded=True)
    created = await next_runs(place, 7)
    assert [entry.duplicate for entry in created].count(None) == 1
    numbers = {name: AgentTask.of(body).spec.item.number for name, body in place.tasks().items()}
    assert numbers == {name: 8, task_name(item(7), 2): 7, task_name(item(7), 3): 7}
