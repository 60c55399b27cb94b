"""The main job on a real node, per forge and kind: label, AgentTask, Job, pod, change, labels."""

from __future__ import annotations

import pytest

from tests.fixtures.system import BOT_TOKEN, DONE, MODEL_KEY, SECRET
from tests.fixtures.system_in_pods import StartPods
from tests.integration.main_job.scripts import fixes_the_bug

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(900)]

FORGES = ["github", "gitlab"]


@pytest.mark.parametrize("flavour", FORGES)
def test_a_labeled_issue_becomes_a_change(start_pods: StartPods, flavour: str) -> None:
    system = start_pods(flavour, fixes_the_bug())
    system.put_label(1)
    task = system.wait_for_phase("Succeeded")
    system.wait_for_label(1, DONE)
    [change] = system.changes()
    assert (change.head, change.base) == ("coding-agent/issue-1", "main")
    assert task["status"]["result"]["branch"] == "coding-agent/issue-1"
    assert task["status"]["result"]["pullRequestURL"].endswith(f"/{change.number}")
    assert [each["outcome"] for each in task["status"]["attempts"]] == ["Succeeded"]

    [comment] = system.comments(1)
    assert "Coding agent: done" in comment.body
    row = system.kubectl("get", "agenttasks", "--no-headers")
    assert "acme/pricing" in row
    assert "Succeeded" in row
    everything = row + comment.body + change.body + str(system.log_of(system.pods()[0]["metadata"]["name"]))
    for secret in (BOT_TOKEN, SECRET, MODEL_KEY):
        assert secret not in everything
