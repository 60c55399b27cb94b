"""What may be asked of a provider by whoever holds the dummy credential."""

from __future__ import annotations

import json
from typing import Any

import pytest
from coding_agent_consumer.gateway.request import RequestRefusedError, read_request
from coding_agent_consumer.gateway.wire import Operation, Route, WireFormat

MESSAGES = Route(WireFormat.ANTHROPIC, Operation.MESSAGES, "/v1/messages")
RESPONSES = Route(WireFormat.OPENAI, Operation.RESPONSES, "/responses")
CHAT = Route(WireFormat.OPENAI, Operation.CHAT_COMPLETIONS, "/chat/completions")
GEMINI = Route(WireFormat.GOOGLE, Operation.GENERATE_CONTENT, "/v1beta/models/m:generateContent", "m")
ADDRESS = "https://evil.example.com/?the=secret"


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


WAYS_OUT = [
    (MESSAGES, {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (MESSAGES, {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}),
    (MESSAGES, {"mcp_servers": [{"type": "url", "url": ADDRESS}]}),
    (MESSAGES, _user({"type": "image", "source": {"type": "url", "url": ADDRESS}})),
    (
        MESSAGES,
        _user(
            {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": ADDRESS}}]}
        ),
    ),
    (RESPONSES, {"tools": [{"type": "mcp", "server_url": ADDRESS}]}),
    (RESPONSES, {"tools": [{"type": "web_search"}]}),
    (RESPONSES, {"tools": [{"type": "namespace", "tools": [{"type": "mcp", "server_url": ADDRESS}]}]}),
    (RESPONSES, {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}),
    (RESPONSES, {"tools": [{"type": "code_interpreter"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": ADDRESS}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": ADDRESS}]}]}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (CHAT, {"web_search_options": {}, "messages": []}),
    (CHAT, _user({"type": "image_url", "image_url": {"url": ADDRESS}})),
    (GEMINI, {"tools": [{"urlContext": {}}]}),
    (GEMINI, {"tools": [{"google_search": {}}]}),
    (GEMINI, {"tools": {"urlContext": {}}}),
    (GEMINI, {"contents": [{"parts": [{"fileData": {"fileUri": ADDRESS}}]}]}),
    (GEMINI, {"contents": {"parts": {"file_data": {"file_uri": ADDRESS}}}}),
    (GEMINI, {"systemInstruction": {"parts": {"fileData": {"fileUri": ADDRESS}}}}),
]


@pytest.mark.parametrize(("route", "body"), WAYS_OUT)
def test_the_provider_is_no_way_out(route: Route, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "m", **body}).encode()
    with pytest.raises(RequestRefusedError, match=r"gateway\.provider_tools") as refused:
        read_request(route, text)
    assert refused.value.status == 403
    assert read_request(route, text, provider_tools=True).body == text


ORDINARY = [
    (MESSAGES, {"tools": [{"name": "Bash", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]}),
    (MESSAGES, _user({"type": "tool_use", "name": "WebFetch", "input": {"type": "url", "url": ADDRESS}})),
    (MESSAGES, _user({"type": "text", "text": ADDRESS})),
    (RESPONSES, {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "apply_patch"}]}),
    (RESPONSES, {"input": "half of a pair: \ud83d"}),
    (RESPONSES, {"tools": [{"type": "web_search", "external_web_access": False}]}),
    (CHAT, _user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})),
    (GEMINI, {"tools": [{"functionDeclarations": [{"name": "urlContext"}]}]}),
    (GEMINI, {"contents": [{"parts": [{"functionResponse": {"response": {"fileUri": ADDRESS}}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"image_url": ADDRESS}}}]}]}),
]


@pytest.mark.parametrize(("route", "body"), ORDINARY)
def test_what_coding_agents_send_passes_unchanged(route: Route, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "m", **body}).encode()
    assert read_request(route, text).body == text


def test_the_longest_answer_and_the_input_are_estimated() -> None:
    def estimated(route: Route, **body: Any) -> tuple[int, int]:
        tokens = read_request(route, json.dumps({"model": "m", **body}).encode()).estimated
        return tokens.input, tokens.output

    assert estimated(MESSAGES, max_tokens=32_000)[1] == 32_000
    assert estimated(CHAT, max_completion_tokens=100, n=3)[1] == 300
    assert estimated(GEMINI, generationConfig={"maxOutputTokens": 7})[1] == 7
    assert estimated(GEMINI, generation_config={"max_output_tokens": 9, "candidate_count": 2})[1] == 18
    assert estimated(RESPONSES)[1] == 16_384
    assert 250 < estimated(RESPONSES, input="x" * 1_000)[0] < 270
    image = {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}
    assert estimated(MESSAGES, **_user({"type": "image", "source": image}))[0] < 2_100


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": 1}',
        b"{}",
        b'{"model": "m", "background": true}',
        b'{"model": "m", "tools": [], "tools": []}',
        b'{"model": "m", "tools": [], "t\\u006fols": []}',
        b'{"model": "m", "input": [{"type": "text", "type": "\\ud800"}]}',
        b'{"model": "m", "Model": "another"}',
        b'{"model": "m", "Tools": [{"type": "web_search"}]}',
        '{"model": "m", "tool\u017f": []}'.encode(),
        '{"model": "m"}'.encode("utf-16"),
        b'{"model": "m", "input": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_counted_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        read_request(RESPONSES, body)
    assert refused.value.status == 400
