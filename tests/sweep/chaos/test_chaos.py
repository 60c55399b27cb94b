"""`make chaos` in its short form over RabbitMQ; `make nightly` has a run on a node besides."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.judging import CLEAN, judge_folder
from tests.chaos.rabbitmq_world import start_rabbitmq
from tests.chaos.running import Plan, run

SEED = 44
SETTLE_SECONDS = 35.0
"""Longer than the reporter takes to compare labels with their tasks."""


@pytest.mark.timeout(900)
def test_no_promise_is_broken_in_a_minute_over_rabbitmq(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the workspace's commands run as another user
    with ExitStack() as stack:
        world = start_rabbitmq(stack, tmp_path, "gitlab")
        run(world, Plan(SEED, "rabbitmq", "gitlab", 60.0, 4, 5, SETTLE_SECONDS), tmp_path / "faults")
    assert judge_folder(tmp_path / "faults") == CLEAN, (tmp_path / "faults" / "report.md").read_text()
