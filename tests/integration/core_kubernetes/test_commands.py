"""Commands in comments are stored on AgentTasks, exactly once, with the receiver's own rights."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from coding_agent_core.agenttask import AgentTask
from coding_agent_core.issue_commands import (
    LIMIT_PER_NAME,
    CommandIgnored,
    CommandName,
    CommandStored,
    IssueCommand,
    stored_commands,
)
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

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


async def test_a_command_is_stored_on_the_newest_run(place: Place, sinks: list[KubernetesSink]) -> None:
    first = (await sinks[0].submit(labeled(item(1), "a"))).task
    place.end(first, succeeded=False)
    told = [command(CANCEL, 1, item(1)), command(RETRY, 2, item(1)), command(RUN, 3, item(1))]
    answers = [await sinks[0].command(entry) for entry in told]
    assert answers == [CommandStored(first)] * 3
    # Another delivery of the same comment, e.g. by the organization's webhook beside the repository's.
    again = await sinks[1].command(told[0].model_copy(update={"delivery_id": "other"}))
    assert isinstance(again, CommandIgnored)
    stored = stored_commands(AgentTask.of(place.task(first)))
    assert [(found.name, found.comment, found.delivery_id) for found in stored] == [
        (CANCEL, "1", "d-1"),
        (RETRY, "2", "d-2"),
        (RUN, "3", "d-3"),
    ]


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


async def test_many_comments_by_strangers_are_never_an_error_and_a_cancel_is_stored(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    name = (await sinks[0].submit(labeled(item(1), "a"))).task
    mine = await sinks[0].command(command(RUN, 1, item(1)))
    for comment in range(2, LIMIT_PER_NAME + 12):
        await sinks[0].command(command(RUN, comment, item(1), user=f"stranger-{comment}"))
    assert await sinks[0].command(command(CANCEL, 99, item(1))) == mine == CommandStored(name)
    stored = [entry.comment for entry in stored_commands(AgentTask.of(place.task(name)))]
    assert (stored[0], stored[-1], len(stored)) == ("1", "99", LIMIT_PER_NAME + 1)
