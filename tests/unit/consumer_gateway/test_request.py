"""What may be asked of a provider by whoever holds the dummy credential."""

from __future__ import annotations

import json
from typing import Any

import pytest
from coding_agent_consumer.gateway.request import RequestRefusedError, read_request, sent_headers
from coding_agent_consumer.gateway.wire import Operation, Route, WireFormat

MESSAGES = Route(WireFormat.ANTHROPIC, Operation.MESSAGES, "/v1/messages")
RESPONSES = Route(WireFormat.OPENAI, Operation.RESPONSES, "/responses")
CHAT = Route(WireFormat.OPENAI, Operation.CHAT_COMPLETIONS, "/chat/completions")
GEMINI = Route(WireFormat.GOOGLE, Operation.GENERATE_CONTENT, "/v1beta/models/m:generateContent", "m")
MESSAGES_COUNT = Route(WireFormat.ANTHROPIC, Operation.COUNT, "/v1/messages/count_tokens")
RESPONSES_COUNT = Route(WireFormat.OPENAI, Operation.COUNT, "/responses/input_tokens")
GEMINI_COUNT = Route(WireFormat.GOOGLE, Operation.COUNT, "/v1beta/models/m:countTokens", "m")
ADDRESS = "https://evil.example.com/?the=secret"
MCP = {"type": "mcp_toolset", "mcp_server_name": "evil"}


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
    (GEMINI, {"systemInstruction": {"parts": [{"fileData": {"fileUri": ADDRESS}}]}}),
    (GEMINI, {"contents": [{"parts": [{"response": {"fileData": {"fileUri": ADDRESS}}}]}]}),
    (GEMINI, {"generationOutputConfig": {"outputUriPrefix": "gs://evil/"}}),
    (GEMINI, {"generationConfig": {"generation_output_config": {"output_uri_prefix": "gs://evil/"}}}),
    (GEMINI, {"cachedContent": "cachedContents/1"}),
    (
        GEMINI_COUNT,
        {"generateContentRequest": {"contents": [{"parts": [{"fileData": {"fileUri": ADDRESS}}]}]}},
    ),
    (GEMINI_COUNT, {"generateContentRequest": {"tools": [{"urlContext": {}}]}}),
    (MESSAGES, _user({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": MCP}})),
    (MESSAGES_COUNT, {"mcp_servers": [{"type": "url", "url": ADDRESS}]}),
    (MESSAGES_COUNT, _user({"type": "document", "source": {"type": "url", "url": ADDRESS}})),
    (RESPONSES, {"input": [{"type": "additional_tools", "tools": [{"type": "mcp", "server_url": ADDRESS}]}]}),
    (RESPONSES, {"input": [{"type": "tool_search_output", "tools": [{"type": "mcp", "tunnel_id": "t"}]}]}),
    (
        RESPONSES_COUNT,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": ADDRESS}]}]},
    ),
    (CHAT, _user({"type": "video_url", "video_url": {"url": ADDRESS}})),
    (CHAT, _user({"audio_url": ADDRESS})),
    (CHAT, _user({"type": "document_url", "document_url": ADDRESS})),
    (CHAT, _user({"type": "file", "file": {"filename": "a.pdf", "file_data": ADDRESS}})),
    (CHAT, {"data_sources": [{"type": "elasticsearch", "parameters": {"endpoint": ADDRESS}}]}),
    (CHAT, {"search_parameters": {"sources": [{"type": "rss", "links": [ADDRESS]}]}}),
    (CHAT, {"extra_body": {"tools": [{"type": "web_search"}]}}),
    (CHAT, {"api_base": ADDRESS}),
    (CHAT, {"model": "gpt-4o-search-preview"}),
    (CHAT, {"model": "vendor/model:online"}),
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
    (GEMINI, {"systemInstruction": {"parts": [{"text": ADDRESS}]}, "labels": {"repo_url": ADDRESS}}),
    (GEMINI, {"generationConfig": {"responseSchema": {"properties": {"image_url": {"type": "string"}}}}}),
    (CHAT, _user({"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0x"}})),
    (RESPONSES, {"input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "f"}]}]}),
    (RESPONSES, {"input": [{"type": "web_search_call", "action": {"type": "open_page", "url": ADDRESS}}]}),
    (MESSAGES, {"output_config": {"format": {"schema": {"$schema": ADDRESS}}}, "metadata": {"url": ADDRESS}}),
    (MESSAGES_COUNT, _user({"type": "text", "text": ADDRESS})),
]


@pytest.mark.parametrize(("route", "body"), ORDINARY)
def test_what_coding_agents_send_passes_unchanged(route: Route, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "m", **body}).encode()
    assert read_request(route, text).body == text


def test_every_model_that_may_answer_must_be_allowed() -> None:
    def status(route: Route, **body: Any) -> int:
        try:
            read_request(route, json.dumps({"model": "m", **body}).encode(), models=["m", "n-*"])
        except RequestRefusedError as refused:
            return refused.status
        return 200

    assert status(MESSAGES, fallbacks=[{"model": "n-1"}]) == 200
    assert status(MESSAGES, fallbacks=[{"model": "n-1"}, {"model": "large"}]) == 403
    assert status(MESSAGES, fallbacks="default") == 403, "the provider chooses"
    assert status(CHAT, models=["m", "large"]) == 403
    assert status(MESSAGES_COUNT, model="large") == 403


def test_headers_that_name_another_destination_stay_here() -> None:
    sent = sent_headers(
        {
            **dict.fromkeys(("x-forwarded-host", "x-original-url", "x-portkey-custom-host"), "evil"),
            **dict.fromkeys(("x-http-method-override", "helicone-target-url", "x-base-uri"), "evil"),
            **{"anthropic-beta": "b", "x-stainless-os": "Linux", "originator": "codex_exec"},
        }
    )
    assert list(sent) == ["anthropic-beta", "x-stainless-os", "originator"]


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
