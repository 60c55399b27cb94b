"""Commands in comments are kept on AgentTasks, exactly once, with the receiver's own rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from coding_agent_core.command_notes import LIMIT, TooManyCommandsError, is_mailbox, noted_on
from coding_agent_core.commands import CommandName, IssueCommand
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.queues.protocol import Kept
from coding_agent_core.settings.attempts import Consumer
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger, task_name

from tests.integration.core_kubernetes.events import now
from tests.integration.core_kubernetes.place import Place
from tests.integration.core_kubernetes.test_exactly_once import item

CANCEL, RUN, STATUS = CommandName.CANCEL, CommandName.RUN, CommandName.STATUS


@pytest_asyncio.fixture
async def sinks(place: Place) -> AsyncIterator[list[KubernetesSink]]:
    """Three receivers' queues."""
    access = Access(str(place.account()))
    made = [KubernetesSink(access, place.namespace, Consumer()) for _ in range(3)]
    yield made
    for each in made:
        await each.aclose()


def command(name: CommandName, comment: int, of: Item, delivery: str = "") -> IssueCommand:
    return IssueCommand(
        item=of,
        name=name,
        comment=str(comment),
        user="alice",
        at=now(),
        delivery_id=delivery or f"d-{comment}",
        received_at=now(),
        title="It is broken",
        url="https://github.com/octo-org/octo-repo/issues/1",
    )


def labeled(of: Item, delivery: str) -> TaskRequest:
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id=delivery, labeled_at=now(), received_at=now())
    return TaskRequest(item=of, user="bob", trigger=trigger)


async def test_a_command_is_noted_on_the_newest_run(place: Place, sinks: list[KubernetesSink]) -> None:
    first = (await sinks[0].submit(labeled(item(1), "a"))).task
    place.end(first, succeeded=False)
    told = [command(CANCEL, 1, item(1)), command(STATUS, 2, item(1)), command(RUN, 3, item(1))]
    kept = [await sinks[0].command(each) for each in told]
    assert kept == [Kept(first), Kept(first), Kept(first)]
    # another delivery tells of the same comment, e.g. the organisation's webhook beside the repository's
    assert await sinks[1].command(command(CANCEL, 1, item(1), "other")) == Kept(first, duplicate=True)
    noted = noted_on(place.task(first))
    assert [(each.command, each.comment, each.id) for each in noted] == [
        (CANCEL, "1", "d-1"),
        (STATUS, "2", "d-2"),
        (RUN, "3", "d-3"),
    ]


async def test_commands_told_to_three_receivers_at_once_are_each_kept_once(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    name = (await sinks[0].submit(labeled(item(1), "a"))).task
    told = [command(STATUS, comment, item(1)) for comment in range(1, 8)]
    answers = await asyncio.gather(*(sink.command(each) for each in told for sink in sinks))
    assert sum(each is not None and not each.duplicate for each in answers) == len(told)
    assert sorted(each.comment for each in noted_on(place.task(name))) == [each.comment for each in told]


async def test_run_on_an_item_without_a_task_waits_in_a_mailbox(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    assert await sinks[0].command(command(CANCEL, 1, item(1))) is None, "there is nothing to cancel"
    assert place.tasks() == {}
    box = f"{task_name(item(1))}-mailbox"
    answers = await asyncio.gather(*(sink.command(command(RUN, 2, item(1))) for sink in sinks))
    assert sorted(each.duplicate for each in answers if each is not None) == [False, True, True]
    assert await sinks[0].command(command(CANCEL, 3, item(1))) == Kept(box)
    assert [each.comment for each in noted_on(place.task(box))] == ["2", "3"]
    assert is_mailbox(place.task(box))

    # The label makes its run as if nothing were there, and what comes then is noted on that.
    run = (await sinks[0].submit(labeled(item(1), "a"))).task
    assert run == task_name(item(1))
    assert place.task(run)["spec"]["user"] == "bob"
    assert await sinks[0].command(command(STATUS, 4, item(1))) == Kept(run)
    assert await sinks[0].command(command(RUN, 2, item(1))) == Kept(box, duplicate=True)


async def test_a_run_that_a_command_made_answers_for_it(place: Place, sinks: list[KubernetesSink]) -> None:
    asked = command(RUN, 1, item(1))
    made = await sinks[0].submit(asked.request())
    assert made.duplicate is None
    assert (await sinks[0].submit(asked.request())).duplicate is not None
    assert await sinks[0].command(asked) == Kept(made.task, duplicate=True)


async def test_more_than_can_be_kept_is_refused_and_not_lost_silently(
    place: Place, sinks: list[KubernetesSink]
) -> None:
    await sinks[0].submit(labeled(item(1), "a"))
    for comment in range(LIMIT):
        await sinks[0].command(command(STATUS, comment + 1, item(1)))
    with pytest.raises(TooManyCommandsError):
        await sinks[0].command(command(STATUS, 99, item(1)))
