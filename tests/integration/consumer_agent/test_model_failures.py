"""Each failure of the model ends in the right outcome with a plain sentence."""

import asyncio
import logging
from typing import Any

import pytest
from coding_agent_consumer.transcripts.transcript import read, recap
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.task.reasons import Reason

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
            "rate-limiting us (HTTP 429). It asks for a wait of 3 s.",
        ),
        (
            {"status": 429, "retry_after": 3600},
            2,
            Reason.MODEL_UNAVAILABLE,
            1,
            [],
            " It asks for a wait of 3600 s.",
        ),
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
        limits = {"request_timeout": 0.2, "max_retries": 1}  # meant to expire
        settings = model_settings(server.base_url, llm=limits)
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


async def test_a_plain_answer_after_work_ends_it_too(running: Running) -> None:
    with model_server(
        script(call("write_file", path="a.txt", content="a"), {"text": "Wrote a.txt."})
    ) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert (outcome.reason, outcome.summary) == (Reason.COMPLETED, "Wrote a.txt.")
    assert (running.workspace.root / "a.txt").read_text() == "a"


async def test_a_model_that_only_announces_is_told_to_use_its_tools(running: Running) -> None:
    turns = ({"text": "I will look at it."}, call("list_files"), finish())
    with model_server(script(*turns)) as server:
        outcome = await running.work(model_settings(server.base_url))
        told = server.requests[1]["messages"][-1]["content"]
        choices = {request.get("tool_choice") for request in server.requests}
    assert outcome.reason is Reason.COMPLETED
    assert "Nothing was done yet" in told
    assert choices == {"auto"}, "no request forces a call"


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        ("nothing_to_change", Reason.NOTHING_TO_CHANGE, "The agent found nothing to change."),
        ("cannot", Reason.CANNOT_BE_DONE, "The agent cannot do this: The file is not here."),
    ],
)
async def test_the_model_may_say_that_nothing_is_to_be_done(
    running: Running, status: str, reason: Reason, message: str
) -> None:
    with model_server(script(finish("The file is not here.", status))) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert (outcome.reason, outcome.message) == (reason, message)


async def test_the_key_is_seen_nowhere(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shows_key = call("run_command", command=f"echo {API_KEY}")
    overload = {"error": {"status": 503, "message": f"overloaded, {API_KEY}"}}
    with model_server(script(shows_key, overload, finish(f"The key is {API_KEY}"))) as server:
        outcome = await running.work(model_settings(server.base_url))
    assert outcome.reason is Reason.COMPLETED
    kinds = [message["kind"] for message in read(running.transcript)]
    assert kinds == ["request", "response"] * 2
    assert "called run_command" in recap(running.transcript)
    assert API_KEY not in running.transcript.read_text()
    assert "***" in running.transcript.read_text()
    assert API_KEY not in repr(running.steps)
    assert API_KEY not in repr(outcome)
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("coding_agent")
    )
    assert "retrying in" in ours
    assert API_KEY not in ours
    # The SDK logs whole requests at DEBUG, what the model was told included; the header is not among them.
    assert f"Bearer {API_KEY}" not in caplog.text
