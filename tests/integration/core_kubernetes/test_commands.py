"""Commands in comments are stored on AgentTasks, exactly once, with the receiver's own rights."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.commands import CommandStored, IssueCommand, stored_commands
from coding_agent_core.task.model import CommandName, Item, Origin, TaskRequest, Trigger

from tests.integration.core_kubernetes.events import now
from tests.integration.core_kubernetes.place import Place
from tests.integration.core_kubernetes.test_exactly_once import item

CANCEL, RETRY, RUN = CommandName


@pytest_asyncio.fixture
async def sinks(place: Place) -> AsyncIterator[list[KubernetesSink]]:
    """Three receivers' queues."""
    access = Access(str(place.account()))
    # More time than a receiver has: what is stored is tried here, not how quickly.
    made = [KubernetesSink(access, place.namespace, Consumer(), total_timeout=60) for _ in range(3)]
    yield made
    for entry in made:
        await entry.aclose()


def command(name: CommandName, comment: int, of: Item, *, user: str = "alice") -> IssueCommand:
    return IssueCommand(
        item=of,
        name=name,
        comment=str(comment),
        user=user,
        at=now(),
        delivery_id=f"d-{comment}",
        received_at=now(),
        title="It is broken",
        url="https://github.com/octo-org/octo-repo/issues/1",
    )


def labeled(of: Item, delivery: str) -> TaskRequest:
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id=delivery, labeled_at=now(), received_at=now())
    return TaskRequest(item=of, user="bob", trigger=trigger)


async def test_a_task_for_a_label_is_not_the_run_of_a_command_whatever_its_delivery(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    """A thief of the receiver's token could otherwise keep somebody's command from being executed."""
    sink, given = sinks[0], command(RUN, 9, item(2))
    name = (await sink.submit(labeled(item(2), given.trigger_id))).task
    assert await sink.command(given) == CommandStored(name)
    place.end(name, succeeded=False)
    submission = await sink.submit(given.request(None))
    assert (submission.task, submission.duplicate) == (f"{name}-r2", None)
    assert (await sink.submit(given.request(None))).duplicate == "it had its run", "the decoy"


async def test_commands_sent_to_three_receivers_at_once_are_each_stored_once(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    name = (await sinks[0].submit(labeled(item(1), "a"))).task
    told = [command(RUN, comment, item(1), user=f"u{comment}") for comment in range(1, 8)]
    answers = await asyncio.gather(*(sink.command(candidate) for candidate in told for sink in sinks))
    assert answers.count(CommandStored(name)) == len(told)
    assert sorted(found.comment for found in stored_commands(AgentTask.of(place.task(name)))) == [
        entry.comment for entry in told
    ]
