"""The comment of a cancelled task says who or what cancelled it, as far as the AgentTask shows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_core.tasks import Phase

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, PROCESSING, World

BRANCH = "coding-agent/issue-1"
PLUGIN = Path(sys.executable).with_name("kubectl-agenttask")


@pytest.mark.long
@pytest.mark.parametrize("flavour", ["github"])
@pytest.mark.parametrize("plugin", [False, True], ids=["kubectl", "plugin"])
def test_who_cancelled_it(world: World, start: Callable[..., Reporter], plugin: bool) -> None:
    start(check_interval=3600)
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    patch = ("patch", "agenttask", name, "--type=merge", "-p", '{"spec": {"cancel": true}}')
    program = PLUGIN if plugin else world.plane.plane.binaries["kubectl"]
    subprocess.run(
        [program, *(("cancel", name) if plugin else patch), "-n", world.namespace],
        env={"KUBECONFIG": str(world.plane.kubeconfig), "HOME": str(world.folder), "PATH": ""},
        check=True,
        timeout=60,
    )
    world.set_phase(name, Phase.CANCELLED, message="The task was cancelled.", result={"branch": BRANCH})
    text = world.shows(number, "Coding agent: cancelled", set())
    assert "\nThe task was cancelled: somebody cancelled it with kubectl.\n" in text
    assert f"The work so far is on the branch `{BRANCH}`." in text
    assert len(world.comments(number)) == 1
