"""An agent that hangs, on a real node: its own clock does not run, its pod's deadline does."""

import os
import signal

import pytest

from tests.e2e.test_attempt_stops import LONG, groups_of, read
from tests.fixtures.system_in_pods import StartPods
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]


def test_a_frozen_agent_is_ended_by_its_pods_deadline_and_reported_as_such(start_pods: StartPods) -> None:
    job = {"start_seconds": 5, "grace_seconds": 10}
    system = start_pods("github", script(run(LONG), finish()), consumer={"timeout_seconds": 30}, job=job)
    system.put_label(1)
    system.wait_for_requests(1)
    [pod] = system.pods()
    assert freeze(pod["metadata"]["uid"])
    task = system.wait_for_phase("Failed")
    [attempt] = task["status"]["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "DeadlineExceeded")
    assert attempt["counted"]
    assert "took longer than the task's time limit" in attempt["message"]
    assert "DeadlineExceeded" in system.wait_for_comment(1, "Coding agent: failed")


def freeze(uid: str) -> int:
    """Stop a pod's agent, so that it neither works nor hears SIGTERM; how many processes that were."""
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if uid in groups_of(pid)]
    agents = [pid for pid in pids if "--mode\0attempt" in read(pid, "cmdline")]
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)
    return len(agents)
