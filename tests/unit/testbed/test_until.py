"""One wait for everything: what it returns, when it gives up, and what its message shows."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from coding_agent_testbed.until import NotReadyError, until, until_async

from tests.unit.consumer.simulation import SimulatedLoop


class Clock:
    """Seconds that pass only while somebody waits, or as long as a call takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Gone(Exception):
    """An error that no rule calls transient."""


def wait(condition: Callable[[], Any], clock: Clock, **arguments: Any) -> Any:
    return until(
        "the door opens",
        condition,
        **{"timeout": 3, "interval": 1, **arguments},
        clock=lambda: clock.now,
        pause=clock.pass_by,
    )


def each(*results: Any) -> Callable[[], Any]:
    """A condition that returns, or raises, one after the other."""
    left: Iterator[Any] = iter(results)

    def condition() -> Any:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result

    return condition


def test_the_first_true_value_is_returned() -> None:
    clock = Clock()
    assert wait(each(None, "", 7, 8), clock) == 7
    assert clock.now == 2


@pytest.mark.parametrize(
    ("last", "seen"),
    [
        pytest.param([], "returned []", id="a value"),
        pytest.param("", "returned ''", id="a text"),
        pytest.param(OSError("no route"), "raised OSError: no route", id="an error that may pass"),
    ],
)
def test_the_message_shows_what_was_seen_last(last: Any, seen: str) -> None:
    with pytest.raises(NotReadyError) as late:
        wait(each(None, OSError("earlier"), 0, last), Clock())
    assert str(late.value) == f"the door opens: not so after 3 s; the condition last {seen}"
    assert late.value.__cause__ is (last if isinstance(last, Exception) else None)


def test_the_message_may_show_how_things_stand_at_the_deadline() -> None:
    clock = Clock()
    with pytest.raises(NotReadyError, match=r"^at 2 s: not so after 2 s"):
        until(
            lambda: f"at {clock.now:g} s",
            lambda: False,
            timeout=2,
            interval=1,
            clock=lambda: clock.now,
            pause=clock.pass_by,
        )


def test_a_long_value_is_cut() -> None:
    class Long(list[int]):
        def __repr__(self) -> str:
            return "x" * 10_000

    with pytest.raises(NotReadyError) as late:
        wait(Long, Clock())
    assert 1_000 < len(str(late.value)) < 3_000


@pytest.mark.parametrize("stalls_in", ["condition", "pause"])
def test_what_came_true_while_the_machine_stood_still_counts(stalls_in: str) -> None:
    clock = Clock()

    def condition() -> bool:
        is_open = clock.now > 3
        if stalls_in == "condition" and clock.now == 1:
            clock.now = 600
        return is_open

    def pause(seconds: float) -> None:
        clock.now += 600 if stalls_in == "pause" else seconds

    assert until("the door opens", condition, timeout=3, interval=1, clock=lambda: clock.now, pause=pause)


def test_only_errors_that_may_pass_are_tried_again() -> None:
    with pytest.raises(Gone):
        wait(each(Gone(), 1), Clock())
    assert wait(each(Gone(), 1), Clock(), transient=(Gone,)) == 1
    with pytest.raises(AssertionError):
        wait(each(AssertionError(), 1), Clock())
    with pytest.raises(NotReadyError, match="inner"):
        wait(each(NotReadyError("inner"), 1), Clock())


def test_it_goes_no_further_when_that_is_pointless() -> None:
    def alive() -> None:
        raise Gone

    with pytest.raises(Gone):
        wait(lambda: pytest.fail("it was asked"), Clock(), alive=alive)


def run(condition: Callable[[], Any], **arguments: Any) -> tuple[Any, float]:
    """What `until_async` returns on a loop of simulated time, and after how many seconds."""
    loop = SimulatedLoop()
    try:
        found = loop.run_until_complete(
            until_async("the door opens", condition, **{"timeout": 3, "interval": 1, **arguments})
        )
        return found, loop.time()
    finally:
        loop.close()


def awaited(*results: Any) -> Callable[[], Any]:
    """`each`, as a coroutine function."""
    condition = each(*results)

    async def ask() -> Any:
        return condition()

    return ask


@pytest.mark.parametrize("conditions", [each, awaited])
def test_functions_and_coroutine_functions_are_waited_for(conditions: Callable[..., Any]) -> None:
    assert run(conditions(None, OSError("later"), 7)) == (7, 2)
    assert run(conditions(Gone(), 7), transient=(Gone,)) == (7, 1)
    with pytest.raises(Gone):
        run(conditions(Gone(), 7))
    with pytest.raises(NotReadyError) as late:
        run(conditions(None, None, None, []))
    assert str(late.value) == "the door opens: not so after 3 s; the condition last returned []"


def test_a_call_that_never_ends_is_given_up() -> None:
    begun: list[float] = []

    async def hang() -> bool:
        begun.append(asyncio.get_running_loop().time())
        return await asyncio.Event().wait()

    with pytest.raises(NotReadyError, match="not so after 3 s; the condition last raised TimeoutError"):
        run(hang)
    assert begun == [0, 4], "each is given up after 3 s"
