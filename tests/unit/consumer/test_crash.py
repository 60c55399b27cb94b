"""A consumer of a queue dies after each request of a task's life: item and queues agree in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from coding_agent_core.attempts import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.tasks import Phase

from tests.unit.consumer.simulation import BOT, DONE, MAX_ATTEMPTS, SimulatedClaim, World

SUCCESS = Outcome(reason=Reason.COMPLETED, message="Done.")
FAILURE = Outcome(reason=Reason.TOOL_FAILING, message="A tool failed.")
TEMPORARY = Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is not available.")


def _label_removed(world: World) -> Callable[[SimulatedClaim], None]:
    def during(claim: SimulatedClaim) -> None:
        world.forge.labels.clear()
        claim.why_cancelled = "The label was removed."
        claim.cancelled.set()

    return during


@dataclass(frozen=True)
class Case:
    outcomes: tuple[Outcome, ...]
    phase: Phase
    cancelled: bool = False


CASES = {
    "success": Case((SUCCESS,) * MAX_ATTEMPTS, Phase.SUCCEEDED),
    "failure": Case((FAILURE,) * MAX_ATTEMPTS, Phase.FAILED),
    "cancelled": Case((), Phase.CANCELLED, cancelled=True),
    "temporary failure": Case((TEMPORARY, SUCCESS, SUCCESS), Phase.SUCCEEDED),
    "temporary failures": Case((TEMPORARY,) * MAX_ATTEMPTS, Phase.FAILED),
}


async def play(case: Case, *fatal: int) -> tuple[World, list[str]]:
    """The world when nothing waits any more, and the requests of the deliveries that were to die."""
    world = World()
    world.outcomes = list(case.outcomes)
    if case.cancelled:
        world.during = _label_removed(world)
    world.label()
    requests: list[str] = []
    for number in fatal:
        if world.broker.waiting:
            await world.deliver(number)
            requests += world.forge.requests
    while world.broker.waiting:
        await world.deliver()
    return world, requests


def assert_agreed(world: World, *phases: Phase) -> None:
    """Comment, labels and dead-letter queue show the same end, which is one of these."""
    state = world.forge.state
    assert state is not None
    assert state.phase in phases
    assert world.forge.labels == ({DONE} if state.phase is Phase.SUCCEEDED else set())
    assert {uuid for uuid, _ in world.broker.dead} == ({state.uuid} if state.phase is Phase.FAILED else set())
    numbers = [number for _, number in world.attempts]
    assert numbers == sorted(set(numbers)), "each attempt has a number of its own"
    assert len(numbers) <= MAX_ATTEMPTS


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_killed_after_every_request_of_the_first_delivery(case: Case) -> None:
    world, requests = await play(case, 0)
    assert_agreed(world, case.phase)
    assert len(requests) > 8
    for number in range(1, len(requests) + 1):
        world, _ = await play(case, number)
        assert_agreed(world, case.phase)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_killed_in_the_first_and_after_every_request_of_the_second_delivery(case: Case) -> None:
    working = (await play(case, 0))[1].index("remove_label") + 1
    world, requests = await play(case, working, 0)
    assert_agreed(world, case.phase)
    for number in range(1, len(requests) + 1):
        world, _ = await play(case, working, number)
        # If two attempts died, a temporary failure of the third one is the task's end.
        assert_agreed(world, case.phase, *([Phase.FAILED] if TEMPORARY in case.outcomes else []))


async def test_a_label_that_was_applied_after_the_end_was_shown_stays() -> None:
    """The consumer dies between the last comment and the labels. A person labels the item again."""
    case = CASES["failure"]
    end = len((await play(case, 0))[1]) - (await play(case, 0))[1][::-1].index("upsert_comment")
    world = World()
    world.outcomes = [FAILURE, SUCCESS]
    first = world.label()
    assert not await world.deliver(end)
    assert world.forge.state is not None
    assert world.forge.state.phase is Phase.FAILED
    world.label()
    assert await world.deliver()
    assert world.forge.labels == {BOT}
    await world.calm_down()
    assert world.forge.labels == {DONE}
    assert [uuid for uuid, _ in world.broker.dead] == [first]
    assert world.forge.state.run == 2


@pytest.mark.parametrize("again", [False, True], ids=["for good", "and puts it on again"])
async def test_a_person_takes_the_label_off_after_any_request_of_the_start(again: bool) -> None:
    """The item is read, the label goes, and then the processing label comes."""
    world, requests = await play(CASES["success"], 0)
    start = requests.index("remove_label")
    assert start > 4
    for number in range(1, start + 2):
        world = World()
        world.label()

        def change_of_mind(world: World = world) -> None:
            world.forge.unlabel()
            if again:
                world.label()

        world.forge.afterwards[number] = change_of_mind
        await world.calm_down()
        assert len(world.attempts) <= 1, number
        assert BOT not in world.forge.labels
        if again:
            assert world.attempts, number
            assert_agreed(world, Phase.SUCCEEDED)
        else:
            assert not world.attempts, number
            assert not world.forge.labels
            assert world.forge.state is None or world.forge.state.phase is Phase.CANCELLED, number
