"""What an answer used, read from its bytes in whichever pieces they come."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
from anthropic.types.beta import BetaMessageDeltaUsage, BetaUsage
from coding_agent_consumer.gateway import meter as module
from coding_agent_consumer.gateway.ledger import Tokens
from coding_agent_consumer.gateway.meter import Ending, Meter, usage_in
from coding_agent_consumer.gateway.wire_formats import Operation
from google.genai.types import GenerateContentResponseUsageMetadata
from openai.types import CompletionUsage
from openai.types.responses import ResponseUsage

TEXT = {"choices": [{"delta": {"content": "x" * 300}}], "usage": None}
LAST = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 90}}


def _counted(events: list[dict[str, Any]], separators: tuple[str, str], size: int) -> Tokens:
    meter = Meter(Operation.CHAT_COMPLETIONS, "text/event-stream", "")
    data = "".join(f"data: {json.dumps(event, separators=separators)}\n\n" for event in events).encode()
    for at in range(0, len(data), size):
        meter.feed(data[at : at + size])
    return meter.end(Ending.BROKEN, estimated_input=50)[0]


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["spaced", "compact"])
@pytest.mark.parametrize("size", [7, 10_000_000])
def test_the_usage_is_what_the_answer_says_or_else_its_text(separators: tuple[str, str], size: int) -> None:
    about = {"choices": [{"delta": {"content": '"usage": {"completion_tokens": 1}'}}]}
    assert _counted([TEXT, about, LAST], separators, size) == Tokens(7, 90)
    assert _counted([TEXT, TEXT], separators, size) == Tokens(50, 200)


def test_a_long_answer_is_not_held_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(Meter, "_read", lambda self, text: read.append(text))
    monkeypatch.setattr(module, "_HELD_LIMIT", 2_000)
    meter = Meter(Operation.CHAT_COMPLETIONS, "text/event-stream", "")
    line = b"data: " + json.dumps(TEXT).encode() + b"\n\n"
    for _ in range(4):
        meter.feed(line)
    assert read == [], "nobody needs it yet"
    for _ in range(4):
        meter.feed(line)
    assert len(read) >= 6


ITERATION = {
    **{"input_tokens": 1, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 300},
    **{"output_tokens": 4_000},
}
CHAT = {
    **{"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 7, "cache_write_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 8},
}
RESPONSES = {
    **{"input_tokens": 100, "output_tokens": 50, "total_tokens": 150},
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 40},
}
GEMINI = {
    **{"promptTokenCount": 100, "toolUsePromptTokenCount": 11, "cachedContentTokenCount": 30},
    **{"candidatesTokenCount": 50, "thoughtsTokenCount": 40, "totalTokenCount": 201},
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 93}, {"modality": "AUDIO", "tokenCount": 7}],
    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
    "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
    "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}],
    "serviceTier": "SERVICE_TIER_FLEX",
}
FAST = {"input_tokens": 5, "speed": "fast", "service_tier": "standard"}
TOTAL_ALONE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 415}
MESSAGES: list[tuple[dict[str, Any], Tokens]] = [
    ({}, Tokens(321, 4_000, 20, 300)),
    ({"cache_creation": {"ephemeral_5m_input_tokens": 100}}, Tokens(321, 4_000, 20, 300)),
    ({"cache_creation": {"ephemeral_1h_input_tokens": 200}}, Tokens(321, 4_000, 20, 300, 200)),
    # The compaction is in the iterations alone.
    (
        {"iterations": [{**ITERATION, "type": kind} for kind in ("message", "compaction")]},
        Tokens(642, 8_000, 40, 600),
    ),
    (
        {"iterations": [{**ITERATION, "type": "advisor_message", "model": "b"}] * 2},
        Tokens(642, 8_000, 40, 600),
    ),
    ({"iterations": None}, Tokens(321, 4_000, 20, 300)),
]
DOCUMENTED: list[tuple[Operation, dict[str, Any], Tokens]] = [
    *((Operation.MESSAGES, {"usage": {**ITERATION, **more}}, tokens) for more, tokens in MESSAGES),
    (Operation.MESSAGES, {"message": {"usage": FAST}}, Tokens(5, mode="fast")),
    (
        *(Operation.CHAT_COMPLETIONS, {"usage": CHAT, "service_tier": "priority"}),
        Tokens(100, 50, 30, 5, input_audio=7, output_audio=8, mode="priority"),
    ),
    (Operation.CHAT_COMPLETIONS, {"usage": TOTAL_ALONE}, Tokens(10, 405)),  # xAI's thoughts
    (
        *(Operation.RESPONSES, {"response": {"usage": RESPONSES, "service_tier": "default"}}),
        Tokens(100, 50, 30, 5),
    ),
    (
        *(Operation.GENERATE_CONTENT, {"usageMetadata": GEMINI}),
        Tokens(111, 90, 30, input_audio=9, cache_audio=3, output_audio=8, mode="flex"),
    ),
    (
        *(Operation.GENERATE_CONTENT, {"usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 150}}),
        Tokens(100, 50),
    ),
]


@pytest.mark.parametrize(("operation", "event", "expected"), DOCUMENTED)
def test_each_documented_field_is_counted(
    operation: Operation, event: dict[str, Any], expected: Tokens
) -> None:
    assert usage_in(operation, event) == expected


def test_candidates_that_are_no_list_are_not_read() -> None:
    meter = Meter(Operation.GENERATE_CONTENT, JSON, "")
    meter.feed(b'{"candidates": 5, "usageMetadata": {"promptTokenCount": 100}}')
    assert meter.end(Ending.WHOLE, estimated_input=50) == (Tokens(100), False)


def _fields(model: type[pydantic.BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        waiting: list[Any] = [field.annotation]
        while waiting:
            kind = waiting.pop()
            waiting.extend(get_args(kind))
            if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                yield from _fields(kind)


@pytest.mark.parametrize(
    "model",
    [
        *(BetaUsage, BetaMessageDeltaUsage, CompletionUsage, ResponseUsage),
        GenerateContentResponseUsageMetadata,
    ],
)
def test_the_documents_list_each_field_that_a_vendor_documents(model: type[pydantic.BaseModel]) -> None:
    """A new release of a vendor's library can add one: decide what is counted of it."""
    page = (Path(__file__).parents[3] / "docs/gateway.md").read_text()
    listed = set(re.findall(r"`([A-Za-z_0-9]+)`", page[page.index("## What it counts") :]))
    assert set(_fields(model)) - listed == set()


ANSWER = json.dumps(LAST).encode()
HALF = len(ANSWER) // 2
TWO_MEMBERS = gzip.compress(ANSWER[:9]) + gzip.compress(ANSWER[9:])
LONG = b" " * 1_500 + ANSWER
KNOWN = (Tokens(7, 90), True)
UNKNOWN = (Tokens(50), False)
JSON, SSE = "application/json", "text/event-stream"
CUT_TEXT, HALF_TEXT = b'data: {"text": "xyz"}\n\n', 'data: {"text": "漢字"}\n\n'.encode()
START = b'data: {"usage": {"prompt_tokens": 7}}\n\n'
ENDINGS: list[tuple[str, str, bytes, Ending, tuple[Tokens, bool]]] = [
    (JSON, "", ANSWER, Ending.WHOLE, KNOWN),
    (JSON, "", ANSWER[:HALF], Ending.BROKEN, UNKNOWN),
    (JSON, "", ANSWER[:HALF], Ending.WHOLE, UNKNOWN),
    (JSON, "", b"", Ending.SILENT, UNKNOWN),
    (JSON, "", b"{}", Ending.WHOLE, UNKNOWN),
    (JSON, "", b'{"usage": {}}', Ending.WHOLE, UNKNOWN),
    (JSON, "", b'{"usage": {"prompt_tokens": 7}}', Ending.WHOLE, (Tokens(7), False)),
    (JSON, "", b'{"usage": {"completion_tokens": 7}}', Ending.WHOLE, (Tokens(50, 7), False)),
    (JSON, "", b"[" * 100_000, Ending.WHOLE, UNKNOWN),
    ("application/x-protobuf", "", b"\x0a\x05hello", Ending.WHOLE, UNKNOWN),
    (JSON, "br", b"\x1b\x00", Ending.WHOLE, UNKNOWN),
    (JSON, "zstd", b"(\xb5/\xfd", Ending.WHOLE, UNKNOWN),
    (JSON, "gzip, gzip", ANSWER, Ending.WHOLE, UNKNOWN),
    (JSON, "gzip", ANSWER, Ending.WHOLE, UNKNOWN),
    (JSON, "gzip", gzip.compress(ANSWER), Ending.WHOLE, KNOWN),
    (JSON, "GZIP", TWO_MEMBERS, Ending.WHOLE, KNOWN),
    (JSON, "gzip", gzip.compress(ANSWER)[:-20], Ending.WHOLE, UNKNOWN),
    (JSON, "deflate", zlib.compress(ANSWER), Ending.WHOLE, KNOWN),
    (JSON, "", LONG, Ending.WHOLE, UNKNOWN),
    (JSON, "gzip", gzip.compress(LONG), Ending.WHOLE, UNKNOWN),
    (SSE, "", b"data: " + ANSWER + b"\n\n", Ending.SILENT, KNOWN),
    (SSE, "", b"data: " + ANSWER + b"\r\r", Ending.WHOLE, KNOWN),
    (SSE, "", b"", Ending.BROKEN, (Tokens(50), True)),
    (SSE, "", b": ping\n\ndata: {}\n\n", Ending.BROKEN, (Tokens(50), True)),
    (SSE, "", START, Ending.BROKEN, (Tokens(7), True)),
    (SSE, "", START, Ending.WHOLE, (Tokens(7), False)),
    (SSE, "", START, Ending.SILENT, (Tokens(7), False)),
    (SSE, "br", b"\x1b\x00", Ending.BROKEN, UNKNOWN),
    (SSE, "", b"data: {}\n\n", Ending.CLOSED, (Tokens(50), True)),
    (SSE, "", CUT_TEXT, Ending.BROKEN, (Tokens(50, 1), True)),
    (SSE, "", CUT_TEXT, Ending.WHOLE, (Tokens(50, 1), False)),
    (SSE, "", CUT_TEXT, Ending.SILENT, (Tokens(50, 1), False)),
    (SSE, "", b'data: {"type": "error"}\n\n', Ending.WHOLE, (Tokens(50), True)),
    (SSE, "", HALF_TEXT, Ending.BROKEN, (Tokens(50, 2), True)),
    (SSE, "gzip", gzip.compress(b": ping\n" * 2_000 + b"data: " + ANSWER), Ending.WHOLE, UNKNOWN),
]


@pytest.mark.parametrize(("kind", "encoding", "sent", "ending", "expected"), ENDINGS, ids=range(len(ENDINGS)))
def test_only_what_can_be_read_is_known(
    kind: str,
    encoding: str,
    sent: bytes,
    ending: Ending,
    expected: tuple[Tokens, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ANSWER_LIMIT", 1_000)
    monkeypatch.setattr(module, "_DECOMPRESSED_LIMIT", 10_000)
    monkeypatch.setattr(module, "_PIECE", 7)
    meter = Meter(Operation.CHAT_COMPLETIONS, kind, encoding)
    meter.feed(sent)
    assert meter.end(ending, estimated_input=50) == expected
