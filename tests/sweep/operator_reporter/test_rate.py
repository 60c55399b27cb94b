"""A burst of ends stays inside the configured rates, and the last state of each task is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from coding_agent_core.phases import Phase
from coding_agent_core.settings.operator import Reporter as Shipped

from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, FAILED, World

Start = Callable[..., Reporter]
pytestmark = [pytest.mark.parametrize("flavour", ["github"]), pytest.mark.timeout(600)]
RATE, BURST = 40.0, 20
"""Well below what a busy machine manages, so that it is the limit that holds the requests back."""


def test_two_hundred_ends(world: World, start: Start) -> None:
    _, times = burst_of_ends(world, start, 200, requests_per_second=RATE, burst=BURST)
    inside(times, RATE, BURST)


def test_the_limit_of_writes_as_shipped(world: World, start: Start) -> None:
    """All rates twenty times those that are shipped: then it is the writes that everything waits for."""
    shipped, faster = Shipped(), 20.0
    rates = {
        "requests_per_second": shipped.requests_per_second * faster,
        "writes_per_minute": shipped.writes_per_minute * faster,
        "burst": shipped.burst,
    }
    _, times = burst_of_ends(world, start, 60, workers=shipped.workers, **rates)
    inside(times, rates["requests_per_second"], shipped.burst)
    written(world, rates["writes_per_minute"], shipped.burst)


def test_so_few_writes_that_they_wait_for_long(world: World, start: Start) -> None:
    """Longer than a request waits for its turn, and many times longer than an outage is borne in silence."""
    reporter, _ = burst_of_ends(world, start, 30, workers=30, writes_per_minute=300, burst=10)
    written(world, 300, 10)
    assert "may be sent in" in reporter.log(), "a request had to wait for too long"
    assert "nothing is asked of it" not in reporter.log(), "the forge was there all the time"


def burst_of_ends(world: World, start: Start, tasks: int, **settings: float) -> tuple[Reporter, list[float]]:
    """Many tasks change twice and end; wait until all is shown. The reporter, and when it asked the forge."""
    numbers = [world.issue(BOT) for _ in range(tasks)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(world.task, numbers))
        reporter = start(check_interval=3600, **settings)
        # Each task changes twice while the reporter cannot possibly keep up; the last state counts.
        list(pool.map(lambda name: world.stand(name, Phase.RUNNING), names))
        ends = [Phase.SUCCEEDED if index % 2 else Phase.FAILED for index in range(tasks)]
        list(
            pool.map(lambda each: world.stand(each[0], each[1], reason="Said"), zip(names, ends, strict=True))
        )

    wanted = {Phase.SUCCEEDED: ({DONE}, "done"), Phase.FAILED: ({FAILED}, "failed")}

    def shows(number: int, end: Phase) -> bool:
        labels, headline = wanted[end]
        return world.labels(number) == labels and f"Coding agent: {headline}" in world.comment(number)

    # It stops at the first that is not shown: looking must not slow down what is looked at.
    until("all ends are shown", lambda: all(map(shows, numbers, ends)), timeout=300)
    asked = world.requests()
    shown = sum(1 for each in asked if each["method"] == "POST" and "comments" in each["path"])
    assert shown == tasks, "one comment each"
    for name in names:
        until("the end is kept", lambda name=name: world.is_reported(name))  # type: ignore[misc]
        assert not world.condition(name, "Reported"), "no outage was told of"
    return reporter, sorted(each["at"] for each in asked)


def inside(times: Sequence[float], rate: float, burst: int) -> None:
    """In no window are there more than the rate and the burst allow."""
    for window in (0.5, 1.0, 5.0):
        most, first = 0, 0
        for last, at in enumerate(times):
            while times[first] < at - window:
                first += 1
            most = max(most, last - first + 1)
        # Requests cross the wire a little earlier or later than they were let go.
        assert most <= burst + rate * window + 5, f"{most} requests in {window} s"


def written(world: World, per_minute: float, burst: int) -> None:
    """The writes kept their limit, and it was the limit that held them back."""
    times = sorted(each["at"] for each in world.requests() if each["method"] != "GET")
    rate = per_minute / 2 / 60
    inside(times, rate, burst)
    assert times[-1] - times[0] >= (len(times) - burst) / rate * 0.95
