"""The scripted model, held against the vendors' own types.

Their clients speak to it in tests/integration/consumer_agent, the CLI agents in consumer_runners.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from coding_agent_model import ModelServer
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fixtures.model import API_KEY, model_server, script

# One for all, because each client loads all certificate authorities.
HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
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
SHELL = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}


def request(wire: str, *, stream: bool = False, tools: bool = False) -> Any:
    """A minimal request, with a shell if there are tools."""
    function: dict[str, Any] = {"name": "Bash", "parameters": SHELL}
    body: dict[str, Any]
    match wire:
        case "anthropic":
            body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
            tool: dict[str, Any] = {"name": "Bash", "input_schema": SHELL}
        case "responses":
            body, tool = {"model": "m", "input": [{"role": "user", "content": "hello"}]}, {"type": "function"}
            tool |= function
        case "chat":
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            body["stream_options"] = {"include_usage": True}
            tool = {"type": "function", "function": function}
        case _:
            body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
            tool = {"functionDeclarations": [{"name": "Bash", "parametersJsonSchema": SHELL}]}
    body["tools"] = [tool] if tools else []
    return body if wire == "google" else {**body, "stream": stream}


def post(server: ModelServer, wire: str, body: Any = None, *, stream: bool = False) -> httpx.Response:
    path = PATHS["google-stream"] if (wire, stream) == ("google", True) else PATHS[wire]
    body = body or request(wire, stream=stream)
    return HTTP.post(server.url + path, json=body, headers={"x-api-key": API_KEY})


def data(answer: httpx.Response) -> Iterator[Any]:
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
        answer, streamed = post(server, wire), post(server, wire, stream=True)
        assert server.usage == HTTP.get(f"{server.url}/_sandbox/usage").json()
        log = HTTP.get(f"{server.url}/_sandbox/requests")
    assert answer.status_code == 200
    WHOLE[wire](answer.json())
    events = [entry for entry in data(streamed) if entry.get("type") != "ping"]
    assert len(events) >= 4
    for entry in events:
        EVENT[wire](entry)
    assert server.usage["m"] == {
        "answers": 2,
        "input_tokens": 200,
        "output_tokens": 14,
        "cache_read_tokens": 120,
        "cache_write_tokens": 20,
    }
    assert [(entry["format"], entry["position"], entry["status"]) for entry in log.json()] == [
        (wire, 0, 200)
    ] * 2
    assert API_KEY not in log.text


def _next(wire: str, body: Any, answer: Any, result: str) -> Any:
    """The request that follows an answer of one call, as the vendors' clients write it."""
    match wire:
        case "anthropic":
            block = {"type": "tool_result", "tool_use_id": answer["content"][0]["id"], "content": result}
            new = [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [block]}]
            return {**body, "messages": [*body["messages"], *new]}
        case "responses":
            call = answer["output"][0]
            output = {"type": "function_call_output", "call_id": call["call_id"], "output": result}
            return {**body, "input": [*body["input"], call, output]}
        case "chat":
            message = answer["choices"][0]["message"]
            tool = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": result}
            return {**body, "messages": [*body["messages"], message, tool]}
    part = {"functionResponse": {"name": "Bash", "response": {"output": result}}}
    new = [answer["candidates"][0]["content"], {"role": "user", "parts": [part]}]
    return {**body, "contents": [*body["contents"], *new]}


@pytest.mark.parametrize("wire", FORMATS)
def test_the_next_turn_follows_the_result_of_a_call(wire: str) -> None:
    turns = script({"calls": [{"run": "ls"}]}, {"text": "I saw it.", "expect": r"^a\.txt$"})
    with model_server(turns) as server:
        body = request(wire, tools=True)
        first = post(server, wire, body).json()
        wrong = post(server, wire, _next(wire, body, first, "b.txt"))
        assert wrong.status_code == 409
        assert "got: 'b.txt'" in wrong.json()["error"]["message"]
        right = post(server, wire, _next(wire, body, first, "a.txt"))
        assert "I saw it." in right.text
        assert [entry["position"] for entry in server.requests] == [0, 1, 1]
