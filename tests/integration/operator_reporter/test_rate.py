"""A burst of 200 ends stays inside the configured rate, and the last state of each task is shown."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from coding_agent_core.phases import Phase

from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, FAILED, World

TASKS = 200
RATE, BURST = 40.0, 20
"""Well below what a busy machine manages, so that it is the limit that holds the requests back."""


@pytest.mark.parametrize("flavour", ["github"])
def test_a_burst_of_ends(world: World, start: Callable[..., Reporter]) -> None:
    numbers = [world.issue(BOT) for _ in range(TASKS)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(world.task, numbers))
        start(requests_per_second=RATE, burst=BURST, check_interval=3600)
        # Each task changes twice while the reporter cannot possibly keep up; the last state counts.
        list(pool.map(lambda name: world.stand(name, Phase.RUNNING), names))
        ends = [Phase.SUCCEEDED if index % 2 else Phase.FAILED for index in range(TASKS)]
        list(
            pool.map(lambda each: world.stand(each[0], each[1], reason="Said"), zip(names, ends, strict=True))
        )

    wanted = {Phase.SUCCEEDED: ({DONE}, "done"), Phase.FAILED: ({FAILED}, "failed")}

    def shows(number: int, end: Phase) -> bool:
        labels, headline = wanted[end]
        return world.labels(number) == labels and f"Coding agent: {headline}" in world.comment(number)

    # It stops at the first that is not shown: looking must not slow down what is looked at.
    until("all ends are shown", lambda: all(map(shows, numbers, ends)), timeout=150)
    times = sorted(each["at"] for each in world.requests())
    for window in (0.5, 1.0, 5.0):
        most, first = 0, 0
        for last, at in enumerate(times):
            while times[first] < at - window:
                first += 1
            most = max(most, last - first + 1)
        # Requests cross the wire a little earlier or later than they were let go.
        assert most <= BURST + RATE * window + 5, f"{most} requests in {window} s"
    shown = sum(1 for each in world.requests() if each["method"] == "POST" and "comments" in each["path"])
    assert shown == TASKS, "one comment each"
