"""Stories of a queue's consumers that die, or lose their connection. `test_model` tells all others."""

from collections.abc import Iterator

import pytest
from coding_agent_core.task.model import Phase

from tests.unit.consumer.simulation import DONE, MAX_ATTEMPTS, UNAVAILABLE, Process, World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.label()
    yield world
    world.close()


def reach(process: Process, name: str) -> None:
    """The process works until it is about to make this request."""
    for _ in range(100):
        if process.next_request == name:
            return
        if process.pass_one() is None:
            process.world.sleep(5)
    raise AssertionError(f"it never makes the request {name}")


def shown(world: World) -> tuple[Phase, int]:
    """Phase and attempt in the comment."""
    state = world.item.state
    assert state is not None
    return state.phase, state.attempt


def test_the_sign_of_the_next_task_does_not_replace_the_number_of_an_attempt(world: World) -> None:
    first = world.consumers[0]
    reach(first, "clone")
    first.pass_one()
    first.kill()
    world.label()
    for _ in range(10):
        world.notices.pass_one()
    assert shown(world) == (Phase.RUNNING, 1)
    world.calm_down()
    assert shown(world)[0] is Phase.SUCCEEDED


def test_who_comes_back_after_another_consumer_ended_the_task_reports_nothing(world: World) -> None:
    first, second = world.consumers
    reach(first, "clone")
    first.pass_one()
    first.lose_network()
    second.set_free()
    world.sleep(120)
    assert shown(world) == (Phase.SUCCEEDED, 2)
    world.reconnect(first)
    world.calm_down()
    assert shown(world) == (Phase.SUCCEEDED, 2)
    assert world.item.labels == {DONE}


def test_a_retry_that_the_broker_did_not_take_is_not_shown(world: World) -> None:
    """The message comes again as it was, and would be dropped if the comment announced its retry."""
    first = world.consumers[0]
    world.outcomes = [UNAVAILABLE]
    reach(first, "publish")
    first.disconnect()
    first.pass_one()
    world.sleep(120)
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, 1), ("uuid-1", 1, 2)]
    assert shown(world) == (Phase.SUCCEEDED, 2)


def test_a_retry_is_kept_while_another_consumer_drops_a_later_message(world: World) -> None:
    """The retry's own attempt took the label; the other consumer is about to drop a later message."""
    first, second = world.consumers
    world.outcomes = [UNAVAILABLE]
    reach(first, "publish")
    world.label()
    reach(second, "lock")
    reach(first, "deliver")  # of the retry
    second.pass_one()
    reach(first, "lock")
    for _ in range(2):
        first.pass_one()
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, 1), ("uuid-1", 1, 2)]
    assert shown(world) == (Phase.SUCCEEDED, 2)
    assert world.item.labels == {DONE}


def test_the_last_attempt_is_not_tried_again(world: World) -> None:
    world.outcomes = [UNAVAILABLE] * 9
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, number) for number in range(1, MAX_ATTEMPTS + 1)]
    assert shown(world) == (Phase.FAILED, MAX_ATTEMPTS)
    assert world.item.state is not None
    assert world.item.state.reason == UNAVAILABLE.reason
    assert [task.uuid for task in world.broker.dead] == ["uuid-1"]


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_label_that_no_read_had_shown_has_its_run_though_the_end_is_shown_twice(
    world: World, *, withdrawn: bool
) -> None:
    first, second = world.consumers
    reach(first, "clone")
    first.pass_one()
    if withdrawn:
        world.unlabel("alice")
    reach(first, "upsert_comment")  # of the end
    world.label("alice")
    reach(first, "read_state")
    ended = shown(world)
    assert ended == (Phase.CANCELLED if withdrawn else Phase.SUCCEEDED, 1)
    first.kill()
    reach(second, "acknowledge")
    assert shown(world) == ended
    world.calm_down()
    assert world.attempts == [("uuid-1", 1, 1), ("uuid-2", 2, 1)]
    assert shown(world) == (Phase.SUCCEEDED, 1)
    assert world.item.labels == {DONE}
