"""Each failure of the model ends in the right outcome with a plain sentence."""

import asyncio
import logging
from typing import Any

import pytest
from coding_agent_core.reasons import Reason
from coding_agent_core.tasks import host_of

from tests.fixtures.model import API_KEY, call, finish, model_server, model_settings, script
from tests.integration.consumer_agent.running import Running, running

__all__ = ["running"]

Wait = float | tuple[float, float]


@pytest.mark.parametrize(
    ("failure", "retries", "reason", "asked", "waits", "message"),
    [
        ({"status": 429, "retry_after": 7, "times": 2}, 5, Reason.COMPLETED, 4, [7, 7], ""),
        ({"status": 500, "times": 3}, 5, Reason.COMPLETED, 5, [(0.5, 1), (1, 2), (2, 4)], ""),
        (
            {"status": 429, "retry_after": 3},
            2,
            Reason.MODEL_UNAVAILABLE,
            3,
            [3, 3],
            "rate-limiting us (HTTP 429).",
        ),
        ({"status": 429, "retry_after": 3600}, 2, Reason.MODEL_UNAVAILABLE, 1, [], "(HTTP 429)."),
        ({"status": 500}, 1, Reason.MODEL_UNAVAILABLE, 2, [(0.5, 1)], "is not available (HTTP 500)."),
    ],
    ids=str,
)
async def test_a_request_is_repeated_after_a_wait_until_there_is_no_sense_in_it(
    running: Running,
    failure: dict[str, Any],
    retries: int,
    reason: Reason,
    asked: int,
    waits: list[Wait],
    message: str,
) -> None:
    turns = ({"error": {"times": 0, **failure}}, call("list_files"), finish())
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url, llm={"max_retries": retries}))
        assert len(server.requests) == asked
        host = host_of(server.base_url)
    assert outcome.reason is reason
    if reason is Reason.MODEL_UNAVAILABLE:
        assert outcome.retry_after == failure.get("retry_after")
        assert outcome.message.startswith(f"The model's service at {host} is ")
        assert outcome.message.endswith(message)
    for waited, wait in zip(running.waits, waits, strict=True):
        least, most = wait if isinstance(wait, tuple) else (wait, wait)
        assert least <= waited <= most


async def test_a_cut_answer_is_asked_for_again_and_what_was_used_before_counts(running: Running) -> None:
    with model_server(script(call("list_files"), {**finish(), "cut": -1})) as server:
        outcome = await running.work(model_settings(server.base_url, llm={"max_retries": 1}))
        assert len(server.requests) == 3
    assert (outcome.reason, outcome.usage.requests) == (Reason.MODEL_UNAVAILABLE, 1)


async def test_a_silent_service_is_given_up_after_the_request_timeout(running: Running) -> None:
    with model_server(script({**finish(), "delay_ms": 5000})) as server:
        settings = model_settings(server.base_url, llm={"request_timeout": 0.2, "max_retries": 1})
        outcome = await running.work(settings)
    assert outcome.reason is Reason.MODEL_UNAVAILABLE
    assert outcome.message.endswith("did not answer within 0.2 s (llm.request_timeout).")


CUT_OFF = "The model's answers were cut off 5 times in a row; raise llm.openai.max_token."
UNUSABLE = (
    "The model answered 5 times in a row without a usable tool call; check that"
    " llm.openai.model supports tool calls."
)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"calls": [{"tool": "read_file", "raw_arguments": '{"path": "a'}]}, UNUSABLE),
        ({"calls": [{"tool": "read_file", "arguments": {"file": "a"}}]}, UNUSABLE),
        ({"calls": [{"tool": "no_such_tool", "arguments": {}}]}, UNUSABLE),
        ({"text": "I think the bug is in a.py."}, UNUSABLE),
        ({"text": ""}, UNUSABLE),
        ({"calls": [{"tool": "read_file", "raw_arguments": "{"}], "finish_reason": "length"}, CUT_OFF),
        ({"text": "", "finish_reason": "length"}, CUT_OFF),
    ],
    ids=["broken json", "wrong arguments", "unknown tool", "no call", "empty", "cut in a call", "cut"],
)
async def test_malformed_answers_in_a_row_end_the_attempt(
    running: Running, turn: dict[str, Any], message: str
) -> None:
    with model_server(script(turn, loop=True)) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 5
        said = str(server.requests[1]["messages"][-1]["content"])
    assert (outcome.reason, outcome.message) == (Reason.MODEL_MALFORMED, message)
    assert ("smaller steps" in said) is (turn == {"text": "", "finish_reason": "length"})
    assert ("json" in said.lower()) is ("raw_arguments" in str(turn)), "it is told what was wrong"


@pytest.mark.parametrize(
    ("turns", "asked", "reason", "message"),
    [
        (
            *([call("write_file", path=f"{n}.txt", content="x") for n in range(9)], 3, Reason.TOOL_FAILING),
            "The agent's tool `write_file` failed 3 times in a row; the last error was: The disk is full.",
        ),
        (
            *([call("run_command", command="echo same")] * 9, 5, Reason.LIMIT_REACHED),
            "repeated the same step 5 times with the same result (`run_command`)",
        ),
        (
            *([call("run_command", command=f"echo {n}") for n in range(9)], 6, Reason.LIMIT_REACHED),
            "max_llm_process_num",
        ),
    ],
    ids=["a tool that fails", "an endless loop", "many requests"],
)
async def test_work_that_leads_nowhere_is_ended(
    running: Running, turns: list[dict[str, Any]], asked: int, reason: Reason, message: str
) -> None:
    running.workspace.refuse = "The disk is full." if reason is Reason.TOOL_FAILING else None
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url, max_llm_process_num=6))
        assert len(server.requests) == asked == outcome.usage.requests
    assert outcome.reason is reason
    assert message in outcome.message


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


NO_TOOLS = (
    "The model 'scripted' does not support tool calls, which the agent needs: choose another"
    " llm.openai.model."
)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ({"status": 400, "message": "registry.ollama.ai/gemma:2b does not support tools"}, NO_TOOLS),
        ({"status": 404, "code": "model_not_found", "message": "no such model"}, "llm.openai.model"),
    ],
)
async def test_a_model_that_does_not_do_names_the_setting(
    running: Running, failure: dict[str, Any], message: str
) -> None:
    with model_server(script({"error": {"times": 0, **failure}})) as server:
        outcome = await running.work(model_settings(server.base_url))
        assert len(server.requests) == 1
    assert outcome.reason is Reason.MODEL_REFUSED
    assert message in outcome.message


async def test_openai_without_a_key_is_a_configuration_error(running: Running) -> None:
    outcome = await running.work(model_settings("https://api.openai.com/v1", api_key=""))
    assert outcome.reason is Reason.CONFIGURATION
    assert "llm.openai.api_key" in outcome.message
