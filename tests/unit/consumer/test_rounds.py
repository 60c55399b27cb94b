"""Rounds in a queue: each cause has one, whatever happens, and their record stays in the comment."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from coding_agent_consumer.item import forge_tasks
from coding_agent_consumer.item.forge_tasks import ForgeTask
from coding_agent_core.reporting.comment import State, comment
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, RoundResult
from coding_agent_core.task.round_report import trigger_of
from coding_agent_core.task.usage import Usage
from coding_agent_forges.rest.forge import Forge

from tests.unit.consumer.simulation import BOT, DONE, PROCESSING, UNAVAILABLE, Process, World
from tests.unit.consumer.test_crash import reach
from tests.unit.core_reporting import making
from tests.unit.core_rounds.making import after, change
from tests.unit.core_task.test_stored_rounds import CHECKS, NEXT, NOW, REVIEW

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


def ends(world: World) -> list[tuple[str, str]]:
    """The rounds in the record, with their ends."""
    state = world.item.state
    assert state is not None
    record = state.rounds or RoundRecord()
    return [(one.kind, one.end) for one in record.rounds] + [("any", "superseded") for _ in record.superseded]


def working(world: World) -> Process:
    """The first consumer works on a round for failed checks."""
    world.publish_round(CHECKS)
    first: Process = world.consumers[0]
    reach(first, "clone")
    first.pass_one()
    return first


def test_two_messages_of_a_round_start_one(world: World) -> None:
    shows(world, State(uuid="earlier", phase=Phase.SUCCEEDED, rounds=RECORD))
    world.publish_round(CHECKS)
    world.publish_round(CHECKS)
    world.calm_down()
    world.publish_round(CHECKS)
    world.calm_down()
    assert len(world.attempts) == 1
    assert ends(world) == [("review", "pushed"), ("checks", "no push")]
    assert world.item.labels == {DONE}
    assert not world.broker.dead


@pytest.mark.parametrize("before", ["add_label", "upsert_comment", "clone", "open_change", "remove_label"])
def test_a_round_whose_consumer_dies_is_done_once(world: World, before: str) -> None:
    world.publish_round(CHECKS)
    first = world.consumers[0]
    reach(first, before)
    first.kill()
    world.publish_round(CHECKS)
    world.calm_down()
    assert len({uuid for uuid, _, _ in world.attempts}) == 1
    assert ends(world) == [("checks", "no push")]
    assert world.item.labels == {DONE}


def test_a_round_is_recorded_when_its_last_attempt_has_ended(world: World) -> None:
    world.outcomes = [UNAVAILABLE] * 9
    world.publish_round(CHECKS)
    world.calm_down()
    assert ends(world) == [("checks", "failed")]
    assert len(world.broker.dead) == 1


def test_who_removes_the_label_while_no_consumer_lives_cancels_the_round(world: World) -> None:
    working(world).kill()
    world.unlabel()
    world.calm_down()
    assert ends(world) == [("checks", "cancelled")]
    assert not world.item.labels


@pytest.mark.parametrize(
    ("act", "end"),
    [
        ("unlabel", "cancelled"),
        ("close", "superseded"),
        ("hands off", "superseded"),
    ],
)
def test_a_round_of_a_change_that_is_closed_or_left_to_people_is_not_counted(
    world: World, act: str, end: str
) -> None:
    """The worker reads the change."""
    working(world)
    match act:
        case "unlabel":
            world.unlabel()
        case "close":
            world.close_item()
        case _:
            world.item.labels.add("Coding Agent hands off")
    world.calm_down()
    kind = "any" if end == "superseded" else "checks"  # no model was asked, so nothing but its name is kept
    assert ends(world) == [(kind, end)]
    assert world.item.state is not None
    assert world.item.state.phase is Phase.CANCELLED
    assert PROCESSING not in world.item.labels


def test_a_label_that_comes_during_a_round_has_a_run_of_its_own(world: World) -> None:
    working(world)
    world.label()
    assert world.item.labels == {BOT, PROCESSING}
    world.calm_down()
    assert [uuid for uuid, _, _ in world.attempts] == ["uuid-1", "uuid-2"]
    assert ends(world) == [("checks", "no push")]
    assert world.item.labels == {DONE}


async def test_the_record_has_what_all_attempts_of_a_round_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a comment is written again because the forge's answer was lost."""

    async def publish(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr(forge_tasks, "publish", publish)
    _, trigger = trigger_of(CHECKS, NOW)
    state = State(uuid="round", phase=Phase.RUNNING, round=trigger)
    item, labels, forge = change().item, Labels(), cast(Forge, None)
    for number in range(3):
        task = ForgeTask(forge, item, labels, state, max_attempts=3)
        failed = Outcome(reason=Reason.INTERNAL, message="No.", usage=Usage(requests=1, input_tokens=5))
        phase = Phase.FAILED if number == 2 else Phase.BACKOFF
        await task.comment(phase, outcome=failed)
        await task.comment(phase, outcome=failed)
        state = State.model_validate_json(task.state.model_dump_json(exclude_none=True))
    assert state.rounds is not None
    assert [entry.tokens for entry in state.rounds.rounds] == [15]
