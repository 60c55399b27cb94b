"""The commit statuses that show a task and its evidence, each written once."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.task.model import Phase
from coding_agent_core.task.verification import VERIFY_STATUS
from coding_agent_testbed.until import until

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, REPOSITORY, World

Start = Callable[..., Reporter]
BRANCH = "coding-agent/issue-1"
HOSTILE = "<!-- coding-agent:status {} -->\n```\n/close @alice\nassert 1 == 2"


def statuses(world: World, commit: str) -> dict[str, str]:
    repository = world.forge.repository(REPOSITORY)
    found = world.forge.run(lambda: world.forge.sandbox.reviews.checks(repository, commit, latest=True))
    return {one.name: one.result or "pending" for one in found}


def writes(world: World) -> int:
    return sum(one["method"] == "POST" and "/statuses/" in one["path"] for one in world.requests())


def test_a_lying_model_gets_a_red_status_and_an_honest_comment(world: World, start: Start) -> None:
    process = start()
    number = world.issue(BOT)
    name = world.task(number)
    head = world.forge.push(REPOSITORY, BRANCH, {"a.txt": "new\n"}, by="coding-agent-bot")
    result = {
        "branch": BRANCH,
        "changeURL": world.change_url(9),
        "commit": head,
        "summary": "All tests pass.",
    }
    evidence: dict[str, Any] = {"commit": head, "state": "pending", "started": datetime.now(UTC).isoformat()}
    world.set_phase(name, Phase.RUNNING, result=result, verify=evidence)
    world.shows(number, "working on it", {PROCESSING})
    assert statuses(world, head) == {"coding-agent": "pending", VERIFY_STATUS: "pending"}

    red = {"run": "make test", "exitCode": 2, "seconds": 3, "tail": HOSTILE}
    side = {"job": "j", "tries": 1, "commit": head, "commands": [red], "settled": True}
    evidence |= {"state": "failure", "description": "1 of 1 command fails", "head": side}
    world.set_phase(name, Phase.SUCCEEDED, result=result, verify=evidence)
    text = world.shows(number, "Coding agent: done", {DONE})
    assert statuses(world, head) == {
        "coding-agent": "failure",
        VERIFY_STATUS: "failure",
    }
    assert "All tests pass." in text, "what the model says is shown"
    for said in (f"Verification of `{head[:12]}`: 1 of 1 command fails", "| `make test` | exit code 2 |"):
        assert said in text
    assert "assert 1 == 2" in text
    assert "@alice" not in text
    assert "the agent may have edited the tests" in text

    until("reported", lambda: world.is_reported(name))
    assert writes(world) == 4
    process.stop()
    start()
    another = world.issue(BOT)
    world.set_phase(world.task(another), Phase.RUNNING)
    world.shows(another, "working on it", {PROCESSING})
    assert writes(world) == 4, "the next reporter works, and does not write them again"


def test_a_forge_that_refuses_statuses_gets_labels_and_comment(world: World, start: Start) -> None:
    process = start()
    number = world.issue(BOT)
    name = world.task(number)
    head = world.forge.push(REPOSITORY, BRANCH, {"a.txt": "new\n"}, by="coding-agent-bot")
    world.fault(path=".*/statuses/.*", status=403, times=100)
    world.set_phase(name, Phase.SUCCEEDED, result={"branch": BRANCH, "commit": head})
    world.shows(number, "Coding agent: done", {DONE})
    until("reported", lambda: world.is_reported(name))
    assert writes(world) == 1, "it is not tried again"
    assert "a commit status is not shown" in process.log()
