"""The built-in agent asks a real model, which is too small for its work: each task ends within its bounds."""

import asyncio
from collections.abc import Callable

import pytest
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance
from coding_agent_testbed.until import until_async

from tests.sweep.local_model.conftest import TRIVIAL, Attempts, LocalModel

pytestmark = pytest.mark.xdist_group("local-model")  # one model at a time: each takes a core
BRANCH = "coding-agent/issue-1"
LIST = " ".join(f"item{number}" for number in range(60))


async def test_a_trivial_task_becomes_a_pull_request(attempts: Callable[..., Attempts]) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    outcome = await here.run()
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    assert here.place.system.file_at(BRANCH, "hello.txt").strip() == "hello"
    assert len(here.place.open_changes()) == 1
    assert min(one.streamed for one in here.relay.answered) > 5
    here.check_counted(outcome)


async def test_answers_without_a_tool_call_end_the_task(attempts: Callable[..., Attempts]) -> None:
    here = attempts()
    here.ask("A question", "What is the capital of France?")
    outcome = await here.run(max_token=24)
    assert outcome.reason is Reason.MODEL_MALFORMED, outcome
    assert "without a usable tool call" in outcome.message
    assert len(here.relay.exchanges) == 5
    here.check_counted(outcome)


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_that_break_off_end_the_task(attempts: Callable[..., Attempts], stream: bool) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    outcome = await here.run(max_token=16, llm={"stream": stream})
    assert outcome.reason is Reason.MODEL_MALFORMED, outcome
    assert "raise llm.openai.max_token" in outcome.message
    assert len(here.relay.exchanges) == 5
    here.check_counted(outcome)


async def test_a_context_that_is_too_small_ends_the_task(attempts: Callable[..., Attempts]) -> None:
    here = attempts("--context", "256")
    here.ask(*TRIVIAL)
    outcome = await here.run()
    assert outcome.reason is Reason.LIMIT_REACHED, outcome
    assert "does not fit the model's context" in outcome.message
    assert [one.status for one in here.relay.exchanges] == [400] * 4
    assert outcome.usage.requests == 0


async def test_a_conversation_that_outgrows_the_context_ends_the_task(
    attempts: Callable[..., Attempts],
) -> None:
    here = attempts("--context", "512")
    here.ask("Create list.txt", f"Create the file `list.txt` with the text `{LIST}`.")
    outcome = await here.run()
    assert outcome.reason is Reason.LIMIT_REACHED, outcome
    assert "even after compression" in outcome.message
    assert {one.status for one in here.relay.exchanges} == {200, 400}
    assert len(here.relay.exchanges) <= 12
    here.check_counted(outcome)


async def test_an_answer_that_is_cut_in_the_middle_is_asked_for_again(
    attempts: Callable[..., Attempts],
) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    here.relay.cut_after = [2_000]
    outcome = await here.run(llm={"max_retries": 1})
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, BRANCH), outcome
    # The cut answer counts too: with what was sent, by its size, and with what arrived.
    said = [one.used for one in here.relay.answered]
    assert (outcome.usage.requests, len(said)) == (3, 3)
    assert outcome.usage.input_tokens > sum(one.input for one in said)
    assert outcome.usage.output_tokens > sum(one.output for one in said)


async def test_answers_that_are_all_cut_end_the_attempt(attempts: Callable[..., Attempts]) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    here.relay.cut_after = [2_000, 2_000]
    outcome = await here.run(llm={"max_retries": 1})
    assert outcome.reason is Reason.MODEL_UNAVAILABLE, outcome
    assert len(here.relay.exchanges) == outcome.usage.requests == 2


async def test_the_allowance_ends_the_task(attempts: Callable[..., Attempts]) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    outcome = await here.run(allowance=Allowance(tokens=1_500))
    assert outcome.reason is Reason.BUDGET_EXCEEDED, outcome
    assert len(here.relay.exchanges) == 1
    here.check_counted(outcome)


async def test_the_number_of_requests_ends_the_task(attempts: Callable[..., Attempts]) -> None:
    here = attempts()
    here.ask(*TRIVIAL)
    outcome = await here.run(sections={"max_llm_process_num": 1})
    assert outcome.reason is Reason.LIMIT_REACHED, outcome
    assert len(here.relay.exchanges) == 1
    here.check_counted(outcome)


async def test_a_slow_first_token_is_waited_for(
    attempts: Callable[..., Attempts], serve_model: Callable[..., LocalModel]
) -> None:
    here, model = attempts(), serve_model()
    here.ask(*TRIVIAL)
    model.pause()
    try:
        working = asyncio.create_task(here.run(llm={"max_retries": 0}))
        await until_async("the model is asked", lambda: here.relay.exchanges or working.done())
        await asyncio.wait([working], timeout=3)  # so long the model says nothing
        assert not working.done()
    finally:
        model.go_on()
    outcome = await working
    assert outcome.reason is Reason.COMPLETED, outcome
    here.check_counted(outcome)


@pytest.mark.parametrize(
    ("timeout", "reason", "requests"),
    [(150, Reason.MODEL_UNAVAILABLE, 2), (8, Reason.DEADLINE_EXCEEDED, 1)],
)
async def test_a_model_that_says_nothing_ends_the_attempt(
    attempts: Callable[..., Attempts],
    serve_model: Callable[..., LocalModel],
    timeout: int,
    reason: Reason,
    requests: int,
) -> None:
    here, model = attempts(), serve_model()
    here.ask(*TRIVIAL)
    silence = 2 if reason is Reason.MODEL_UNAVAILABLE else 60
    model.pause()
    try:
        outcome = await here.run(llm={"request_timeout": silence, "max_retries": 1}, timeout=timeout)
    finally:
        model.go_on()
    assert outcome.reason is reason, outcome
    assert len(here.relay.exchanges) == requests
