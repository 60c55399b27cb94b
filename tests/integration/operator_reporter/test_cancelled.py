"""The comment of a cancelled task says who or what cancelled it, as far as the AgentTask shows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from coding_agent_core.admission import Cancel
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempts import Consumer
from coding_agent_core.tasks import Phase, Withdrawal

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, PROCESSING, World

pytestmark = pytest.mark.parametrize("flavour", ["github"])
BRANCH = "coding-agent/issue-1"


async def by_webhook(world: World, number: int, _: str) -> None:
    """As the receiver does it."""
    sink = KubernetesSink(Access(str(world.plane.kubeconfig)), world.namespace, Consumer(), total_timeout=60)
    try:
        item = world.item(number)
        reason = "the issue lost the label 'coding agent processing'"
        withdrawal = Withdrawal(item=item, reason=reason, at=datetime.now(UTC) + timedelta(seconds=1))
        assert isinstance(await sink.withdraw(withdrawal), Cancel)
    finally:
        await sink.aclose()


async def by_kubectl(world: World, _: int, name: str) -> None:
    kubectl = [str(world.plane.plane.binaries["kubectl"]), "--kubeconfig", str(world.plane.kubeconfig)]
    patch = ["patch", "agenttask", name, "--type=merge", "-p", '{"spec": {"cancel": true}}']
    subprocess.run([*kubectl, "-n", world.namespace, *patch], check=True, timeout=60)


async def by_the_plugin(world: World, _: int, name: str) -> None:
    plugin = str(Path(sys.executable).with_name("kubectl-agenttask"))
    subprocess.run(
        [plugin, "cancel", name, "-n", world.namespace],
        env={"KUBECONFIG": str(world.plane.kubeconfig), "HOME": str(world.folder), "PATH": ""},
        check=True,
        timeout=60,
    )


async def by_a_program(world: World, _: int, name: str) -> None:
    world.patch(name, {"spec": {"cancel": True}})


@pytest.mark.long
@pytest.mark.parametrize(
    ("cancel", "said"),
    [
        (by_webhook, "The task was cancelled: the issue lost the label 'coding agent processing'."),
        (by_kubectl, "The task was cancelled: somebody cancelled it with kubectl."),
        (by_the_plugin, "The task was cancelled: somebody cancelled it with kubectl."),
        (by_a_program, "The task was cancelled."),
    ],
)
async def test_who_cancelled_it(
    world: World, start: Callable[..., Reporter], cancel: Callable[[World, int, str], object], said: str
) -> None:
    start(check_interval=3600)
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    await cancel(world, number, name)  # type: ignore[misc]
    world.set_phase(name, Phase.CANCELLED, message="The task was cancelled.", result={"branch": BRANCH})
    text = world.shows(number, "Coding agent: cancelled", set())
    assert f"\n{said}\n" in text
    assert f"The work so far is on the branch `{BRANCH}`." in text
    assert len(world.comments(number)) == 1
