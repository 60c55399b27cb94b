"""The scripted model, held against the vendors' own types.

Their clients speak to it in tests/integration/consumer_agent, the CLI agents in consumer_runners.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from coding_agent_testbed.model import ModelServer
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fixtures.model import API_KEY, model_server, script

# One for all, because each client loads all certificate authorities.
HTTP = httpx2.Client(timeout=60, limits=httpx2.Limits(max_keepalive_connections=0))
PATHS = {
    "anthropic": "/v1/messages?beta=true",
    "responses": "/v1/responses",
    "chat": "/v1/chat/completions",
    "google": "/v1beta/models/m:generateContent",
    "google-stream": "/v1beta/models/m:streamGenerateContent?alt=sse",
}
FORMATS = ["anthropic", "responses", "chat", "google"]
TURN = {
    "text": "Hi there, you.",
    "calls": [{"tool": "f", "arguments": {"x": "a/b"}}, {"tool": "g"}],
    "prompt_tokens": 100,
    "cache_read_tokens": 60,
    "cache_write_tokens": 10,
    "output_tokens": 7,
}


def post(server: ModelServer, wire: str, *, stream: bool) -> httpx2.Response:
    said = {"role": "user", "content": "hello"}
    body = {
        "anthropic": {"model": "m", "max_tokens": 9, "messages": [said], "stream": stream},
        "responses": {"model": "m", "input": [said], "stream": stream},
        "chat": {
            **{"model": "m", "messages": [said], "stream": stream},
            "stream_options": {"include_usage": True},
        },
        "google": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]},
    }[wire]
    path = PATHS["google-stream"] if (wire, stream) == ("google", True) else PATHS[wire]
    return HTTP.post(server.url + path, json=body, headers={"x-api-key": API_KEY})


def data(answer: httpx2.Response) -> Iterator[Any]:
    for line in answer.text.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


WHOLE: dict[str, Callable[[Any], Any]] = {
    "anthropic": Message.model_validate,
    "responses": Response.model_validate,
    "chat": ChatCompletion.model_validate,
    "google": GenerateContentResponse.model_validate,
}
EVENT: dict[str, Callable[[Any], Any]] = {
    "anthropic": TypeAdapter(RawMessageStreamEvent).validate_python,
    "responses": TypeAdapter(ResponseStreamEvent).validate_python,
    "chat": ChatCompletionChunk.model_validate,
    "google": GenerateContentResponse.model_validate,
}


@pytest.mark.parametrize("wire", FORMATS)
def test_answers_and_events_have_the_vendors_own_form_and_are_counted(wire: str) -> None:
    with model_server(script(TURN)) as server:
        answer, streamed = (post(server, wire, stream=stream) for stream in (False, True))
        assert server.usage == HTTP.get(f"{server.url}/_sandbox/usage").json()
        log = HTTP.get(f"{server.url}/_sandbox/requests")
    assert answer.status_code == 200
    WHOLE[wire](answer.json())
    events = [entry for entry in data(streamed) if entry.get("type") != "ping"]
    assert len(events) >= 4
    for entry in events:
        EVENT[wire](entry)
    assert server.usage["m"] == {
        **{"answers": 2, "input_tokens": 200, "output_tokens": 14},
        **{"cache_read_tokens": 120, "cache_write_tokens": 20},
    }
    assert [(entry["format"], entry["status"]) for entry in log.json()] == [(wire, 200)] * 2
    assert API_KEY not in log.text
