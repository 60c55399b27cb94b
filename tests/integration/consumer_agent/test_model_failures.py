"""Each failure of the model ends in the right outcome with a plain sentence."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.reasons import Reason
from coding_agent_core.tasks import host_of

from tests.fixtures.model import API_KEY, call, finish, model_server, model_settings, script
from tests.integration.consumer_agent.running import Running

TOO_LONG = {
    "status": 400,
    "code": "context_length_exceeded",
    "message": "maximum context length is 8192 tokens",
}


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


def error(**data: Any) -> dict[str, Any]:
    return {"error": data}


async def test_a_rate_limit_is_waited_out_as_long_as_the_service_asks(running: Running) -> None:
    with model_server(
        script(error(status=429, retry_after=7, times=2), call("list_files"), finish())
    ) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 4
    assert outcome.reason is Reason.COMPLETED
    assert running.waits == [7, 7]
    assert outcome.usage.requests == 2


async def test_a_rate_limit_without_end_makes_the_model_unavailable(running: Running) -> None:
    with model_server(script(error(status=429, retry_after=3, times=0))) as server:
        outcome = await running.work(model_settings(server.base_url, llm={"max_retries": 2}))
        assert len(server.requests) == 3
        assert (
            outcome.message
            == f"The model's service at {host_of(server.base_url)} is rate-limiting us (HTTP 429)."
        )
    assert (outcome.reason, outcome.retry_after) == (Reason.MODEL_UNAVAILABLE, 3)


async def test_a_wait_too_long_for_an_attempt_is_left_to_the_next(running: Running) -> None:
    with model_server(script(error(status=429, retry_after=3600, times=0))) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 1
    assert (outcome.reason, outcome.retry_after) == (Reason.MODEL_UNAVAILABLE, 3600)


async def test_server_errors_are_tried_again_with_growing_waits(running: Running) -> None:
    with model_server(script(error(status=500, times=3), call("list_files"), finish())) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert outcome.reason is Reason.COMPLETED
    assert len(running.waits) == 3
    for wait, step in zip(running.waits, (1, 2, 4), strict=True):
        assert step / 2 <= wait <= step


async def test_server_errors_without_end_make_the_model_unavailable(running: Running) -> None:
    turns = (call("list_files"), error(status=500, times=0))
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url, llm={"max_retries": 2}))
        assert len(server.requests) == 4
    assert outcome.reason is Reason.MODEL_UNAVAILABLE
    assert outcome.message.endswith("is not available (HTTP 500).")
    assert outcome.usage.requests == 1, "what was used before the failure counts"


async def test_a_cut_answer_is_asked_for_again(running: Running) -> None:
    with model_server(script({**call("list_files"), "cut": 2}, finish())) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 4
    assert outcome.reason is Reason.COMPLETED
    assert len(running.waits) == 2


async def test_answers_that_are_always_cut_make_the_model_unavailable(running: Running) -> None:
    with model_server(script({**call("list_files"), "cut": -1})) as server:
        outcome = await running.work(model_settings(server.base_url, llm={"max_retries": 1}))
    assert outcome.reason is Reason.MODEL_UNAVAILABLE


async def test_a_service_that_is_not_there_makes_the_model_unavailable(running: Running) -> None:
    outcome = await running.work(model_settings("http://127.0.0.1:1/v1", llm={"max_retries": 1}))
    assert (outcome.reason, len(running.waits)) == (Reason.MODEL_UNAVAILABLE, 1)


async def test_a_silent_service_is_given_up_after_the_request_timeout(running: Running) -> None:
    with model_server(script({**finish(), "delay_ms": 5000})) as server:
        settings = model_settings(server.base_url, llm={"request_timeout": 0.2, "max_retries": 1})
        outcome = await running.work(settings)
    assert outcome.reason is Reason.MODEL_UNAVAILABLE
    assert outcome.message.endswith("did not answer within 0.2 s (llm.request_timeout).")


async def test_malformed_arguments_are_told_to_the_model(running: Running) -> None:
    broken = {"calls": [{"tool": "read_file", "raw_arguments": '{"path": "a'}]}
    with model_server(script(broken, call("list_files"), finish())) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert "json" in server.requests[1]["messages"][-1]["content"].lower()
    assert outcome.reason is Reason.COMPLETED


@pytest.mark.parametrize(
    "turn",
    [
        {"calls": [{"tool": "read_file", "raw_arguments": '{"path": "a'}]},
        {"calls": [{"tool": "read_file", "arguments": {"file": "a"}}]},
        {"calls": [{"tool": "no_such_tool", "arguments": {}}]},
        {"text": "I think the bug is in a.py."},
        {"text": '{"name": "read_file", "arguments": {"path": "a.py"}}'},
        {"text": ""},
    ],
    ids=["broken json", "wrong arguments", "unknown tool", "no tools at all", "call as text", "empty"],
)
async def test_malformed_answers_in_a_row_end_the_attempt(running: Running, turn: dict[str, Any]) -> None:
    with model_server(script(turn, loop=True)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 5
    assert outcome.reason is Reason.MODEL_MALFORMED
    assert outcome.message == (
        "The model answered 5 times in a row without a usable tool call; check that"
        " llm.openai.model supports tool calls."
    )


async def test_a_tool_that_fails_forever_ends_the_attempt(running: Running) -> None:
    running.workspace.refuse = "The disk is full."
    turns = [call("write_file", path=f"{number}.txt", content="x") for number in range(9)]
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 3
    assert outcome.reason is Reason.TOOL_FAILING
    assert outcome.message == (
        "The agent's tool `write_file` failed 3 times in a row; the last error was: The disk is full."
    )


async def test_an_endless_loop_is_noticed(running: Running) -> None:
    with model_server(script(call("run_command", command="echo same"), loop=True)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 5
    assert outcome.reason is Reason.LIMIT_REACHED
    assert "repeated the same step 5 times with the same result (`run_command`)" in outcome.message


async def test_the_number_of_requests_is_bounded(running: Running) -> None:
    turns = [call("run_command", command=f"echo {number}") for number in range(9)]
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url, max_llm_process_num=4))
        assert len(server.requests) == 4
    assert (outcome.reason, outcome.usage.requests) == (Reason.LIMIT_REACHED, 4)
    assert "4 requests" in outcome.message
    assert "max_llm_process_num" in outcome.message


async def test_a_stop_ends_a_running_tool_within_seconds(running: Running) -> None:
    with model_server(script(call("run_command", command="sleep 60"))) as server:
        work = asyncio.create_task(running.work(model_settings(server.base_url)))
        async with asyncio.timeout(60):
            await running.workspace.running.wait()
            running.stop.set()
            outcome = await work
    assert (outcome.reason, outcome.usage.requests) == (Reason.CANCELLED, 1)
    assert running.workspace.killed == ["sleep 60"]


async def test_the_deadline_ends_the_attempt(running: Running) -> None:
    # A busy machine may take longer than the first of these before the command runs.
    for seconds in (0.5, 5, 30):
        with model_server(script(call("run_command", command="sleep 60"))) as server:
            async with asyncio.timeout(60):
                outcome = await running.work(model_settings(server.base_url), timeout=seconds)
        if running.workspace.killed:
            break
    assert (outcome.reason, outcome.usage.requests) == (Reason.DEADLINE_EXCEEDED, 1)
    assert "consumer.timeout_seconds" in outcome.message
    assert running.workspace.killed == ["sleep 60"]


async def test_a_lost_workspace_ends_the_attempt(running: Running) -> None:
    running.workspace.gone = True
    with model_server(script(call("list_files"))) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert (outcome.reason, outcome.usage.requests) == (Reason.WORKSPACE_FAILED, 1)


async def test_a_wrong_key_names_the_setting_and_not_the_key(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "sk-wrong-9876543210"
    with model_server(script(finish()), api_key=API_KEY) as server:
        outcome = await running.work(model_settings(server.base_url, api_key=wrong))
        host = host_of(server.base_url)
        expected = f"The model's service at {host} refused our key (HTTP 401): "
        expected += "check `llm.openai.api_key` (OPENAI_API_KEY)."
    assert (outcome.reason, outcome.message) == (Reason.MODEL_REFUSED, expected)
    assert running.waits == []
    assert wrong not in caplog.text


async def test_a_model_without_tools_is_named_at_once(running: Running) -> None:
    refusal = error(status=400, message="registry.ollama.ai/library/gemma:2b does not support tools", times=0)
    with model_server(script(refusal)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 1
    assert outcome.reason is Reason.MODEL_REFUSED
    assert outcome.message == (
        "The model 'scripted' does not support tool calls, which the agent needs: choose another"
        " llm.openai.model."
    )


async def test_an_unknown_model_names_the_setting(running: Running) -> None:
    refusal = error(status=404, code="model_not_found", message="no such model", times=0)
    with model_server(script(refusal)) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert outcome.reason is Reason.MODEL_REFUSED
    assert "llm.openai.model" in outcome.message


async def test_openai_without_a_key_is_a_configuration_error(running: Running) -> None:
    outcome = await running.work(model_settings("https://api.openai.com/v1", api_key=""))
    assert outcome.reason is Reason.CONFIGURATION
    assert "llm.openai.api_key" in outcome.message


@pytest.mark.parametrize(
    "turn",
    [
        {"calls": [{"tool": "write_file", "raw_arguments": '{"path": "a'}], "finish_reason": "length"},
        {"text": "", "finish_reason": "length"},
    ],
    ids=["in a call", "before it said anything"],
)
async def test_answers_cut_at_the_token_limit_name_the_setting(
    running: Running, turn: dict[str, Any]
) -> None:
    with model_server(script(turn, loop=True)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 5
    assert outcome.reason is Reason.MODEL_MALFORMED
    assert outcome.message == (
        "The model's answers were cut off 5 times in a row; raise llm.openai.max_token."
    )


async def test_after_an_answer_that_was_cut_off_the_model_is_asked_for_less(running: Running) -> None:
    cut = {"text": "", "finish_reason": "length"}
    with model_server(script(cut, call("list_files"), finish())) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert "smaller steps" in str(server.requests[1]["messages"][-1]["content"])
    assert outcome.reason is Reason.COMPLETED
