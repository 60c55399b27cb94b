"""Somebody else pushes to the task's branch, or another consumer gets the task, while an attempt works."""

import asyncio

from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.brief import Brief, OnStep, Step
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.attempts import Outcome
from coding_agent_core.reasons import Reason

from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, script

FIRST = "coding-agent/issue-1"


async def test_it_is_stopped_at_the_next_push_and_overwrites_nothing(make_place: MakePlace) -> None:
    place = make_place("github", script(finish()))

    def somebody_pushes() -> str:
        git = place.system.git
        mine = git("commit-tree", "main^{tree}", "-p", FIRST, "-m", "Mine").strip()
        git("update-ref", f"refs/heads/{FIRST}", mine)
        return mine

    class Overtaken(ModelAgent):
        async def work(
            self,
            brief: Brief,
            workspace: Workspace,
            *,
            stop: asyncio.Event,
            timeout: float,
            on_step: OnStep,
        ) -> Outcome:
            await workspace.write_file("a.md", "a\n")
            await on_step(Step(1, "tool", "wrote a.md"))
            somebody_pushes()
            assert not stop.is_set()
            await workspace.write_file("b.md", "b\n")
            await on_step(Step(2, "tool", "wrote b.md"))
            await asyncio.wait_for(stop.wait(), timeout)
            return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped.")

    outcome = await place.run(place.given(), consumer={"checkpoint_interval": 0.001}, make_agent=Overtaken)
    assert (outcome.reason, outcome.exit_code) == (Reason.BRANCH_MOVED, 75), outcome.message
    assert place.system.git("log", "-1", "--format=%s", FIRST).strip() == "Mine"


async def test_it_pushes_nothing_more_once_another_consumer_has_the_task(make_place: MakePlace) -> None:
    place, lost = make_place("github", script(finish())), asyncio.Event()

    class Lost(ModelAgent):
        async def work(
            self,
            brief: Brief,
            workspace: Workspace,
            *,
            stop: asyncio.Event,
            timeout: float,
            on_step: OnStep,
        ) -> Outcome:
            await workspace.write_file("a.md", "a\n")
            await on_step(Step(1, "tool", "wrote a.md"))
            lost.set()
            await workspace.write_file("b.md", "b\n")
            await on_step(Step(2, "tool", "wrote b.md"))
            return Outcome(reason=Reason.COMPLETED, message="Wrote both.")

    often = {"checkpoint_interval": 0.001}
    outcome = await place.run(place.given(), lost=lost, consumer=often, make_agent=Lost)
    assert outcome.reason is Reason.PUSH_NOT_ALLOWED, outcome.message
    files = place.system.git("ls-tree", "--name-only", FIRST).split()
    assert "a.md" in files
    assert "b.md" not in files
    assert place.open_changes() == []
