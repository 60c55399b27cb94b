"""The changes of test_pushes.py in the whole system, with attempts in pods."""

import pytest

from tests.fixtures.system_in_pods import StartPods
from tests.integration.main_job.scripts import finish, script, write
from tests.security.arranged_changes import label_arranged_changes

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]


def test_nothing_is_pushed_from_pods(start_pods: StartPods) -> None:
    system = start_pods("github", script(write("work.md", "The agent was here.\n"), finish()))
    label_arranged_changes(system)
