"""Memory that runs out on a real node: in the workspace a command fails, in the agent an attempt."""

import pytest
from coding_agent_testbed.model.script import Script, Turn

from tests.fixtures.system_in_pods import StartPods, with_container
from tests.integration.main_job.scripts import finish, run, script, write

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

BRANCH = "coding-agent/issue-1"


def test_a_command_that_needs_too_much_memory_fails_and_the_agent_goes_on(start_pods: StartPods) -> None:
    greedy = [run(f"python3 -c 'x = bytearray({size} * 10**9); print(len(x))'") for size in (2, 3, 4)]
    system = start_pods("github", script(*greedy, write("after.md", "after\n"), finish()))
    system.put_label(1)
    task = system.wait_for_phase("Succeeded")
    assert [attempt["outcome"] for attempt in task["status"]["attempts"]] == ["Succeeded"]
    for request in system.model.requests[1:4]:
        assert "[exit code 137]" in str(request["messages"][-1])
    assert system.file_at(BRANCH, "after.md") == "after\n"


def test_an_agent_that_needs_too_much_memory_is_tried_again_from_what_it_had_pushed(
    start_pods: StartPods,
) -> None:
    huge = Turn(text="x" * 120_000_000)
    scripts = [
        Script(name="again", match="earlier attempt", turns=(run("cat begun.md"), finish())),
        Script(name="first", turns=(write("begun.md", "begun\n"), run("true"), huge, finish())),
    ]
    system = start_pods(
        "github",
        scripts,
        consumer={"checkpoint_interval": 1e-9},
        job=with_container(name="agent", resources={"limits": {"memory": "320Mi"}}),
    )
    system.put_label(1)
    task = system.wait_for_phase("Succeeded", 150)
    first, second = task["status"]["attempts"]
    assert (first["outcome"], first["reason"]) == ("Failed", "OOMKilled")
    assert second["outcome"] == "Succeeded"
    assert task["status"]["attempt"] == "2/3"
    assert "begun" in str(system.model.requests[-1]["messages"][-1]), "it resumed from the pushed branch"
    assert [change.head for change in system.changes()] == [BRANCH], "one change"
