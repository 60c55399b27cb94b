"""The series of each end exist from the start, because `increase()` does not see one that begins at 1."""

import subprocess
import sys

import pytest
from coding_agent_core.task.reasons import REASONS, ReasonClass

PHASES = {ReasonClass.SUCCEEDED: "Succeeded", ReasonClass.CANCELLED: "Cancelled"}
OUTCOMES = {
    ReasonClass.SUCCEEDED: "Succeeded",
    ReasonClass.RESTARTED: "Restarted",
    ReasonClass.DISRUPTED: "Disrupted",
    ReasonClass.CANCELLED: "Cancelled",
}
SHOW = """
from coding_agent_operator.tasks import metrics
from prometheus_client import generate_latest
print(generate_latest(metrics.REGISTRY).decode())
"""


@pytest.fixture(scope="module")
def at_the_start() -> str:
    """What a new operator shows."""
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_has_its_series(at_the_start: str, reason: str) -> None:
    what = REASONS[reason].outcome_class
    phase, outcome = PHASES.get(what, "Failed"), OUTCOMES.get(what, "Failed")
    for series in (
        f'coding_agent_tasks_ended_total{{phase="{phase}",reason="{reason}"}} 0.0',
        f'coding_agent_attempts_total{{outcome="{outcome}",reason="{reason}"}} 0.0',
    ):
        assert series in at_the_start.splitlines()
