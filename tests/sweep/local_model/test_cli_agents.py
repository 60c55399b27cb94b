"""Real CLI coding agents ask a real model, which is too small for their work."""

from collections.abc import Callable

import pytest
from coding_agent_core.task.reasons import Reason

from tests.sweep.local_model.conftest import TRIVIAL, Attempts

pytestmark = pytest.mark.xdist_group("local-model")
BRANCH = "coding-agent/issue-1"
WINDOW = 32_768
"""Tokens that the programs are told: their own instructions, which the template leaves out, need as many."""


@pytest.mark.parametrize("runner", ["opencode", "claude-code"])
async def test_a_trivial_task_becomes_a_pull_request(
    attempts: Callable[..., Attempts], program: Callable[[str], str], runner: str
) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    outcome = await here.run(program(runner), context_length=WINDOW, sections={"max_llm_process_num": 8})
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    assert here.place.system.file_at(BRANCH, "hello.txt").strip() == "hello"
    assert min(one.streamed for one in here.relay.answered) > 3
    here.check_counted(outcome)


@pytest.mark.parametrize("runner", ["opencode", "claude-code", "codex"])
async def test_a_context_that_is_too_small_is_not_tried_again(
    attempts: Callable[..., Attempts], program: Callable[[str], str], runner: str
) -> None:
    here = attempts("--context", "256")
    here.ask("Create list.txt", "Create the file `list.txt` with the text `one two`. " * 40)
    outcome = await here.run(program(runner), context_length=WINDOW, sections={"max_llm_process_num": 8})
    assert outcome.reason is Reason.LIMIT_REACHED, outcome
    assert "does not fit the model's context" in outcome.message
    assert {one.status for one in here.relay.exchanges} == {400}
    assert outcome.usage.requests == 0


@pytest.mark.parametrize("runner", ["claude-code"])
async def test_a_cut_answer_is_asked_for_again(
    attempts: Callable[..., Attempts], program: Callable[[str], str], runner: str
) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    here.relay.cut_after = [2_000]
    outcome = await here.run(program(runner), context_length=WINDOW, sections={"max_llm_process_num": 8})
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    assert outcome.usage.requests == len(here.relay.answered) == 3
