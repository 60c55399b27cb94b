"""Somebody who may do so edits our comment: what later decisions read of it, on both forges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import Report, State, comment, read_state
from coding_agent_core.rounds.scan import ChangeScans
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.model import Item, Phase, identity_hash
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.hidden_line import HiddenLines

from tests.fixtures.forge import REPOSITORY
from tests.integration.forges.conftest import World

KEY, OLD = "k" * 32, "o" * 32
RENAMED = "acme/costs"
AT = datetime(2026, 12, 1, tzinfo=UTC)
STATE = State(uuid="u", phase=Phase.RUNNING, user="bob", rounds=RoundRecord())


def body(item: Item, state: State) -> str:
    report = Report(task="t", item=item, labels=Labels(), state=state, max_attempts=3, since=AT)
    return comment(report)


class Signing:
    """A world in which our client signs the hidden lines of its comments."""

    def __init__(self, world: World, keys: list[str]) -> None:
        self.world = world
        self.settings = world.settings.model_copy(
            update={"comment_key": Settings.model_validate({"comment_key": keys}).comment_key}
        )
        self.forge: Forge = connect_forge(
            self.settings, world.platform, clock=Clock(sleep=lambda _: asyncio.sleep(0))
        )

    def bodies(self, item: Item) -> list[str]:
        """Our comments as everybody sees them."""
        found = self.world.server.item(REPOSITORY, item.number, item.kind.value)
        return [one.body for one in found.comments if MARKER in one.body]

    def edit(self, item: Item, text: str) -> None:
        """A person edits our comment."""
        found = self.world.server.item(REPOSITORY, item.number, item.kind.value)
        [ours] = [one for one in found.comments if MARKER in one.body]
        self.world.server.edit_comment(
            REPOSITORY, item.number, ours.id, text, kind=item.kind.value, by="alice"
        )

    async def write(self, item: Item, state: State = STATE) -> str:
        return (await self.forge.upsert_comment(item, MARKER, body(item, state))).body

    async def state(self, item: Item) -> State | None:
        found = await self.forge.find_comment(item, MARKER)
        assert found is not None, "it is still our comment"
        state = read_state(found.body)
        if item.kind is ItemKind.CHANGE:
            assert await self.looked(item) == state, "a look at the open changes sees the same"
        return state

    async def looked(self, item: Item) -> State | None:
        policy = Settings().rounds.policy(Labels())
        looks = ChangeScans(self.forge, policy, lambda *_: 0.0, lambda: 0.0)
        [listed] = (await self.forge.open_changes()).snapshots
        state = await looks.state(identity_hash(item.identity), listed)
        assert await looks.state(identity_hash(item.identity), await self.forge.snapshot(item)) == state
        return state


@pytest.fixture
async def signing(world: World) -> AsyncIterator[Signing]:
    found = Signing(world, [KEY])
    yield found
    await found.forge.aclose()


@pytest.mark.parametrize("kind", list(ItemKind))
async def test_a_state_that_a_person_wrote_counts_as_absent(
    signing: Signing, kind: ItemKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "coding_agent.forge")
    item = await signing.world.some(kind)
    written = await signing.write(item)
    assert (read_state(written), await signing.state(item)) == (STATE, STATE)
    [public] = signing.bodies(item)
    signing.edit(item, public.replace('"bob"', '"admin"'))
    assert [await signing.state(item) for _ in range(3)] == [None] * 3
    [line] = caplog.records
    assert item.display in line.getMessage()
    assert await signing.write(item) == written
    assert signing.bodies(item) == [public], "our comment is overwritten, and there is no second one"
    assert await signing.state(item) == STATE


async def test_a_line_that_was_copied_from_another_item_counts_as_absent(signing: Signing) -> None:
    issue, change = signing.world.issue, await signing.world.change()
    await signing.write(issue, STATE.model_copy(update={"user": "admin"}))
    await signing.write(change)
    signing.edit(change, signing.bodies(issue)[0])
    assert await signing.state(change) is None


async def test_a_line_of_another_repository_counts_as_absent(signing: Signing) -> None:
    server, item = signing.world.server, await signing.world.change()
    bot = await signing.forge.whoami()
    fork = server.fork(REPOSITORY, "mallory", roles={bot: server.repository(REPOSITORY).roles[bot]})
    there = item.model_copy(update={"repository": fork.full_name, "project_id": item.project_id and fork.id})
    await signing.write(item)
    lines = HiddenLines(Secrets(signing.settings.comment_key))
    signing.edit(item, lines.signed(there, body(item, STATE)))
    assert await signing.state(item) is None
    server.delete(fork.full_name)
    assert await signing.state(item) is None


async def test_a_line_counts_after_its_repository_was_renamed(signing: Signing) -> None:
    item = signing.world.issue
    await signing.write(item)
    await asyncio.to_thread(signing.world.server.rename, REPOSITORY, RENAMED)
    renamed = item.model_copy(update={"repository": RENAMED})
    assert await signing.state(renamed) == STATE
    assert await signing.state(item) == STATE, "the task still has the old name"


async def test_a_new_key_signs_while_the_old_one_still_counts(world: World) -> None:
    item, old = world.issue, Signing(world, [OLD])
    await old.write(item)
    for keys, expected in (([KEY], None), ([KEY, OLD], STATE)):
        new = Signing(world, keys)
        assert await new.state(item) == expected
    await new.write(item, STATE.model_copy(update={"attempt": 2}))
    for known in (old, new):
        await known.forge.aclose()
    done = Signing(world, [KEY])
    assert (await done.state(item)) == STATE.model_copy(update={"attempt": 2})
    await done.forge.aclose()


async def test_the_first_key_meets_comments_that_are_not_signed(world: World, signing: Signing) -> None:
    item, unsigned = world.issue, body(world.issue, STATE)
    await world.forge.upsert_comment(item, MARKER, unsigned)
    assert signing.bodies(item) == [unsigned], "without a key, nothing is signed"
    assert await signing.state(item) is None
    await signing.forge.upsert_comment(item, MARKER, unsigned)
    assert await signing.state(item) == STATE
    assert len(signing.bodies(item)) == 1


async def test_replies_are_not_signed(signing: Signing) -> None:
    item, mark = signing.world.issue, "<!-- coding-agent:answers t1 -->"
    written: Any = await signing.forge.upsert_comment(item, mark, f"{mark}\nDone.")
    assert written.body == f"{mark}\nDone."
