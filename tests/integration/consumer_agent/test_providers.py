"""The agent works alike with each provider, in its own wire format, over real HTTP."""

import base64
from typing import Any

import pytest
from coding_agent_consumer.agent.upstreams import upstreams
from coding_agent_consumer.agent_interface import Image
from coding_agent_consumer.gateway.gateway_server import open_gateway
from coding_agent_core.task.reasons import Reason
from pydantic_ai.models import anthropic, google, openai  # noqa: F401 - before an attempt's clock runs

from tests.fixtures.model import (
    API_KEY,
    PROVIDERS,
    call,
    finish,
    model_server,
    model_settings,
    provider_settings,
    script,
)
from tests.integration.consumer_agent.running import Running, running

__all__ = ["running"]

FORMATS = {"ollama": "chat", "lmstudio": "chat"}
PICTURE = Image("/uploads/a.png", "image/png", b"\x89PNG\r\n\x1a\nnot really a picture")
ENCODED = base64.b64encode(PICTURE.data).decode()
KEYED = ("anthropic", "responses", "chat", "google")


def error(**data: Any) -> dict[str, Any]:
    return {"error": data}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("way", PROVIDERS)
async def test_each_provider_does_the_work_sees_the_image_and_is_counted(
    running: Running, way: str, stream: bool
) -> None:
    counts = {"prompt_tokens": 1000, "cache_read_tokens": 700, "output_tokens": 40}
    turns = (
        {"text": "I write it.", **call("write_file", path="a.txt", content="made"), **counts},
        {**finish("Made a.txt."), "expect": "Wrote a\\.txt"},
    )
    key = None if way in FORMATS else API_KEY
    with model_server(script(*turns), api_key=key) as server:
        settings = provider_settings(server, way, stream=stream)
        async with open_gateway(upstreams(settings)) as gateway:
            outcome = await running.work(settings, gateway=gateway, images=(PICTURE,))
        counted = gateway.usage  # of a stream, the end may come after the last event, which ends the work
        served, requests = server.usage["scripted"], server.requests
    assert (outcome.reason, outcome.summary) == (Reason.COMPLETED, "Made a.txt."), outcome.message
    assert (running.root / "tree/a.txt").read_text() == "made"
    assert {(entry["format"], bool(entry.get("stream"))) for entry in requests} == {
        (FORMATS.get(way, way), stream)
    }
    for usage in (counted, outcome.usage):
        assert usage.requests == served["answers"] == 2
        assert (usage.input_tokens, usage.output_tokens) == (served["input_tokens"], served["output_tokens"])
    assert all(
        ENCODED in text and PICTURE.link in text
        for text in (str(entry).replace("\\n", "") for entry in requests)
    )
    assert "[image]" in running.transcript.read_text()
    assert ENCODED not in running.transcript.read_text(), "transcripts hold text alone"


@pytest.mark.parametrize("way", KEYED)
@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (401, Reason.MODEL_REFUSED, "refused our key"),
        (400, Reason.MODEL_REFUSED, "Not now."),
        (402, Reason.MODEL_REFUSED, "HTTP 402"),
        (429, Reason.MODEL_UNAVAILABLE, "rate-limiting us"),
        (529, Reason.MODEL_UNAVAILABLE, "HTTP 529"),
    ],
)
async def test_each_failure_ends_in_its_outcome(
    running: Running, way: str, status: int, reason: Reason, words: str
) -> None:
    with model_server(script(error(times=0, status=status, message="Not now.")), api_key=None) as server:
        outcome = await running.work(provider_settings(server, way, max_retries=1))
        tried = len(server.requests)
    assert outcome.reason is reason, outcome.message
    assert words in outcome.message
    assert tried == (2 if reason is Reason.MODEL_UNAVAILABLE else 1)


@pytest.mark.parametrize("way", KEYED)
async def test_what_fails_for_a_time_is_asked_for_again(running: Running, way: str) -> None:
    turn = {**call("list_files"), "cut": 1}
    with model_server(script(error(status=429, retry_after=7), turn, finish()), api_key=None) as server:
        outcome = await running.work(provider_settings(server, way, request_timeout=60, stream=True))
        assert len(server.requests) == 4
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert (running.waits[0], len(running.waits)) == (7, 2)


@pytest.mark.parametrize("way", KEYED)
async def test_what_falls_silent_in_mid_answer_is_asked_for_again(running: Running, way: str) -> None:
    turn = {**call("list_files"), "stall": 1}
    with model_server(script(turn, finish()), api_key=None) as server:
        hasty = provider_settings(server, way, request_timeout=2, stream=True)  # meant to expire
        outcome = await running.work(hasty)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert running.waits, "the silent answer was given up"


@pytest.mark.parametrize("way", KEYED)
async def test_a_conversation_that_is_too_long_is_compressed(running: Running, way: str) -> None:
    too_long = {
        "anthropic": "prompt is too long: 210000 tokens > 200000 maximum",
        "google": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    }.get(way, "Your input exceeds the context window of this model.")
    failure = error(status=400, code="context_length_exceeded", message=too_long)
    turns = (call("list_files"), call("read_file", path="a"), failure, finish())
    summary = script({"text": "I read a."}, match="conversation got too long")
    with model_server(summary, script(*turns), api_key=None) as server:
        settings = provider_settings(server, way)
        storage = settings.context_storage.model_copy(update={"keep_recent_messages": 1})
        outcome = await running.work(settings.model_copy(update={"context_storage": storage}))
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert any(step.kind == "compress" for step in running.steps)


async def test_anthropic_is_told_what_to_cache(running: Running) -> None:
    with model_server(script(call("list_files"), finish()), api_key=None) as server:
        await running.work(provider_settings(server, "anthropic"))
        first, second = server.requests
    for body in (first, second):
        assert body["tools"][-1]["cache_control"]["type"] == "ephemeral"
        assert body["system"][-1]["cache_control"]["type"] == "ephemeral"
        assert body["messages"][-1]["content"][-1]["cache_control"]["type"] == "ephemeral"
        marked = str(body).count("cache_control")
        assert marked <= 4, "the service takes four marks at most"
    assert first["tools"] == second["tools"], "the prefix must not change"
    assert first["system"] == second["system"]


async def test_responses_are_not_stored(running: Running) -> None:
    with model_server(script(call("list_files"), finish()), api_key=None) as server:
        await running.work(provider_settings(server, "responses"))
        assert [body["store"] for body in server.requests] == [False, False]
        assert "previous_response_id" not in server.requests[1]


@pytest.mark.parametrize("way", KEYED)
async def test_a_model_that_cannot_see_goes_on_without_the_images(running: Running, way: str) -> None:
    refusal = error(status=400, times=0, message="This model does not support image input.")
    blind = script(call("list_files"), finish(), match=r"\[image\]")
    with model_server(blind, script(refusal), api_key=None) as server:
        outcome = await running.work(provider_settings(server, way), images=(PICTURE,))
        asked = [ENCODED in str(entry) for entry in server.requests]
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert asked == [True, False, False]
    assert "refused the images" in running.steps[0].title


SUMMARY = script({"text": "a.txt holds a; b.txt is next."}, match="^You work on a task", name="summary")
SMALL = {"openai": {"context_length": 8000}, "max_retries": 1}
STEPS = [call("run_command", command=f"echo step {number}") for number in range(6)]


async def test_over_the_threshold_older_messages_become_a_summary(running: Running) -> None:
    steps = [*STEPS[:4], {**STEPS[4], "prompt_tokens": 7000}]
    with model_server(SUMMARY, script(*steps, finish(), match="fix")) as server:
        settings = model_settings(server.base_url, llm=SMALL, context_storage={"keep_recent_messages": 3})
        outcome = await running.work(settings, "Please fix it.")
        after = server.requests[-1]
    assert outcome.reason is Reason.COMPLETED
    assert [request["script"] for request in server.requests] == ["test"] * 5 + ["summary", "test"]
    roles = [message["role"] for message in after["messages"]]
    assert " ".join(roles) in [
        f"system {users} assistant tool assistant tool" for users in ("user", "user user")
    ]
    text = str(after["messages"])
    assert "Please fix it." in text
    assert "a.txt holds a; b.txt is next." in text
    assert "step 4" in text
    assert "step 0" not in text
    assert outcome.usage.requests == 7, "the summary is counted too"
    assert [step.kind for step in running.steps].count("compress") == 1


async def test_what_never_fits_ends_with_a_sentence(running: Running) -> None:
    never = {"error": {"status": 400, "code": "context_length_exceeded", "times": 0}}
    with model_server(SUMMARY, script(*STEPS, never, match="fix")) as server:
        outcome = await running.work(model_settings(server.base_url), "Please fix it.")
        refused = [request for request in server.requests if request["status"] == 400]
    assert outcome.reason is Reason.LIMIT_REACHED
    assert "llm.openai.context_length" in outcome.message
    assert len(refused) == 4
