"""An item's events as the sandbox forges and our clients of them show them."""

import asyncio

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.item_history import ItemAction, Position
from coding_agent_core.task.labels import wishes

from tests.fixtures.forge import REPOSITORY, admin
from tests.fixtures.hook_receiver import HookReceiver
from tests.integration.forges.conftest import LABEL, World

ON, OFF, CLOSED, REOPENED = ItemAction


async def test_what_people_do_is_in_the_order_of_the_forges_numbers(world: World) -> None:
    server = world.server

    def act() -> None:
        server.add_label(REPOSITORY, 1, LABEL, by="alice")
        server.set_clock(-3600.0)
        server.close(REPOSITORY, 1, by="alice")
        server.reopen(REPOSITORY, 1, by="alice")
        server.set_clock(0.0)
        server.remove_label(REPOSITORY, 1, LABEL, by="alice")
        server.add_label(REPOSITORY, 1, LABEL, by="alice")

    await asyncio.to_thread(act)
    history = await world.forge.item_history(world.issue, None)
    labels = [event for event in history.events if event.label]
    states = [event for event in history.events if not event.label]
    for events in (labels, states):
        assert [event.id for event in events] == sorted({event.id for event in events})
    assert [event.action for event in labels] == [ON, OFF, ON]
    assert [event.action for event in states] == [CLOSED, REOPENED]
    assert {event.user for event in history.events} == {"alice"}
    assert LABEL in history.present
    assert (history.open, history.complete) == (True, True)
    middle = Position((labels[1].id,)).after(states[1])
    again = await world.forge.item_history(world.issue, middle)
    assert wishes(again, middle).application == labels[2]
    assert wishes(again, again.position()).application is None
    own_numbers = {event.series for event in states} == {1} and states[0].id < labels[0].id
    assert own_numbers == (world.platform is Platform.GITLAB)


async def test_a_merged_change_is_closed(world: World) -> None:
    change = await world.change()
    await world.forge.add_label(change, LABEL)
    await asyncio.to_thread(world.server.merge, REPOSITORY, change.number, by="alice")
    history = await world.forge.item_history(change, None)
    assert [event.action for event in history.events][:2] == [ON, CLOSED]
    assert not history.open
    assert change.kind is ItemKind.CHANGE


async def test_a_history_can_be_behind_the_item_and_its_webhook(
    world: World, hook_receiver: HookReceiver
) -> None:
    with admin(world.server) as sandbox:
        settings = {"late_seconds": [3600, 3600]}
        sandbox.put("/history-settings", json=settings).raise_for_status()
    await asyncio.to_thread(world.server.add_hook, REPOSITORY, hook_receiver.url)
    await asyncio.to_thread(world.server.add_label, REPOSITORY, 1, LABEL, by="alice")
    await asyncio.to_thread(hook_receiver.wait_for_count, 1)
    history = await world.forge.item_history(world.issue, Position())
    assert LABEL in history.present
    assert history.events == ()
    assert wishes(history, Position()).application is None, "somebody must read it again"

    await asyncio.to_thread(world.server.set_history, second_read=1.0)
    assert (await world.forge.item_history(world.issue, Position())).events == ()
    [event] = (await world.forge.item_history(world.issue, Position())).events
    assert (event.action, event.label, event.user) == (ON, LABEL, "alice")
