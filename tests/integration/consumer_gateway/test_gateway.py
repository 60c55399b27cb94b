"""The gateway between a client and a provider, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.gateway.gateway_server import open_gateway
from coding_agent_consumer.gateway.upstream import Upstream, WorkloadIdentity
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.llm import Identity, Price, WireFormat
from coding_agent_core.task.usage import Allowance
from coding_agent_testbed.until import until_async

from tests.integration.consumer_gateway.provider import Play, Provider, Received, answer, provider, stream

ANTHROPIC, OPENAI, GOOGLE = WireFormat.ANTHROPIC, WireFormat.OPENAI, WireFormat.GOOGLE
KEY = "sk-real-0123456789"
_SECONDS = 60.0
DOLLAR = Allowance(amount=Decimal(1), currency="USD")
EURO = Allowance(amount=Decimal(1), currency="EUR")
PRICES = {
    "m": Price(input=Decimal(1), output=Decimal(10), cached_input=Decimal("0.1"), cache_write=Decimal(2))
}


def _sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e.get('type')}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


USED = {
    **{"input_tokens": 1000, "output_tokens": 1},
    **{"cache_read_input_tokens": 4000, "cache_creation_input_tokens": 500},
}
MESSAGES_STREAM = _sse(
    {"type": "message_start", "message": {"usage": USED}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "grüße"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
    {"type": "message_stop"},
)
CACHED = {"cached_tokens": 4000}
RESPONSES_USAGE = {"input_tokens": 5500, "input_tokens_details": CACHED, "output_tokens": 100}
CHAT_USAGE = {"prompt_tokens": 5500, "prompt_tokens_details": CACHED, "completion_tokens": 100}
GEMINI_USAGE = {"promptTokenCount": 5500, "cachedContentTokenCount": 4000, "candidatesTokenCount": 60}
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": GEMINI_USAGE | {"thoughtsTokenCount": 40},
}


@asynccontextmanager
async def _opened(
    wire: WireFormat, play: Play, allowance: Allowance | None = None, **options: Any
) -> AsyncIterator[tuple[Gateway, Provider, httpx2.AsyncClient]]:
    async with provider(play) as upstream:
        options.setdefault("prices", PRICES)
        base_url = upstream.base_url + ("/v1" if wire is OPENAI else "")
        opened = open_gateway([Upstream(wire, base_url, KEY)], allowance, **options)
        async with opened as gateway, _client_of(gateway) as client:
            yield gateway, upstream, client


def _client_of(gateway: Gateway, **headers: str) -> httpx2.AsyncClient:
    """A client with the credential, or other headers."""
    headers = headers or {"authorization": f"Bearer {gateway.credential}"}
    return httpx2.AsyncClient(base_url=gateway.url, headers=headers, trust_env=False, timeout=_SECONDS)


MESSAGES = ("/v1/messages?beta=true", {"model": "m", "max_tokens": 100, "messages": []})
RESPONSES = ("/v1/responses", {"model": "m", "max_output_tokens": 100, "input": "hi"})
CHAT = ("/v1/chat/completions", {"model": "m", "max_tokens": 100, "messages": []})
ASKED: dict[str, Any] = {"contents": [], "generationConfig": {"maxOutputTokens": 100}}
GENERATE = ("/v1beta/models/m:generateContent", ASKED)
STREAM_GENERATE = ("/v1beta/models/m:streamGenerateContent?alt=sse", ASKED)
CHAT_STREAM = (
    b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\ndata: '
    + json.dumps({"choices": [], "usage": CHAT_USAGE}).encode()
    + b"\n\ndata: [DONE]\n\n"
)
COMPLETED = _sse({"type": "response.completed", "response": {"usage": RESPONSES_USAGE}})
CASES: dict[str, tuple[WireFormat, tuple[str, dict[str, Any]], object, str]] = {
    "messages, stream": (ANTHROPIC, MESSAGES, MESSAGES_STREAM, "0.0034"),
    "messages": (ANTHROPIC, MESSAGES, {"type": "message", "usage": USED | {"output_tokens": 100}}, "0.0034"),
    "responses, stream": (OPENAI, RESPONSES, COMPLETED, "0.0029"),
    "responses": (OPENAI, RESPONSES, {"usage": RESPONSES_USAGE}, "0.0029"),
    "chat, stream": (OPENAI, CHAT, CHAT_STREAM, "0.0029"),
    "chat": (OPENAI, CHAT, {"usage": CHAT_USAGE}, "0.0029"),
    "gemini": (GOOGLE, GENERATE, GEMINI, "0.0029"),
    "gemini, stream": (GOOGLE, STREAM_GENERATE, f"data: {json.dumps(GEMINI)}\r\n\r\n".encode(), "0.0029"),
    "gemini, a list": (GOOGLE, ("/v1beta/models/m:streamGenerateContent", ASKED), [GEMINI] * 2, "0.0029"),
}


@pytest.mark.parametrize(("wire", "asked", "answered", "cost"), CASES.values(), ids=CASES)
async def test_an_answer_passes_byte_by_byte_and_is_counted(
    wire: WireFormat, asked: tuple[str, dict[str, Any]], answered: object, cost: str
) -> None:
    sent = answered if isinstance(answered, bytes) else json.dumps(answered).encode()
    parts = [sent[at : at + 7] for at in range(0, len(sent), 7)]
    play = stream(*parts) if sent is answered else answer(200, sent)
    async with _opened(wire, play) as (gateway, upstream, client):
        response = await client.post(asked[0], json=asked[1])
        assert (response.status_code, response.content) == (200, sent)
        await _counted(gateway, 1)
        assert (gateway.usage.input_tokens, gateway.usage.output_tokens) == (5500, 100)
        assert gateway.usage.cost is not None
        assert gateway.usage.cost.amount == cost
        assert list(gateway.models) == ["m"]
        [received] = upstream.requests
        assert received.line.split()[1].removeprefix("/v1") == asked[0].removeprefix("/v1")
        key = received.headers.get("x-api-key") or received.headers.get("x-goog-api-key")
        assert (key or received.headers["authorization"].removeprefix("Bearer ")) == KEY
        assert gateway.credential not in str(received)


async def _counted(gateway: Gateway, requests: int) -> None:
    """The last byte may come before the count."""
    await until_async(f"{requests} requests are counted", lambda: gateway.usage.requests >= requests)


async def test_only_the_credential_of_this_gateway_opens_it() -> None:
    async with (
        _opened(OPENAI, answer(200, b"{}")) as (gateway, upstream, _),
        open_gateway([]) as other,
        _client_of(gateway, accept="*/*") as client,
    ):
        for wrong in (other.credential, KEY, "", gateway.credential + "x", gateway.credential[:-1]):
            for header, value in (("authorization", f"Bearer {wrong}".strip()), ("x-api-key", wrong)):
                for method, path in (("POST", CHAT[0]), ("GET", "/v1/models"), ("POST", "/elsewhere")):
                    response = await client.request(method, path, headers={header: value})
                    assert response.status_code == 401, (wrong, path)
        assert upstream.requests == []
        right = gateway.credential
        for headers in (
            {"authorization": f"Bearer {right}"},
            {"x-api-key": right},
            {"x-goog-api-key": right},
        ):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_nothing_but_requests_for_a_model_goes_through() -> None:
    async with _opened(OPENAI, answer(200, b"{}")) as (_, upstream, client):
        for asked in (
            *("GET /", "GET /v1/files", "POST /v1/files", "POST /v1/batches", "POST /v1/embeddings"),
            *("GET /v1/responses/resp_1", "POST /v1/chat/completions/", "POST /v1/../v1/files"),
            *("GET /v1/models/..%2ffiles", "GET /v1/models/a/b", "PUT /v1/responses", "DELETE /v1/models/m"),
            *("POST /v1beta/models/../files:generateContent", "POST /v1beta/models/m:batchGenerateContent"),
            "POST /@evil.example.com/v1/chat/completions",
            "POST /v1%2fchat%2fcompletions%2f..%2ffiles",
            "POST /v1/chat/completions;@evil.example.com",
            "POST /v1beta/models/m@evil.example.com:generateContent",
            "POST /v1beta/models/m%2f..%2f..%2fx:generateContent",
        ):
            method, path = asked.split()
            response = await client.request(method, path, json={})
            assert response.status_code == 404, path
        assert upstream.requests == []
        assert (await client.head("/")).status_code == 200
        assert (await client.post(MESSAGES[0], json=MESSAGES[1])).status_code == 404, "no such provider"
        assert upstream.requests == []


async def test_counting_and_listing_are_free() -> None:
    allowance = Allowance(tokens=0)
    free = answer(200, b'{"input_tokens": 9}')
    async with _opened(ANTHROPIC, free, allowance) as (gateway, upstream, client):
        counted = await client.post("/v1/messages/count_tokens", json={"model": "m", "messages": []})
        assert counted.json() == {"input_tokens": 9}
        out = {"model": "m", "messages": [], "mcp_servers": [{"type": "url", "url": "https://evil.invalid"}]}
        refused = await client.post("/v1/messages/count_tokens", json=out)
        assert (refused.status_code, len(upstream.requests)) == (403, 1), "counting fetches what it counts"
        listed = await client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
        assert listed.status_code == 200
        assert (gateway.usage.requests, gateway.exhausted.is_set()) == (0, False)


@pytest.mark.parametrize(
    ("wire", "asked", "shape"),
    [
        (ANTHROPIC, MESSAGES, lambda body: body["error"]["type"] == "billing_error"),
        (OPENAI, CHAT, lambda body: body["error"]["code"] == "insufficient_quota"),
        (GOOGLE, GENERATE, lambda body: body["error"]["code"] == 402),
    ],
    ids=["anthropic", "openai", "google"],
)
async def test_the_request_past_the_allowance_is_answered_402(
    wire: WireFormat, asked: tuple[str, dict[str, Any]], shape: Any
) -> None:
    used = {"usage": USED, "type": "message"} if wire is ANTHROPIC else {"usage": CHAT_USAGE, **GEMINI}
    allowance = Allowance(amount=Decimal("0.001"), currency="USD")
    answers = answer(200, json.dumps(used).encode())
    async with _opened(wire, answers, allowance) as (gateway, upstream, client):
        assert (await client.post(asked[0], json=asked[1])).status_code == 200
        await _counted(gateway, 1)
        assert not gateway.exhausted.is_set()
        refused = await client.post(asked[0], json=asked[1])
        assert refused.status_code == 402
        assert shape(refused.json()), refused.text
        assert refused.headers["x-should-retry"] == "false"
        assert gateway.exhausted.is_set()
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("allowance", "body", "said"),
    [
        (DOLLAR, {"model": "unheard-of"}, "llm.prices"),
        (EURO, {}, "llm.prices"),
        (DOLLAR, {"service_tier": "priority"}, "`service_tier`"),
        (DOLLAR, {"models": ["m", "unheard-of"]}, "unheard-of"),
        (DOLLAR, {"fallbacks": [{"model": "unheard-of"}]}, "unheard-of"),
    ],
)
async def test_what_has_no_known_price_is_refused_where_money_is_counted(
    allowance: Allowance, body: dict[str, Any], said: str
) -> None:
    async with _opened(OPENAI, answer(200, b"{}"), allowance) as (_, upstream, client):
        refused = await client.post(CHAT[0], json=CHAT[1] | body)
        assert (refused.status_code, upstream.requests) == (403, [])
        assert said in refused.json()["error"]["message"]
    async with _opened(OPENAI, answer(200, b"{}"), Allowance(tokens=9999)) as (_, upstream, client):
        assert (await client.post(CHAT[0], json=CHAT[1] | body)).status_code == 200


async def test_a_client_that_goes_away_is_counted_all_the_same() -> None:
    gone = asyncio.Event()

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + MESSAGES_STREAM[:80])
        await writer.drain()
        await gone.wait()
        writer.write(MESSAGES_STREAM[80:])
        await writer.drain()

    async with _opened(ANTHROPIC, play) as (gateway, _, client):
        async with client.stream("POST", MESSAGES[0], json=MESSAGES[1]) as response:
            await anext(response.aiter_raw())
        gone.set()
        await _counted(gateway, 1)
        assert (gateway.usage.input_tokens, gateway.usage.output_tokens) == (5500, 100)


async def test_an_answer_that_breaks_off_is_cut_off_and_counted_by_what_came() -> None:
    start = _sse({"type": "message_start", "message": {"usage": USED}})
    text = _sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 300}})
    async with _opened(ANTHROPIC, stream(start, text, cut=True)) as (gateway, _, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(MESSAGES[0], json=MESSAGES[1])
        await _counted(gateway, 1)
        assert (gateway.usage.input_tokens, gateway.usage.output_tokens) == (5500, 100)


async def test_a_stream_that_breaks_off_before_its_first_text_does_not_use_up_the_allowance() -> None:
    start = _sse({"type": "message_start", "message": {"usage": USED}})
    body = {name: value for name, value in MESSAGES[1].items() if name != "max_tokens"} | {"model": "own"}
    unknown = stream(start, cut=True), Allowance(tokens=20_000)
    async with _opened(ANTHROPIC, *unknown, models=["own"]) as (gateway, _, client):
        for sent in (1, 2):
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.post(MESSAGES[0], json=body)
            await _counted(gateway, sent)
            assert gateway.usage.input_tokens == sent * 5500
        assert not gateway.exhausted.is_set()


async def test_closing_the_gateway_counts_what_is_under_way() -> None:
    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(_sse({"type": "message_start", "message": {"usage": USED}}))
        await writer.drain()
        await asyncio.Event().wait()

    async with provider(play) as upstream:
        async with (
            open_gateway([Upstream(ANTHROPIC, upstream.base_url, KEY)]) as gateway,
            _client_of(gateway) as client,
            client.stream("POST", MESSAGES[0], json=MESSAGES[1]) as response,
        ):
            await anext(response.aiter_raw())
        assert gateway.usage.input_tokens == 5500


async def test_chat_streams_are_asked_for_their_usage() -> None:
    async with _opened(OPENAI, answer(200, b"{}")) as (_, upstream, client):
        await client.post(CHAT[0], json={**CHAT[1], "stream": True, "stream_options": {"other": 1}})
        body = json.loads(upstream.requests[0].body)
        assert body["stream_options"] == {"other": 1, "include_usage": True}
        raw = b'{"model": "m",  "messages": [], "stream": true, "stream_options": {"include_usage": true}}'
        await client.post(CHAT[0], content=raw)
        assert upstream.requests[1].body == raw, "nothing to change"


async def test_another_provider_answers_for_one_that_cannot() -> None:
    ok = answer(200, json.dumps({"usage": CHAT_USAGE}).encode())
    dead = "http://127.0.0.1:1/v1"
    async with provider(answer(429, b"{}")) as busy, provider(ok) as good:
        upstreams = [
            Upstream(OPENAI, url, KEY) for url in (dead, f"{busy.base_url}/v1", f"{good.base_url}/v1", dead)
        ]
        async with open_gateway(upstreams) as gateway, _client_of(gateway) as client:
            assert (await client.post(CHAT[0], json=CHAT[1])).status_code == 200
            assert (len(busy.requests), len(good.requests)) == (1, 1)
        async with open_gateway(upstreams[:2]) as gateway, _client_of(gateway) as client:
            assert (await client.post(CHAT[0], json=CHAT[1])).status_code == 429, "as it says"
        async with open_gateway(upstreams[:1]) as gateway, _client_of(gateway) as client:
            refused = await client.post(CHAT[0], json=CHAT[1])
            assert (refused.status_code, "x-should-retry" in refused.headers) == (502, False)
            assert gateway.usage.requests == 0


async def test_the_wait_that_a_provider_asks_for_is_known_until_it_answers_again() -> None:
    limited, ok = answer(429, b"{}", extra="Retry-After: 900\r\n"), answer(200, b"{}")
    async with provider(limited) as busy, provider(ok) as good:
        async with _opened(OPENAI, limited) as (gateway, _, client):
            assert gateway.asked is None
            await client.post(CHAT[0], json=CHAT[1])
            assert gateway.asked == 900
        upstreams = [Upstream(OPENAI, f"{one.base_url}/v1", KEY) for one in (busy, good)]
        async with open_gateway(upstreams) as gateway, _client_of(gateway) as client:
            assert (await client.post(CHAT[0], json=CHAT[1])).status_code == 200
            assert gateway.asked is None


async def test_a_cloud_gets_a_token_of_the_workload_identity_and_no_client_sees_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("subject")
    token = "token-of-the-cloud"
    given: dict[str, Any] = {
        "cloud": "azure",
        "tenant_id": "t",
        "client_id": "c",
    }
    gives = answer(200, json.dumps({"access_token": token, "expires_in": 3600}).encode())
    async with provider(gives) as cloud, provider(answer(400, f"bad {token}".encode())) as model:

        def upstream(endpoint: str) -> Upstream:
            identity = WorkloadIdentity(Identity(**given, endpoint=endpoint), token_file=tmp_path / "token")
            return Upstream(OPENAI, f"{model.base_url}/openai/v1", identity=identity)

        async with open_gateway([upstream(cloud.base_url)]) as gateway, _client_of(gateway) as client:
            for _ in range(2):
                said = await client.post(CHAT[0], json=CHAT[1])
                assert (said.status_code, said.text) == (400, "bad [key]")
        assert [one.headers["authorization"] for one in model.requests] == [f"Bearer {token}"] * 2
        assert model.requests[0].line == "POST /openai/v1/chat/completions HTTP/1.1"
        assert len(cloud.requests) == 1, "the second request uses the same token"
        async with open_gateway([upstream("http://127.0.0.1:1")]) as gateway, _client_of(gateway) as client:
            said = await client.post(CHAT[0], json=CHAT[1])
            assert (said.status_code, "There is no token for the provider" in said.text) == (502, True)


async def test_the_key_comes_back_in_no_error() -> None:
    said = f'{{"error": "Incorrect API key: {KEY}"}}'.encode()
    play = answer(401, said, extra=f"WWW-Authenticate: {KEY}\r\n")
    async with _opened(OPENAI, play) as (gateway, _, client):
        response = await client.post(CHAT[0], json=CHAT[1])
        assert response.status_code == 401
        assert KEY not in response.text + str(response.headers.raw)
        assert gateway.usage.requests == 0


async def test_the_requests_of_an_attempt_are_one_trace_with_a_span_each() -> None:
    begun = f"00-{'c' * 32}-{'d' * 16}-00"
    async with _opened(OPENAI, answer(200, b"{}")) as (gateway, upstream, client):
        for headers in ({}, {}, {"traceparent": begun}):
            response = await client.post(CHAT[0], json=CHAT[1], headers=headers)
            assert response.status_code == 200
            assert "traceparent" not in response.headers
        traces = [one.headers["traceparent"].split("-") for one in upstream.requests]
        assert [trace for _, trace, _, _ in traces] == [gateway.trace, gateway.trace, "c" * 32]
        assert len({span for _, _, span, _ in traces} | {"d" * 16}) == 4


async def test_headers_of_a_connection_stay_on_it() -> None:
    extra = "Connection: X-Private\r\nX-Private: 1\r\nX-Request-Id: r1\r\nSet-Cookie: a=b\r\n"
    async with _opened(OPENAI, answer(200, b"{}", extra=extra)) as (_, upstream, client):
        headers: dict[str, Any] = {
            **{"Connection": "X-Hop", "X-Hop": "1", "Cookie": "a=b", "Proxy-Authorization": "x"},
            **{"X-App": "cli", "Originator": "grüße".encode(), "X-Unknown": "1"},
        }
        response = await client.post(CHAT[0] + "?key=abc&beta=true", json=CHAT[1], headers=headers)
        assert response.headers["x-request-id"] == "r1"
        assert {"x-private", "set-cookie"}.isdisjoint(response.headers)
        [received] = upstream.requests
        assert received.headers["x-app"] == "cli"
        assert received.headers["originator"].encode("latin-1") == "grüße".encode()
        assert {"x-hop", "cookie", "proxy-authorization", "x-unknown"}.isdisjoint(received.headers)
        assert received.headers["content-type"] == "application/json"
        assert received.headers["accept-encoding"] == "identity"
        assert received.line.split()[1] == "/v1/chat/completions?beta=true"


async def test_requests_have_bounds() -> None:
    async with _opened(OPENAI, answer(200, b"{}"), models=("m", "gpt-*")) as (_, upstream, client):
        too_large = await client.post(CHAT[0], content=b" " * (32 * 1024 * 1024 + 1))
        assert too_large.status_code == 413
        head = await client.get("/v1/models", headers={"x-long": "a" * 70_000})
        assert head.status_code in (400, 431)
        assert (await client.post(CHAT[0], content=b"[]")).status_code == 400
        zipped = await client.post(CHAT[0], content=b"x", headers={"content-encoding": "gzip"})
        assert zipped.status_code == 400
        assert (await client.post(CHAT[0], json={**CHAT[1], "model": "opus"})).status_code == 403
        assert upstream.requests == []
        assert (await client.post(CHAT[0], json={**CHAT[1], "model": "gpt-5"})).status_code == 200


_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
_INLINE = {"inlineData": {"mimeType": "image/png", "data": "A"}}
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
_FILE = {"type": "x", "file_id": "f"}
UNSIZED: dict[str, tuple[WireFormat, str, dict[str, Any]]] = {
    "a stored answer": (OPENAI, RESPONSES[0], RESPONSES[1] | {"previous_response_id": "resp_1"}),
    "no limit": (OPENAI, RESPONSES[0], {"model": "m", "input": "hi"}),
    "a picture": (OPENAI, CHAT[0], CHAT[1] | {"messages": [{"role": "user", "content": [_PICTURE]}]}),
    "a conversation": (OPENAI, RESPONSES[0], RESPONSES[1] | {"conversation": "conv_1"}),
    "an item": (OPENAI, RESPONSES[0], RESPONSES[1] | {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    "an unknown key": (OPENAI, CHAT[0], CHAT[1] | {"a_key_of_tomorrow": "x"}),
    "an image": (ANTHROPIC, MESSAGES[0], MESSAGES[1] | {"messages": [{"role": "user", "content": [_IMAGE]}]}),
    "a file": (ANTHROPIC, MESSAGES[0], MESSAGES[1] | {"messages": [{"role": "user", "content": [_FILE]}]}),
    "a compaction": (ANTHROPIC, MESSAGES[0], MESSAGES[1] | {"compaction": {"type": "auto"}}),
    "an edit of the context": (
        *(ANTHROPIC, MESSAGES[0]),
        MESSAGES[1] | {"context_management": {"edits": [{"type": "compact_20260112"}]}},
    ),
    "no limit, Gemini": (GOOGLE, GENERATE[0], {"contents": []}),
    "inline data": (GOOGLE, GENERATE[0], ASKED | {"contents": [{"parts": [_INLINE]}]}),
}
MUCH = 500_000


@pytest.mark.parametrize(("wire", "path", "body"), UNSIZED.values(), ids=UNSIZED)
async def test_60_requests_of_unknown_size_exceed_the_allowance_by_one_answer_at_most(
    wire: WireFormat, path: str, body: dict[str, Any]
) -> None:
    used = {
        **{"type": "message", "candidates": [{"finishReason": "STOP"}]},
        "usage": {"input_tokens": MUCH - 10, "output_tokens": 10},
        "usageMetadata": {"promptTokenCount": MUCH - 10, "candidatesTokenCount": 10},
    }
    play, allowance = answer(200, json.dumps(used).encode()), Allowance(tokens=2 * MUCH + 9_999)
    async with _opened(wire, play, allowance) as (gateway, upstream, client):
        answers = await asyncio.gather(*(client.post(path, json=body) for _ in range(60)))
        statuses = [one.status_code for one in answers]
        assert (statuses.count(200), statuses.count(402)) == (3, 57), "two fit, the third was under way"
        assert len(upstream.requests) == 3
        assert gateway.usage.input_tokens + gateway.usage.output_tokens == 3 * MUCH
        assert f"has spent {3 * MUCH:,} tokens" in next(one.text for one in answers if one.status_code == 402)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"])
async def test_a_provider_that_falls_silent_can_charge_for_it(start: bytes) -> None:
    over = asyncio.Event()

    async def play(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        await over.wait()

    silence = {"timeout": 1.0}  # meant to expire
    async with _opened(OPENAI, play, Allowance(tokens=5_000), **silence) as (gateway, _, client):
        try:
            assert (await client.post(CHAT[0], json=CHAT[1])).status_code == 504
        except httpx2.RemoteProtocolError:
            assert start
        await _counted(gateway, 1)
        over.set()
        assert gateway.usage.input_tokens + gateway.usage.output_tokens > 4_000


async def test_a_client_that_goes_away_while_it_waits_is_not_served() -> None:
    end = asyncio.Event()

    async def play(received: Received, writer: asyncio.StreamWriter) -> None:
        await end.wait()
        await answer(200, b'{"usage": {"prompt_tokens": 5, "completion_tokens": 5}}')(received, writer)

    body = {**CHAT[1], "a_key_of_tomorrow": "x"}
    async with _opened(OPENAI, play, Allowance(tokens=9_999)) as (gateway, upstream, client):
        first = asyncio.create_task(client.post(CHAT[0], json=body))
        await until_async("the provider is asked", lambda: upstream.requests)
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(CHAT[0], json=body, timeout=httpx2.Timeout(_SECONDS, read=0.3))
        assert (await client.head("/")).status_code == 200, "by now it has seen that the client is gone"
        end.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT[0], json=body)).status_code == 200
        await _counted(gateway, 2)
        assert len(upstream.requests) == 2


async def test_it_listens_on_the_address_that_it_is_given_and_nowhere_else() -> None:
    async with open_gateway([], host="127.0.0.2") as gateway:
        assert gateway.url.startswith("http://127.0.0.2:")
        port = int(gateway.url.rpartition(":")[2])
        async with httpx2.AsyncClient(trust_env=False, timeout=_SECONDS) as client:
            assert (await client.get(f"{gateway.url}/v1/models")).status_code == 401
            with pytest.raises(httpx2.ConnectError):
                await client.get(f"http://127.0.0.3:{port}/v1/models")  # no other test listens there
    with pytest.raises(SettingsError, match=r"gateway\.host: cannot listen on nowhere\.invalid"):
        async with open_gateway([], host="nowhere.invalid"):
            pass


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_providers_are_asked_through_the_proxy_of_the_environment(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider(answer(407, b"")) as proxy:
        address = proxy.base_url.replace("http://", "http://job.agent:secret@")
        monkeypatch.setenv(f"{scheme}_proxy", address)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with _opened(OPENAI, answer(200, b"{}")) as (_, direct, client):
            assert (await client.get("/v1/models")).status_code == 200
            assert len(direct.requests) == 1
        upstream = Upstream(OPENAI, f"{scheme}://models.example.com/v1", KEY)
        async with open_gateway([upstream]) as gateway, _client_of(gateway) as client:
            response = await client.get("/v1/models")
            assert response.status_code in (407, 502)
            assert "secret" not in response.text
    [received] = proxy.requests
    expected = "GET http://models.example.com/v1/models" if scheme == "http" else "CONNECT models.example.com"
    assert received.line.startswith(expected)
    assert received.headers["proxy-authorization"] == "Basic am9iLmFnZW50OnNlY3JldA=="
    assert ("authorization" in received.headers) is (scheme == "http"), "the key is for the provider"
