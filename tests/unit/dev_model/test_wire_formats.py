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
from coding_agent_model import ModelServer, Script
from coding_agent_model.script import Turn
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


def request(wire: str, text: str = "hello", *, stream: bool = False, tools: tuple[str, ...] = ()) -> Any:
    """A minimal request with these tools."""
    schemas = dict.fromkeys(tools, SHELL)
    body: dict[str, Any]
    match wire:
        case "anthropic":
            body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
            body["tools"] = [{"name": name, "input_schema": schema} for name, schema in schemas.items()]
        case "responses":
            body = {"model": "m", "input": [{"role": "user", "content": text}]}
            body["tools"] = [
                {"type": "function", "name": name, "parameters": schema} for name, schema in schemas.items()
            ]
        case "chat":
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            body["stream_options"] = {"include_usage": True}
            body["tools"] = [
                {"type": "function", "function": {"name": name, "parameters": schema}}
                for name, schema in schemas.items()
            ]
        case _:
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
            declared = [{"name": name, "parametersJsonSchema": schema} for name, schema in schemas.items()]
            body["tools"] = [{"functionDeclarations": declared}]
    return body if wire == "google" else {**body, "stream": stream}


def post(server: ModelServer, wire: str, *, stream: bool = False, **more: Any) -> httpx.Response:
    path = PATHS["google-stream"] if (wire, stream) == ("google", True) else PATHS[wire]
    headers = {"x-api-key": API_KEY}
    return HTTP.post(server.url + path, json=request(wire, stream=stream, **more), headers=headers)


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
            new = [
                {"role": "assistant", "content": answer["content"]},
                {"role": "user", "content": [block]},
            ]
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
        body = request(wire, tools=("Bash",))
        headers = {"x-api-key": API_KEY}
        first = HTTP.post(server.url + PATHS[wire], json=body, headers=headers).json()
        wrong = HTTP.post(server.url + PATHS[wire], json=_next(wire, body, first, "b.txt"), headers=headers)
        assert wrong.status_code == 409
        assert "got: 'b.txt'" in wrong.json()["error"]["message"]
        right = HTTP.post(server.url + PATHS[wire], json=_next(wire, body, first, "a.txt"), headers=headers)
        assert "I saw it." in right.text
        assert [entry["position"] for entry in server.requests] == [0, 1, 1]


def test_a_script_may_match_what_was_said_last() -> None:
    asked = Script(latest="summarize", turns=(Turn(text="In short."),), loop=True)
    with ModelServer([asked, Script(turns=(Turn(text="At length."),))]) as server:
        texts = [post(server, FORMATS[0], text=text).text for text in ("please summarize", "please go on")]
    assert ["In short." in text for text in texts] == [True, False]


@pytest.mark.parametrize("wire", FORMATS)
def test_a_request_without_tools_is_no_turn_of_a_script_for_agents(wire: str) -> None:
    with model_server(script({"calls": [{"run": "ls"}]}, match="the task")) as server:
        answer = post(server, wire, text="a title for the task")
    assert answer.status_code == 200
    assert "Scripted aside." in answer.text


@pytest.mark.parametrize(
    ("status", "anthropic", "google"),
    [
        (400, "invalid_request_error", "INVALID_ARGUMENT"),
        (401, "authentication_error", "UNAUTHENTICATED"),
        (429, "rate_limit_error", "RESOURCE_EXHAUSTED"),
        (500, "api_error", "INTERNAL"),
        (529, "overloaded_error", "UNKNOWN"),
    ],
)
def test_each_vendor_names_errors_its_own_way(status: int, anthropic: str, google: str) -> None:
    failure = {"error": {"status": status, "times": 4, "message": "Not now.", "retry_after": 2}}
    with model_server(script(failure, {"text": "Hi."})) as server:
        answers = {wire: post(server, wire) for wire in FORMATS}
        assert post(server, FORMATS[0]).status_code == 200, "it fails as often as the script says"
        assert post(server, FORMATS[0], text="another conversation").status_code == status
    assert {answer.status_code for answer in answers.values()} == {status}
    assert {answer.headers["retry-after"] for answer in answers.values()} == {"2"}
    assert {answer.json()["error"]["message"] for answer in answers.values()} == {"Not now."}
    assert answers["anthropic"].json()["error"]["type"] == anthropic
    assert answers["google"].json()["error"]["status"] == google
    assert answers["google"].json()["error"]["details"][0]["retryDelay"] == "2s"
    assert answers["responses"].json() == answers["chat"].json()


@pytest.mark.parametrize("wire", FORMATS)
def test_the_key_is_taken_from_where_the_clients_put_it(wire: str) -> None:
    with model_server(script({"text": "Hi."}), api_key="k") as server:
        url, body = server.url + PATHS[wire], request(wire)
        for headers in ({"x-api-key": "k"}, {"x-goog-api-key": "k"}, {"Authorization": "Bearer k"}):
            assert HTTP.post(url, json=body, headers=headers).status_code == 200
            refused = HTTP.post(url, json=body, headers=dict.fromkeys(headers, "Bearer wrong"))
            assert refused.status_code == 401


@pytest.mark.parametrize("wire", FORMATS)
def test_a_bad_request_is_refused_and_a_script_that_is_over_says_so(wire: str) -> None:
    with model_server(script({"calls": [{"run": "ls"}]}), api_key=None) as server:
        url, body = server.url + PATHS[wire], request(wire, tools=("Bash",))
        for content in (b"{", b"[]", b'{"messages": 1, "input": 1, "contents": [1]}'):
            assert HTTP.post(url, content=content).status_code == 400
        first = HTTP.post(url, json=body).json()
        over = HTTP.post(url, json=_next(wire, body, first, "a.txt"))
    assert over.status_code == 409
    assert "is over" in over.json()["error"]["message"]
