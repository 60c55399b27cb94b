"""Rounds in a queue: the record of earlier rounds stays in the comment, whatever task works on the change."""

from collections.abc import Iterator

import pytest
from coding_agent_core.reporting import State, comment
from coding_agent_core.rounds.record import RoundEnd, RoundRecord, RoundResult, after
from coding_agent_core.tasks import Phase

from tests.unit.consumer.simulation import World
from tests.unit.core_reporting import making
from tests.unit.core_rounds.test_trigger import NEXT, NOW, REVIEW

RECORD = after(RoundRecord(), RoundResult(REVIEW, NOW, RoundEnd.PUSHED, NEXT))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def shows(world: World, state: State) -> None:
    """The item's comment has this hidden line."""
    world.item.write(comment(making.report(state)))


def test_a_task_that_a_label_asks_for_keeps_the_record(world: World) -> None:
    shows(world, State(uuid="earlier", phase=Phase.SUCCEEDED, rounds=RECORD))
    world.label()
    world.notices.set_free()
    world.sleep(5)
    seen = [world.item.state]
    world.calm_down()
    seen.append(world.item.state)
    assert [(one.phase, one.rounds) for one in seen if one] == [
        (Phase.QUEUED, RECORD),
        (Phase.SUCCEEDED, RECORD),
    ]
