"""What waits for our own rate limits holds nothing else back.

The limits themselves are shown with a fake clock in `tests/unit/core_forge/test_pacing.py`, and what a worker
does while they hold it back in `tests/unit/operator_reporter/test_forge_worker.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coding_agent_core.tasks import Phase

from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, World

TASKS = 24
RATE, BURST, WRITES_PER_MINUTE = 40.0, 10, 600.0
"""Well below what a busy machine manages, so that the limits hold the requests back."""


@pytest.mark.parametrize("flavour", ["github"])
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
