"""A burst of ends stays within the configured rates, and the last state of each task is shown.

The limits themselves are shown with a fake clock in `tests/unit/core_forge/test_pacing.py`, and what a worker
does while they hold it back in `tests/unit/operator_reporter/test_forge_worker.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from coding_agent_core.tasks import Phase

from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, FAILED, PROCESSING, World

TASKS = 24
RATE, BURST, WRITES_PER_MINUTE = 40.0, 10, 600.0
"""Well below what a busy machine manages, so that the limits hold the requests back."""


@pytest.mark.long
@pytest.mark.parametrize("flavour", ["github"])
def test_a_burst_of_ends(world: World, start: Callable[..., Reporter]) -> None:
    numbers = [world.issue(BOT) for _ in range(TASKS)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(world.task, numbers))
        start(check_interval=3600, requests_per_second=RATE, burst=BURST, writes_per_minute=WRITES_PER_MINUTE)
        # Each task changes twice while the reporter cannot possibly keep up; the last state counts.
        list(pool.map(lambda name: world.set_phase(name, Phase.RUNNING), names))
        ends = [Phase.SUCCEEDED if index % 2 else Phase.FAILED for index in range(TASKS)]
        list(pool.map(lambda name, end: world.set_phase(name, end, reason="Said"), names, ends))

    wanted = {Phase.SUCCEEDED: ({DONE}, "done"), Phase.FAILED: ({FAILED}, "failed")}

    def is_shown(number: int, end: Phase) -> bool:
        labels, headline = wanted[end]
        return world.labels(number) == labels and f"Coding agent: {headline}" in world.comment(number)

    until("all ends are shown", lambda: all(map(is_shown, numbers, ends)))
    requests = world.requests()
    created = [
        request for request in requests if request["method"] == "POST" and "comments" in request["path"]
    ]
    assert len(created) == TASKS, "one comment for each item"
    for name in names:
        assert not world.condition(name, "Reported"), "our own limits are not an outage"

    _assert_within([found["at"] for found in requests], RATE)
    writes = [entry["at"] for entry in requests if entry["method"] != "GET"]
    rate = WRITES_PER_MINUTE / 60
    _assert_within(writes, rate)
    # The first ones may arrive late on a busy machine.
    assert max(writes) - min(writes) >= (len(writes) - BURST) / rate * 0.7, "the limit held them back"


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_labels_are_shown_while_new_comments_have_to_wait(
    world: World, start: Callable[..., Reporter]
) -> None:
    numbers = [world.issue(BOT) for _ in range(4)]
    names = [world.task(number) for number in numbers]
    for name in names:
        world.set_phase(name, Phase.RUNNING)
    start(check_interval=3600, creates_per_minute=1, creates_per_hour=1)
    until("all labels are shown", lambda: all(world.labels(n) == {PROCESSING} for n in numbers))
    until("one comment", lambda: sum(bool(world.comments(number)) for number in numbers) == 1)
    shown, name = next((n, name) for n, name in zip(numbers, names, strict=True) if world.comments(n))
    world.set_phase(name, Phase.SUCCEEDED)
    assert "Coding agent: done" in world.shows(shown, "Coding agent: done", {DONE}), "edits go on"
    other = next(name for name in names if world.read(name)["status"]["phase"] == Phase.RUNNING)
    until("acknowledged", lambda: world.condition(other, "Acknowledged").get("status") == "True")
    assert not world.condition(other, "Reported"), "our own limits are not an outage"


def _assert_within(times: Sequence[float], rate: float) -> None:
    """No window has more requests than the rate and the burst allow."""
    ordered = sorted(times)
    for window in (0.5, 1.0, 5.0):
        most, first = 0, 0
        for last, at in enumerate(ordered):
            while ordered[first] < at - window:
                first += 1
            most = max(most, last - first + 1)
        # Requests arrive a little earlier or later than they were sent.
        assert most <= BURST + rate * window + 5, f"{most} requests in {window} s"
