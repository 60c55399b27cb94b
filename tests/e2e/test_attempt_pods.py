"""The main job on a real node, per forge and kind: label, AgentTask, Job, pod, change, labels."""

from __future__ import annotations

import pytest
from coding_agent_forge.model import Kind

from tests.fixtures.system import BOT, BOT_TOKEN, DONE, MODEL_KEY, PROCESSING, SECRET
from tests.fixtures.system_in_pods import PodSystem, StartPods
from tests.integration.main_job.scripts import Script, finish, fixes_the_bug, write
from tests.integration.main_job.test_label_to_change import open_change

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

FORGES = ["github", "gitlab"]


@pytest.mark.parametrize("flavour", FORGES)
def test_the_specifications_scenario_9_3_for_an_issue_and_a_change(
    start_pods: StartPods, flavour: str
) -> None:
    """9.3.1: an issue, the label, a task through the webhook, a consumer that works on it, `processing`."""
    of_changes = Script(match="A feature", turns=(write("notes.md", "hello\n"), finish("Added notes.")))
    system = start_pods(flavour, [of_changes, *fixes_the_bug()])
    change = open_change(system)
    system.put_label(1)
    system.put_label(change, Kind.CHANGE)

    tasks = {task["spec"]["source"]["kind"]: task for task in system.wait_for_phases("Succeeded", count=2)}
    system.wait_for_label(1, DONE)
    system.wait_for_label(change, DONE, Kind.CHANGE)

    own, opened = sorted(system.changes(), key=lambda each: each.number)
    assert (own.number, opened.head, opened.base) == (change, "coding-agent/issue-1", "main")
    assert system.file_at("feature", "notes.md") == "hello\n", "a change is worked on in its own branch"
    assert system.git("diff", "--name-only", "main", opened.head).split() == ["pricing/discount.py"]
    for number, kind, result in ((1, Kind.ISSUE, opened.number), (change, Kind.CHANGE, change)):
        look_at(system, number, kind)
        task = tasks["issue" if kind is Kind.ISSUE else "change"]
        assert task["status"]["result"]["pullRequestURL"].endswith(f"/{result}")
        assert [each["outcome"] for each in task["status"]["attempts"]] == ["Succeeded"]
        row = system.kubectl("get", "agenttasks", task["metadata"]["name"], "--no-headers").split()
        assert row[1:6] == [
            "acme/pricing",
            str(number),
            "Succeeded",
            "1/3",
            task["status"]["result"]["pullRequestURL"],
        ]
    logs = "".join(system.log_of(str(pod["metadata"]["name"])) for pod in system.pods())
    assert "begins" in logs
    for secret in (BOT_TOKEN, SECRET, MODEL_KEY):
        assert secret not in logs + system.kubectl("get", "agenttasks,jobs,pods", "-o", "json")


def look_at(system: PodSystem, number: int, kind: Kind) -> None:
    """Labels were swapped in order, and there is one comment, which tells the end."""
    history = [event for event in system.label_history(number, kind) if event[1] in (BOT, PROCESSING, DONE)]
    assert history == [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ]
    [comment] = system.comments(number, kind)
    assert "Coding agent: done" in comment.body
