"""When looks at our open changes are due, by what events have asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from coding_agent_core.errors import ForgeUnavailableError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.rounds.scan import ScanTimes
from coding_agent_core.task.model import Item

from tests.unit.core_rounds.making import change

ALL = 0
ISSUE = change().item.model_copy(update={"kind": ItemKind.ISSUE, "number": 7})


def numbered(number: int) -> Item:
    return change().item.model_copy(update={"number": number})


@dataclass
class World:
    """Does the looks that are due, as time passes.

    Attributes:
        done: the second of each look, with the number of its change; 0: all changes.
        early: the seconds after which time alone makes a round due on a change.
    """

    now: float = 0.0
    done: list[tuple[float, int]] = field(default_factory=list)
    early: dict[int, float] = field(default_factory=dict)
    broken: bool = False

    def __post_init__(self) -> None:
        self.times = ScanTimes(60.0, lambda: self.now)

    async def at_all(self) -> float:
        return await self._look(ALL, 60.0)

    async def at_one(self, item: Item) -> float:
        return await self._look(item.number, float("inf"))

    async def _look(self, number: int, wait: float) -> float:
        if self.broken:
            raise ForgeUnavailableError("It does not answer.")
        self.done.append((self.now, number))
        return self.early.get(number, wait)

    async def until(self, second: float) -> None:
        """Do all looks that are due before this second."""
        while self.now + self.times.wait() < second:
            self.now += self.times.wait()
            await self.times.run_due(self.at_all, self.at_one)
        self.now = second


async def test_an_event_looks_at_its_change_and_regular_looks_go_on() -> None:
    world = World()
    await world.until(10)
    world.times.ask(numbered(8))
    world.times.ask(numbered(8))
    world.times.ask(numbered(9))
    await world.until(121)
    assert world.done == [(0, ALL), (10, 8), (10, 9), (60, ALL), (120, ALL)]


async def test_an_event_that_names_only_the_issue_looks_at_all_changes() -> None:
    world = World()
    await world.until(10)
    world.times.ask(ISSUE)
    world.times.ask(numbered(8))
    await world.until(71)
    assert world.done == [(0, ALL), (10, ALL), (70, ALL)]


async def test_strangers_comments_cause_one_look_in_a_minute_and_none_is_lost() -> None:
    world = World()
    world.times.interval = 600.0
    await world.until(1)
    world.times.regular = 600.0
    for second in range(1, 120):
        world.times.ask(numbered(8), is_limited=True)
        await world.until(second + 1)
    assert world.done[1:] == [(1, 8), (61, 8)]
    await world.until(500)
    assert world.done[3:] == [(121, 8)], "the comments since second 61"


async def test_what_people_who_may_ask_write_is_not_put_off() -> None:
    world = World()
    world.times.interval = 600.0
    await world.until(1)
    world.times.regular = 600.0
    for is_limited in (True, True, False):
        world.times.ask(numbered(8), is_limited=is_limited)
        await world.until(world.now + 1)
    world.times.ask(numbered(9), is_limited=True)
    await world.until(599)
    assert world.done[1:] == [(1, 8), (3, 8), (4, 9)]


async def test_a_regular_look_does_what_was_put_off() -> None:
    world = World()
    await world.until(40)
    for _ in range(2):
        world.times.ask(numbered(8), is_limited=True)
        await world.until(world.now + 1)
    assert world.times.is_asked(numbered(8))
    await world.until(119)
    assert world.done == [(0, ALL), (40, 8), (60, ALL)]
    assert not world.times.is_asked(numbered(8))


async def test_nothing_is_kept_of_changes_on_which_strangers_wrote_long_ago() -> None:
    world = World()
    for number in range(1, 1000):
        world.times.ask(numbered(number), is_limited=True)
        await world.until(world.now + 1)
    assert len(world.times._limited_until) <= 61
    assert not world.times._asked


@pytest.mark.parametrize("item", [numbered(8), ISSUE])
async def test_a_look_that_failed_is_due_again(item: Item) -> None:
    world = World()
    await world.until(10)
    world.times.ask(item, is_limited=True)
    world.broken = True
    for _ in range(2):
        with pytest.raises(ForgeUnavailableError):
            await world.times.run_due(world.at_all, world.at_one)
        assert world.times.wait() == 0
    world.broken = False
    await world.until(11)
    assert world.done[1:] == [(10, 8 if item.kind is ItemKind.CHANGE else ALL)]


async def test_time_alone_makes_a_look_at_all_changes_due() -> None:
    world = World(early={8: 5.0})
    await world.until(10)
    world.times.ask(numbered(8))
    await world.until(12)
    assert world.times.is_early
    await world.until(20)
    assert world.done == [(0, ALL), (10, 8), (15, ALL)]
    assert not world.times.is_early


async def test_regular_looks_can_be_left_to_another_process() -> None:
    world = World()
    world.times.postpone()
    await world.until(10)
    world.times.ask(numbered(8))
    await world.until(61)
    assert world.done == [(10, 8), (60, ALL)]
