"""The scripted model, spoken to by the vendors' own clients and held against their own types."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from coding_agent_model import ModelServer, Script
from coding_agent_model.script import Turn
from google import genai
from google.genai.types import GenerateContentResponse, HttpOptions
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fixtures.model import API_KEY, model_server, script

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
SHELLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Bash": (
        {"command": {"type": "string"}, "description": {"type": "string"}},
        {"command": "ls", "description": "scripted"},
    ),
    "exec_command": ({"cmd": {"type": "string"}}, {"cmd": "ls"}),
    "shell": ({"command": {"type": "array"}}, {"command": ["bash", "-lc", "ls"]}),
    "run_shell_command": ({"command": {"type": "string"}}, {"command": "ls"}),
}


def request(wire: str, text: str = "hello", *, stream: bool = False, tools: tuple[str, ...] = ()) -> Any:
    """A minimal request with these tools."""
    schemas = {
        name: {"type": "object", "properties": SHELLS[name][0], "required": list(SHELLS[name][0])}
        for name in tools
    }
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
    return httpx.post(
        server.url + path, json=request(wire, stream=stream, **more), headers=headers, timeout=60
    )


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
def test_an_answer_has_the_vendors_own_form(wire: str) -> None:
    with model_server(script(TURN)) as server:
        answer = post(server, wire)
    assert answer.status_code == 200
    WHOLE[wire](answer.json())


@pytest.mark.parametrize("wire", FORMATS)
def test_each_event_has_the_vendors_own_form(wire: str) -> None:
    with model_server(script(TURN)) as server:
        answer = post(server, wire, stream=True)
    events = [entry for entry in data(answer) if entry.get("type") != "ping"]
    assert len(events) >= 4
    for entry in events:
        EVENT[wire](entry)


def test_anthropics_client_puts_the_stream_together() -> None:
    with (
        model_server(script(TURN)) as server,
        Anthropic(base_url=server.url, api_key=API_KEY, max_retries=0) as client,
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
        ) as stream,
    ):
        message = stream.get_final_message()
        counted = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "hello"}])
    text, first, second = message.content
    assert (text.type, first.type, second.type) == ("text", "tool_use", "tool_use")
    assert first.input == {"x": "a/b"}  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (
        30,
        60,
        10,
    )
    assert usage.output_tokens == 7
    assert isinstance(counted, MessageTokensCount)


def test_openais_client_puts_the_stream_together() -> None:
    with (
        model_server(script(TURN)) as server,
        OpenAI(base_url=server.base_url, api_key=API_KEY, max_retries=0) as client,
        client.responses.stream(model="m", input="hello") as stream,
    ):
        response = stream.get_final_response()
    assert response.output_text == "Hi there, you."
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [("f", '{"x": "a/b"}'), ("g", "{}")]
    assert response.usage is not None
    assert response.usage.input_tokens == 100
    assert response.usage.input_tokens_details.cached_tokens == 60


def test_googles_client_puts_the_stream_together() -> None:
    with (
        model_server(script(TURN)) as server,
        genai.Client(api_key=API_KEY, http_options=HttpOptions(base_url=server.url)) as client,
    ):
        chunks = list(client.models.generate_content_stream(model="m", contents="hello"))
    parts = [part for chunk in chunks for part in (chunk.parts or [])]
    assert "".join(part.text or "" for part in parts) == "Hi there, you."
    calls = [part.function_call for part in parts if part.function_call]
    assert [(call.name, call.args) for call in calls] == [("f", {"x": "a/b"}), ("g", {})]
    usage = chunks[-1].usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (100, 60)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("wire", FORMATS)
def test_what_was_served_is_counted(wire: str, stream: bool) -> None:
    with model_server(script(TURN)) as server:
        post(server, wire, stream=stream)
        assert post(server, wire, stream=stream).status_code == 200
        assert server.usage == httpx.get(f"{server.url}/_sandbox/usage", timeout=60).json()
        assert server.usage["m"] == {
            "answers": 2,
            "input_tokens": 200,
            "output_tokens": 14,
            "cache_read_tokens": 120,
            "cache_write_tokens": 20,
        }
        assert [entry["format"] for entry in server.requests] == [wire, wire]


@pytest.mark.parametrize(("tool", "arguments"), [(name, entry[1]) for name, entry in SHELLS.items()])
@pytest.mark.parametrize("wire", FORMATS)
def test_a_command_is_run_by_the_shell_that_the_request_offers(
    wire: str, tool: str, arguments: dict[str, Any]
) -> None:
    with model_server(script({"calls": [{"run": "ls"}]})) as server:
        answer = post(server, wire, tools=(tool,)).json()
    assert _call(wire, answer) == (tool, arguments)


def _call(wire: str, answer: Any) -> tuple[str, Any]:
    match wire:
        case "anthropic":
            return answer["content"][0]["name"], answer["content"][0]["input"]
        case "responses":
            return answer["output"][0]["name"], json.loads(answer["output"][0]["arguments"])
        case "chat":
            function = answer["choices"][0]["message"]["tool_calls"][0]["function"]
            return function["name"], json.loads(function["arguments"])
    call = answer["candidates"][0]["content"]["parts"][0]["functionCall"]
    return call["name"], call["args"]


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
        first = httpx.post(server.url + PATHS[wire], json=body, headers=headers, timeout=60).json()
        wrong = httpx.post(
            server.url + PATHS[wire], json=_next(wire, body, first, "b.txt"), headers=headers, timeout=60
        )
        assert wrong.status_code == 409
        assert "got: 'b.txt'" in wrong.json()["error"]["message"]
        right = httpx.post(
            server.url + PATHS[wire], json=_next(wire, body, first, "a.txt"), headers=headers, timeout=60
        )
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
    failure = {"error": {"status": status, "times": 0, "message": "Not now.", "retry_after": 2}}
    with model_server(script(failure)) as server:
        answers = {wire: post(server, wire) for wire in FORMATS}
    assert {answer.status_code for answer in answers.values()} == {status}
    assert {answer.headers["retry-after"] for answer in answers.values()} == {"2"}
    assert {answer.json()["error"]["message"] for answer in answers.values()} == {"Not now."}
    assert answers["anthropic"].json()["error"]["type"] == anthropic
    assert answers["google"].json()["error"]["status"] == google
    assert answers["google"].json()["error"]["details"][0]["retryDelay"] == "2s"
    assert answers["responses"].json() == answers["chat"].json()


@pytest.mark.parametrize("wire", FORMATS)
def test_a_stream_can_be_cut_and_can_stall(wire: str) -> None:
    with model_server(script({"text": "Hi there.", "cut": 1, "stall": 1})) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            post(server, wire, stream=True)
        path = PATHS["google-stream"] if wire == "google" else PATHS[wire]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                server.url + path,
                json=request(wire, stream=True),
                headers={"x-api-key": API_KEY},
                timeout=httpx.Timeout(60, read=0.3),
            )
        assert post(server, wire, stream=True).status_code == 200
        assert server.usage["m"]["answers"] == 3


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "k"}, {"x-goog-api-key": "k"}, {"Authorization": "Bearer k"}],
    ids=lambda entry: next(iter(entry)),
)
def test_the_key_is_taken_from_where_the_clients_put_it(wire: str, headers: dict[str, str]) -> None:
    with model_server(script({"text": "Hi."}), api_key="k") as server:
        url, body = server.url + PATHS[wire], request(wire)
        assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
        refused = httpx.post(url, json=body, headers=dict.fromkeys(headers, "Bearer wrong"), timeout=60)
    assert refused.status_code == 401


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"messages": 1, "input": 1, "contents": [1]}'])
def test_a_bad_request_is_refused(wire: str, content: bytes) -> None:
    with model_server(script({"text": "Hi."}), api_key=None) as server:
        assert httpx.post(server.url + PATHS[wire], content=content, timeout=60).status_code == 400


def test_what_clients_ask_before_they_start_is_answered() -> None:
    with model_server(script({"text": "Hi."}), api_key=None) as server:
        assert httpx.head(server.url, timeout=60).status_code == 200
        assert httpx.get(f"{server.base_url}/models", timeout=60).json()["data"][0]["id"] == "scripted"
        assert httpx.get(f"{server.url}/v1beta/models", timeout=60).json()["models"]
